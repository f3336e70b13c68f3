//! Words and signs of a text of PTX, with their lines. Knows no instruction.

/// A word (name, number, opcode, directive), a string, or one sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    /// From 1.
    pub(crate) line: usize,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_$%.".contains(c)
}

/// Length of what `rest` opens with: a comment, a string, a word or one sign.
fn length(rest: &str) -> usize {
    let through = |end: &str| rest[1..].find(end).map(|at| 1 + at + end.len());
    let length = match rest {
        _ if rest.starts_with("//") => rest.find('\n'),
        _ if rest.starts_with("/*") => through("*/"),
        _ if rest.starts_with('"') => through("\""),
        _ if rest.starts_with(is_word) => rest.find(|c| !is_word(c)),
        _ => rest.chars().next().map(char::len_utf8),
    };
    length.unwrap_or(rest.len())
}

/// All of a text, without comments. A closing 0, as NVRTC leaves it, is no part of the text.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut rest, mut line, mut tokens) = (text.trim_end_matches('\0'), 1, Vec::new());
    while !rest.is_empty() {
        let (token, after) = rest.split_at(length(rest));
        if !token.starts_with("//") && !token.starts_with("/*") && !token.trim().is_empty() {
            tokens.push(Token { text: token, line });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    tokens
}

/// An integer (decimal or hexadecimal, an optional `U` behind) or a float by its bits (`0f` and eight digits).
pub(crate) fn number(word: &str) -> Option<u64> {
    if let Some(digits) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
        return if digits.len() == 8 { u64::from_str_radix(digits, 16).ok() } else { None };
    }
    let word = word.strip_suffix('U').unwrap_or(word);
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_signs_and_lines() {
        let text = "/* a\nb */ @!%p1 ld.v2.f32 {%f1,\n%f2}, [%rd1+-4]; // c\n.pragma \"no unroll\";\0";
        let found: Vec<_> = tokens(text).iter().map(|token| (token.text, token.line)).collect();
        let expected: [&[&str]; 3] = [
            &["@", "!", "%p1", "ld.v2.f32", "{", "%f1", ","],
            &["%f2", "}", ",", "[", "%rd1", "+", "-", "4", "]", ";"],
            &[".pragma", "\"no unroll\"", ";"],
        ];
        let lines = (2..).zip(expected);
        let expected: Vec<_> =
            lines.flat_map(|(line, words)| words.iter().map(move |w| (*w, line))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn numbers() {
        let cases =
            [("12", Some(12)), ("0x1fU", Some(31)), ("0f3F800000", Some(0x3f80_0000)), ("0f3F", None)];
        for (word, expected) in cases {
            assert_eq!(number(word), expected, "{word}");
        }
        assert_eq!((number("%r1"), number("")), (None, None));
    }
}
