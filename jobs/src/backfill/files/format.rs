//! What a file is like: by its name, or as the user says.

use crate::error::{Class, Error, Result, Stage};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How rows are written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Lines of fields, the first line names them.
    Csv,
    /// Parquet.
    Parquet,
    /// Avro container files.
    Avro,
}

/// What is around the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Nothing.
    None,
    /// gzip, any number of members.
    Gzip,
    /// Zstandard, any number of frames.
    Zstd,
}

/// How files are read, as far as their names do not say; frozen with the listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Format of all files; `None` goes by each name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Between the fields of a CSV file; `None` is a comma, and a tab in `.tsv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Time zone (`Europe/Kyiv`) of typed times without one, where the contract names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// A longer line is a reject, of which this many bytes are kept; also how far a quote may reach.
    pub row_bytes_max: usize,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "jsonl" | "ndjson" | "json" => Self::Jsonl,
            "csv" | "tsv" => Self::Csv,
            "parquet" | "pq" => Self::Parquet,
            "avro" => Self::Avro,
            _ => {
                let message = format!("`{text}` is no format of files that is known here");
                return Err(Error::new(Stage::Fill, Class::User, message).hint("use jsonl, csv, parquet or avro"));
            }
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Avro => "avro",
        })
    }
}

impl Reading {
    /// What a file is like.
    ///
    /// # Errors
    /// [`Class::User`] if neither its name nor the user says, or the format is compressed inside.
    pub fn of(&self, url: &str) -> Result<(Format, Compression)> {
        let user = |what: &str| Error::new(Stage::Fill, Class::User, format!("`{url}` {what}"));
        let name = url.rsplit('/').next().unwrap_or(url).to_ascii_lowercase();
        let packed = [
            (".gz", Compression::Gzip),
            (".gzip", Compression::Gzip),
            (".zst", Compression::Zstd),
            (".zstd", Compression::Zstd),
        ];
        let found = packed.iter().find_map(|(end, by)| name.strip_suffix(end).map(|bare| (bare, *by)));
        let (bare, compression) = found.unwrap_or((&name, Compression::None));
        let by_name = || bare.rsplit_once('.').and_then(|(_, suffix)| suffix.parse().ok());
        let format = self.format.or_else(by_name).ok_or_else(|| {
            user("does not say by its name what it is").hint("name the format: `--format jsonl|csv|parquet|avro`")
        })?;
        if compression != Compression::None && matches!(format, Format::Parquet | Format::Avro) {
            return Err(user("is packed as a whole, and its format is packed inside").hint("unpack it"));
        }
        Ok((format, compression))
    }

    /// What is between the fields of a CSV file.
    ///
    /// # Errors
    /// [`Class::User`] if it cannot be.
    pub fn delimiter(&self, url: &str) -> Result<u8> {
        let tabbed = || url.to_ascii_lowercase().trim_end_matches(".gz").trim_end_matches(".zst").ends_with(".tsv");
        let delimiter = self.delimiter.unwrap_or_else(|| if tabbed() { '\t' } else { ',' });
        let fits =
            delimiter.is_ascii() && !matches!(delimiter, '"' | '\n' | '\r') && !delimiter.is_ascii_alphanumeric();
        u8::try_from(delimiter).ok().filter(|_| fits).ok_or_else(|| {
            let message = format!("{delimiter:?} cannot be between the fields of a CSV file");
            Error::new(Stage::Fill, Class::User, message).hint("use a sign such as `,` `;` `|` or a tab")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn reading(format: Option<Format>) -> Reading {
        Reading { format, delimiter: None, timezone: None, row_bytes_max: 1 << 20 }
    }

    #[rstest]
    #[case("file:///x/a.jsonl", None, Some((Format::Jsonl, Compression::None)))]
    #[case("file:///x/a.ndjson.gz", None, Some((Format::Jsonl, Compression::Gzip)))]
    #[case("s3://b/A.CSV.ZST", None, Some((Format::Csv, Compression::Zstd)))]
    #[case("s3://b/a.tsv", None, Some((Format::Csv, Compression::None)))]
    #[case("s3://b/part-0.snappy.parquet", None, Some((Format::Parquet, Compression::None)))]
    #[case("s3://b/a.avro", None, Some((Format::Avro, Compression::None)))]
    #[case("s3://b/a.avro.gz", None, None)]
    #[case("s3://b.csv/part-0", None, None)]
    #[case("s3://b/part-0", Some(Format::Jsonl), Some((Format::Jsonl, Compression::None)))]
    #[case("s3://b/part-0.gz", Some(Format::Csv), Some((Format::Csv, Compression::Gzip)))]
    fn files_by_name(
        #[case] url: &str,
        #[case] wanted: Option<Format>,
        #[case] expected: Option<(Format, Compression)>,
    ) {
        assert_eq!(reading(wanted).of(url).ok(), expected);
    }

    #[rstest]
    #[case("a.csv", None, Some(b','))]
    #[case("a.tsv.gz", None, Some(b'\t'))]
    #[case("a.tsv", Some(';'), Some(b';'))]
    #[case("a.csv", Some('"'), None)]
    #[case("a.csv", Some('ü'), None)]
    fn delimiters(#[case] url: &str, #[case] typed: Option<char>, #[case] expected: Option<u8>) {
        assert_eq!(Reading { delimiter: typed, ..reading(None) }.delimiter(url).ok(), expected);
    }
}
