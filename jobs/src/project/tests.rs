//! Whole projects: every rule by a bad one, and what a good one becomes.
