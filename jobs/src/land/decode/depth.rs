//! How deep objects and arrays are nested, without recursion and before anything looks inside them.

/// Whether `payload` nests deeper than `depth_max`; 1 is a flat object. Counts brackets outside of
/// strings, whether or not the text is JSON otherwise.
pub(super) fn too_deep(payload: &[u8], depth_max: usize) -> bool {
    // brackets inside strings count too here, so few brackets prove shallow nesting cheaply
    memchr::memchr2_iter(b'{', b'[', payload).take(depth_max.saturating_add(1)).count() > depth_max
        && deepest(payload, depth_max) > depth_max
}

/// The deepest nesting, or the first that passes `depth_max`.
fn deepest(payload: &[u8], depth_max: usize) -> usize {
    let (mut depth, mut deepest, mut quoted) = (0usize, 0usize, false);
    let mut bytes = payload.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => {
                bytes.next();
            }
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
                if deepest > depth_max {
                    return deepest;
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(r#"{"a":1}"#, 1)]
    #[case(r#"{"a":[{}],"b":[[[]]]}"#, 4)]
    #[case(r#"{"a":"{[[[[\"[[["}"#, 1)]
    #[case(r#"{"a":"\\"}"#, 1)]
    #[case(r#"[[]"#, 2)]
    #[case("", 0)]
    fn counts_brackets_outside_strings(#[case] text: &str, #[case] depth: usize) {
        assert!(!too_deep(text.as_bytes(), depth));
        if depth > 0 {
            assert!(too_deep(text.as_bytes(), depth - 1));
        }
    }
}
