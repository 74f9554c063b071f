//! BACKFILL: the past, once more: rows that never were in a topic.

pub mod files;
