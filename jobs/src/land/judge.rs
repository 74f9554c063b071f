//! What becomes of one message, whoever reads it: a row, a reject, or nothing by rule.

use super::decode::{Decoded, Decoder};
use crate::kafka::message::Message;
use crate::project::settings::{Pipeline, Tombstones};
use deltaworks_core::reason::{Reason, Refusal};

/// Headers as a JSON array of name and value; bytes that are no UTF-8 are shown as U+FFFD.
pub fn headers(message: &Message<'_>) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs: Vec<_> = message.headers().map(|(name, value)| (text(name), value.map(text))).collect();
    if pairs.is_empty() { None } else { serde_json::to_string(&pairs).ok() }
}

/// What a message is.
#[derive(Debug)]
pub enum Judged {
    /// A row; the decoder holds it.
    Row(Decoded),
    /// A reject.
    Refused(Refusal),
    /// Left out by a rule.
    Skipped,
}

/// Judges one message by the contract and the pipeline's rules.
pub fn judge(decoder: &mut dyn Decoder, pipeline: &Pipeline, message: &Message<'_>) -> Judged {
    if message.payload().is_none() {
        return match pipeline.tombstones {
            Tombstones::Skip => Judged::Skipped,
            Tombstones::Reject => Judged::Refused(Refusal::of(
                Reason::Tombstone,
                "the message has no payload; set `tombstones: skip` if that is normal in this topic",
            )),
        };
    }
    match decoder.push(message) {
        Ok(decoded) => Judged::Row(decoded),
        Err(refusal) => Judged::Refused(refusal),
    }
}
