//! The project's files: what a user writes, read, judged and turned into [`settings::Settings`].

pub mod contract;
pub mod settings;
