//! `produce`: send events to a topic.
