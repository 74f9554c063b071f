//! `${VAR}` and `${VAR:-default}` inside the scalars of `deltaworks.yaml`.
//!
//! Variables are replaced after the YAML is parsed, so a value can never add keys or lines. A default
//! also stands in for an empty variable, as in a shell; `$${` is a literal `${`. No message holds
//! what a variable stands for.

use super::diagnostics::Sink;
use super::yaml::Node;

/// Reads one environment variable.
pub type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Replaces the variables in every scalar; reports the unset and the badly written ones.
pub(super) fn substitute(node: &mut Node, env: Env<'_>, sink: &mut Sink) {
    node.for_each_scalar(&mut |place, scalar| match expand(&scalar.typed, env) {
        Ok(text) => scalar.text = text,
        Err(Problem::Unset(name)) => {
            let hint = format!("set it, or give a default: `${{{name}:-…}}`");
            sink.error_with(place, format!("the environment variable `{name}` is not set"), hint);
        }
        Err(Problem::Form) => sink.error_with(
            place,
            "this is no variable: `${` is not followed by a name and `}`",
            "write `${NAME}` or `${NAME:-default}`; `$${` stands for a literal `${`",
        ),
    });
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Unset(String),
    Form,
}

fn expand(typed: &str, env: Env<'_>) -> Result<String, Problem> {
    let mut text = String::with_capacity(typed.len());
    let mut rest = typed;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            text.push_str(before);
            text.push_str("${");
            rest = after;
            continue;
        }
        text.push_str(before);
        let (inside, behind) = after.split_once('}').ok_or(Problem::Form)?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err(Problem::Form);
        }
        match (env(name).filter(|v| default.is_none() || !v.is_empty()), default) {
            (Some(value), _) => text.push_str(&value),
            (None, Some(default)) => text.push_str(default),
            (None, None) => return Err(Problem::Unset(name.to_owned())),
        }
        rest = behind;
    }
    text.push_str(rest);
    Ok(text)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("broker".to_owned()),
            "EMPTY" => Some(String::new()),
            "EVIL" => Some("x\nkafka: {}".to_owned()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[rstest]
    #[case("plain", Ok("plain"))]
    #[case("${HOST}:9092", Ok("broker:9092"))]
    #[case("${HOST}${HOST}", Ok("brokerbroker"))]
    #[case("${NONE:-a:-b}", Ok("a:-b"))]
    #[case("${EMPTY:-x}", Ok("x"))]
    #[case("${EMPTY}", Ok(""))]
    #[case("${NONE:-}", Ok(""))]
    #[case("$${HOST}", Ok("${HOST}"))]
    #[case("$HOST $ {HOST}", Ok("$HOST $ {HOST}"))]
    #[case("${EVIL}", Ok("x\nkafka: {}"))]
    #[case("${NESTED}", Ok("${HOST}"))]
    #[case("${NONE}", Err(Problem::Unset("NONE".to_owned())))]
    #[case("${HOST", Err(Problem::Form))]
    #[case("${}", Err(Problem::Form))]
    #[case("${1A}", Err(Problem::Form))]
    #[case("${A-b}", Err(Problem::Form))]
    fn expands(#[case] typed: &str, #[case] want: Result<&str, Problem>) {
        assert_eq!(expand(typed, &env), want.map(str::to_owned));
    }
}
