//! Texts that match a pattern: a walk over the parsed pattern with a seeded source of chance.
//!
//! Look-around (word boundaries) is walked past; the caller checks the text against the pattern.

use rand::Rng;
use regex_syntax::hir::{Class, Hir, HirKind};

/// Repetitions without an upper limit stop this far above their lower one.
const REPEAT_MORE: u32 = 6;

/// A pattern that texts can be made of.
#[derive(Debug, Clone)]
pub(super) struct Texts {
    hir: Hir,
}

impl Texts {
    /// Parses a pattern; `None` if it is not one.
    pub fn of(pattern: &str) -> Option<Self> {
        regex_syntax::parse(pattern).ok().map(|hir| Self { hir })
    }

    /// One text.
    pub fn text(&self, rng: &mut impl Rng) -> String {
        let mut out = Vec::new();
        walk(&self.hir, rng, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn walk(hir: &Hir, rng: &mut impl Rng, out: &mut Vec<u8>) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
        HirKind::Class(Class::Unicode(class)) => {
            // Plain ASCII where the class has any: `\d` should look like a digit.
            let ranges: Vec<(u32, u32)> = class.iter().map(|r| (r.start() as u32, r.end() as u32)).collect();
            let printable: Vec<_> =
                ranges.iter().map(|(a, b)| ((*a).max(0x20), (*b).min(0x7e))).filter(|(a, b)| a <= b).collect();
            let from = if printable.is_empty() { ranges } else { printable };
            if let Some(c) = pick(&from, rng).and_then(char::from_u32) {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        HirKind::Class(Class::Bytes(class)) => {
            let ranges: Vec<_> = class.iter().map(|r| (u32::from(r.start()), u32::from(r.end()))).collect();
            out.extend(pick(&ranges, rng).and_then(|b| u8::try_from(b).ok()));
        }
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or(repetition.min.saturating_add(REPEAT_MORE));
            for _ in 0..rng.random_range(repetition.min..=most.max(repetition.min)) {
                walk(&repetition.sub, rng, out);
            }
        }
        HirKind::Capture(capture) => walk(&capture.sub, rng, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| walk(part, rng, out)),
        HirKind::Alternation(parts) => {
            if let Some(part) = parts.get(rng.random_range(0..parts.len().max(1))) {
                walk(part, rng, out);
            }
        }
    }
}

fn pick(ranges: &[(u32, u32)], rng: &mut impl Rng) -> Option<u32> {
    let all: u32 = ranges.iter().map(|(a, b)| b - a + 1).sum();
    if all == 0 {
        return None;
    }
    let mut at = rng.random_range(0..all);
    for (a, b) in ranges {
        if at <= b - a {
            return Some(a + at);
        }
        at -= b - a + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use regex::Regex;
    use rstest::rstest;

    #[rstest]
    #[case(r"[A-Z]{2}\d{4}[A-Z]{2}")]
    #[case(r"cam-[0-9]{3,5}")]
    #[case(r"(red|green|blue)+")]
    #[case(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")]
    #[case(r"[А-ЯҐЄІЇ]{2}\s?\w*")]
    #[case(r".+@.+\.com")]
    fn texts_match_their_pattern(#[case] pattern: &str) {
        let regex = Regex::new(&format!("^(?:{pattern})$")).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let texts = Texts::of(pattern).unwrap();
        for _ in 0..200 {
            let text = texts.text(&mut rng);
            assert!(regex.is_match(&text), "{text:?}");
        }
    }
}
