//! Characters stay whole, and stops are found wherever tokens are cut.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The character that stands for a byte in a byte-level vocabulary: itself where it can be printed.
fn byte_char(byte: u8) -> char {
    let is_shown = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match is_shown(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|other| !is_shown(*other)).count() as u32;
            char::from_u32(256 + before).unwrap()
        }
    }
}

fn vocabulary(model: Value, pre_tokenizer: Value, decoder: Value) -> Vocabulary {
    let json = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "post_processor": null, "decoder": decoder, "model": model,
    });
    Vocabulary::parse(json.to_string().as_bytes()).unwrap()
}

/// A token a byte.
fn byte_level() -> Vocabulary {
    let tokens: serde_json::Map<String, Value> =
        (0..=255).map(|byte| (byte_char(byte).to_string(), json!(byte))).collect();
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    vocabulary(json!({"type": "BPE", "vocab": tokens, "merges": []}), level.clone(), level)
}

/// As Llama's: words that begin with U+2581, bytes for what is no word, and a leading space that the first word loses.
fn byte_fallback() -> Vocabulary {
    let mut tokens: serde_json::Map<String, Value> =
        (0..=255_u32).map(|byte| (format!("<0x{byte:02X}>"), json!(byte))).collect();
    for (id, word) in (256..).zip(["\u{2581}", "a", "b", "\u{2581}a"]) {
        tokens.insert(word.to_owned(), json!(id));
    }
    let steps = json!([
        {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    ]);
    let model = json!({"type": "BPE", "vocab": tokens, "merges": [], "byte_fallback": true});
    let spaces =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
    vocabulary(model, spaces, json!({"type": "Sequence", "decoders": steps}))
}

/// The pieces in which an output's text comes.
fn pieces(vocabulary: &Vocabulary, ids: &[u32]) -> Vec<String> {
    let mut decoder = vocabulary.decoder();
    let mut pieces: Vec<String> = ids.iter().map(|id| decoder.push(*id)).collect();
    pieces.push(decoder.finish());
    pieces
}

#[test]
fn a_character_comes_when_its_last_byte_does() {
    for vocabulary in [byte_level(), byte_fallback()] {
        let ids: Vec<u32> = "é€𝄞".bytes().map(u32::from).collect();
        assert_eq!(pieces(&vocabulary, &ids), ["", "é", "", "", "€", "", "", "", "𝄞", ""]);
        // Half a character at the end is told as what it is, once nothing can follow.
        let half = pieces(&vocabulary, &[0xE2, 0x82]);
        assert!(half[..2].iter().all(String::is_empty) && half[2].starts_with(BROKEN), "{half:?}");
    }
}

#[test]
fn a_space_between_words_is_kept_and_one_before_them_is_not() {
    let vocabulary = byte_fallback();
    assert_eq!(pieces(&vocabulary, &[259, 259, 258, 256, 257]), ["a", " a", "b", " ", "a", ""]);
}

#[test]
fn a_prompt_is_not_truncated_whatever_the_file_says() {
    assert_eq!(byte_level().encode("abcdefgh", true).unwrap().len(), 8);
}

#[test]
fn bytes_that_become_no_character_are_not_held_for_ever() {
    let vocabulary = byte_level();
    let mut decoder = vocabulary.decoder();
    let told: Vec<usize> = (0..100).filter(|_| !decoder.push(0x80).is_empty()).collect();
    assert_eq!(told, [31, 63, 95]);
}

#[test]
fn the_first_stop_cuts_and_what_only_begins_one_is_told_later() {
    let mut stops = StopStrings::new(vec!["END".to_owned(), "\n\n".to_owned()]);
    let passed = |text: &str, stopped| Passed { text: text.to_owned(), stopped };
    assert_eq!(stops.push("abE"), passed("ab", false));
    assert_eq!(stops.push("N"), passed("", false));
    assert_eq!(stops.push("x\n"), passed("ENx", false));
    assert_eq!(stops.push("EN"), passed("\n", false));
    assert_eq!(stops.push("D\n\n"), passed("", true));
    let mut stops = StopStrings::new(vec!["€€".to_owned()]);
    assert_eq!(stops.push("a€"), passed("a", false));
    assert_eq!(stops.finish(), "€");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_comes_whole_from_any_tokens(text in "[a b€é𝄞\n]{0,40}") {
        let vocabulary = byte_level();
        let ids = vocabulary.encode(&text, false).unwrap();
        prop_assert_eq!(ids.len(), text.len());
        let pieces = pieces(&vocabulary, &ids);
        prop_assert!(pieces.iter().all(|piece| !piece.contains(BROKEN)));
        prop_assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn stops_are_found_wherever_the_text_is_cut(
        parts in proptest::collection::vec("[ab€]{0,4}", 0..12),
        stops in proptest::collection::vec("[ab€]{1,4}", 1..4),
    ) {
        let text = parts.concat();
        let mut matcher = StopStrings::new(stops.clone());
        let mut told = String::new();
        let mut stopped = false;
        for part in &parts {
            let passed = matcher.push(part);
            told.push_str(&passed.text);
            stopped = passed.stopped;
            if stopped {
                break;
            }
        }
        if !stopped {
            told.push_str(&matcher.finish());
        }
        // The stop that is complete first ends it, even if another began before.
        let ends = stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|at| at + stop.len()));
        prop_assert_eq!(stopped, ends.min().is_some());
        prop_assert!(text.starts_with(&told));
        prop_assert!(stops.iter().all(|stop| !told.contains(stop.as_str())));
        if !stopped {
            prop_assert_eq!(told, text);
        }
    }
}
