//! Compaction and vacuum against other writers, and stores that misbehave.
