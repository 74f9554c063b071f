//! Names, sizes and periods as people type them, and the tables that the names mean.

use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Lake, Table, TableName};
use crate::project::units;
use std::time::Duration;

/// `raw.events`.
///
/// # Errors
/// What is wrong with it, for the command line.
pub fn parse_name(text: &str) -> Result<TableName, String> {
    let is_plain = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        !part.is_empty() && part.chars().all(plain)
    };
    match text.split_once('.') {
        Some((layer, name)) if is_plain(layer) && is_plain(name) => Ok(TableName::new(layer, name)),
        _ => Err(format!("`{text}` is no table: write `<layer>.<name>`, such as `raw.events`")),
    }
}

/// `128MiB`, in bytes.
///
/// # Errors
/// What is wrong with it, for the command line.
pub fn parse_size(text: &str) -> Result<u64, String> {
    units::size(text).filter(|bytes| *bytes > 0).ok_or_else(|| format!("`{text}` is no size: {}", units::SIZE_HINT))
}

/// `7d`.
///
/// # Errors
/// What is wrong with it, for the command line.
pub fn parse_period(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| format!("`{text}` is no duration: {}", units::DURATION_HINT))
}

/// Opens the newest version of a table that has to be there.
///
/// # Errors
/// [`Class::User`] naming the tables of the lake if it is not there; it cannot be read.
pub(super) async fn open(lake: &Lake, name: &TableName) -> Result<Table> {
    if let Some(table) = lake.open_table(name).await? {
        return Ok(table);
    }
    let known: Vec<String> = lake.list_tables().await?.iter().map(|name| format!("`{name}`")).collect();
    let missing = Error::new(Stage::Upkeep, Class::User, format!("there is no table `{name}`"));
    Err(missing.hint(format!("the lake has {}", if known.is_empty() { "none yet".into() } else { known.join(", ") })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("raw.events", true)]
    #[case("ops.offsets", true)]
    #[case("events", false)]
    #[case("raw.", false)]
    #[case("raw.a.b", false)]
    #[case("raw.../x", false)]
    fn names(#[case] text: &str, #[case] good: bool) {
        assert_eq!(parse_name(text).is_ok_and(|name| name.to_string() == text), good);
    }
}
