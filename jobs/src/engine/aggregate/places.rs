//! Where in an aggregate's file something is written.
//!
//! DataFusion's plan does not keep the places of most of what it holds. Its words do have them, so a
//! refusal is placed at the first words that can mean what it refuses.

use crate::project::Place;
use deltalake::datafusion::common::Span;
use deltalake::datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// The words and signs of a file, in order.
#[derive(Debug, Clone)]
pub(super) struct Places {
    words: Vec<Word>,
}

#[derive(Debug, Clone)]
struct Word {
    /// In upper case.
    text: String,
    place: Place,
    /// How many parentheses are open.
    depth: usize,
}

impl Places {
    pub(super) fn new(tokens: &[TokenWithSpan]) -> Self {
        let mut depth = 0_usize;
        let mut words = Vec::with_capacity(tokens.len());
        for token in tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)) {
            depth = depth.saturating_sub(usize::from(token.token == Token::RParen));
            let text = match &token.token {
                Token::Word(word) => word.value.to_uppercase(),
                // a text could look like a word
                Token::SingleQuotedString(_) => "''".to_owned(),
                other => other.to_string().to_uppercase(),
            };
            words.push(Word { text, place: place_of(token.span.start), depth });
            depth += usize::from(token.token == Token::LParen);
        }
        Self { words }
    }

    /// Where the SELECT begins.
    pub(super) fn start(&self) -> Place {
        self.words.first().map_or(Place::START, |w| w.place)
    }

    /// Where these words stand, outside all parentheses; else where the SELECT begins.
    pub(super) fn outer(&self, words: &[&str]) -> Place {
        self.find(words, |word| word.depth == 0)
    }

    /// Where these words stand; else where the SELECT begins.
    pub(super) fn any(&self, words: &[&str]) -> Place {
        self.find(words, |_| true)
    }

    /// Where one of these functions is called; else where the SELECT begins.
    pub(super) fn call<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Place {
        let at = |name: &str| self.position(&[name, "("], |_| true).or_else(|| self.position(&[name], |_| true));
        let first = names.into_iter().filter_map(at).min();
        first.and_then(|at| self.words.get(at)).map_or_else(|| self.start(), |w| w.place)
    }

    /// Where a column is given this name, if it is.
    pub(super) fn alias(&self, name: &str) -> Option<Place> {
        let at = self.position(&["AS", name], |word| word.depth == 0)?;
        self.words.get(at + 1).map(|w| w.place)
    }

    fn find(&self, words: &[&str], fits: impl Fn(&Word) -> bool) -> Place {
        self.position(words, fits).and_then(|at| self.words.get(at)).map_or_else(|| self.start(), |w| w.place)
    }

    fn position(&self, words: &[&str], fits: impl Fn(&Word) -> bool) -> Option<usize> {
        let are = |run: &[Word]| run.iter().zip(words).all(|(have, want)| have.text == want.to_uppercase());
        self.words.windows(words.len().max(1)).position(|run| are(run) && run.first().is_some_and(&fits))
    }
}

/// The place of a token.
pub(super) fn place_of(location: Location) -> Place {
    let at_least_one = |n: u64| usize::try_from(n).unwrap_or(1).max(1);
    Place { line: at_least_one(location.line), column: at_least_one(location.column) }
}

/// The place of a part of a plan.
pub(super) fn place_of_span(span: Span) -> Place {
    place_of(Location { line: span.start.line, column: span.start.column })
}
