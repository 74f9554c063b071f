//! Small builders of refusals, and which of several a message gets.
//!
//! A refusal grows its dotted path from the inside out, so that a good value pays nothing for it.
//! No builder takes the value: a detail may not hold payload.

use deltaworks_core::reason::{Reason, Refusal};

/// A judged value, or why not. Boxed, so that good values travel light.
pub(super) type Judged<T> = Result<T, Box<Refusal>>;

const FIELD_CHARS_MAX: usize = 200;

#[cold]
pub(super) fn refuse(reason: Reason, detail: impl Into<String>) -> Box<Refusal> {
    Box::new(Refusal::of(reason, detail))
}

#[cold]
pub(super) fn wrong_type(detail: impl Into<String>) -> Box<Refusal> {
    refuse(Reason::WrongType, detail)
}

#[cold]
pub(super) fn out_of_range(detail: impl Into<String>) -> Box<Refusal> {
    refuse(Reason::OutOfRange, detail)
}

/// `wrong_type` for a JSON token, by its first byte.
#[cold]
pub(super) fn expected(what: &str, token: &str) -> Box<Refusal> {
    wrong_type(format!("expected {what}, found {}", type_of(token)))
}

/// What a JSON token is, in words.
pub(super) fn type_of(token: &str) -> &'static str {
    match token.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) => "a number",
        None => "nothing",
    }
}

/// Puts `name` before the refusal's path.
#[cold]
pub(super) fn within(name: &str, mut refusal: Box<Refusal>) -> Box<Refusal> {
    let name: String = name.chars().take(FIELD_CHARS_MAX).collect();
    refusal.field = Some(match refusal.field.take() {
        None => name,
        Some(inner) if inner.starts_with('[') => name + &inner,
        Some(inner) => name + "." + &inner,
    });
    refusal
}

/// Keeps the refusal whose reason comes first in the judge's steps; of equal ones the first given,
/// which is the first in the contract's order.
#[cold]
pub(super) fn keep_first(best: &mut Option<Box<Refusal>>, new: Box<Refusal>) {
    if best.as_ref().is_none_or(|old| step(new.reason) < step(old.reason)) {
        *best = Some(new);
    }
}

fn step(reason: Reason) -> usize {
    Reason::ALL.iter().position(|r| *r == reason).unwrap_or(Reason::ALL.len())
}
