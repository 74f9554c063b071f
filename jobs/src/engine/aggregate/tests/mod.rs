//! Aggregates end to end.

mod first;
