//! Outputs of a vocabulary whose tokens are the letters a to z.

use serde_json::{Map, Value, json};

use super::super::text::Vocabulary;
use super::*;

fn choice(stop: &[&str]) -> Choice {
    let vocab: Map<String, Value> =
        (0..26_u8).map(|id| (char::from(b'a' + id).to_string(), json!(id))).collect();
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let json = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let vocabulary = Vocabulary::parse(json.to_string().as_bytes()).unwrap();
    Choice::new(Some(vocabulary.decoder()), stop.iter().map(|&stop| stop.to_owned()).collect())
}

fn delta(text: &str, tokens: &[u32], finish: Option<Finish>, cut: bool) -> Delta {
    Delta { text: text.to_owned(), tokens: tokens.to_vec(), finish, cut }
}

#[test]
fn text_that_is_held_brings_its_tokens_along() {
    let mut choice = choice(&["cd"]);
    assert_eq!(choice.push(0, None), Some(delta("a", &[0], None, false)));
    assert_eq!(choice.push(2, None), None);
    assert_eq!(choice.push(4, None), Some(delta("ce", &[2, 4], None, false)));
    assert_eq!(choice.push(2, Some(Finish::Length)), Some(delta("c", &[2], Some(Finish::Length), false)));
    assert_eq!(choice.tokens, 4);
}

#[test]
fn a_stop_string_cuts_and_what_comes_later_does_not_count() {
    let mut choice = choice(&["cd"]);
    assert_eq!(choice.push(2, None), None);
    assert_eq!(choice.push(3, None), Some(delta("", &[2, 3], Some(Finish::Stop), true)));
    assert_eq!(choice.push(5, Some(Finish::Length)), None);
    assert_eq!((choice.tokens, choice.finish), (2, Some(Finish::Stop)));
}

#[test]
fn a_stop_string_with_the_last_token_needs_no_cut() {
    let mut choice = choice(&["b"]);
    assert_eq!(choice.push(0, None), Some(delta("a", &[0], None, false)));
    assert_eq!(choice.push(1, Some(Finish::Length)), Some(delta("", &[1], Some(Finish::Stop), false)));
}

#[test]
fn a_stop_token_has_no_text() {
    let mut choice = choice(&["xy"]);
    assert_eq!(choice.push(23, None), None);
    assert_eq!(choice.push(24, Some(Finish::Stop)), Some(delta("x", &[23, 24], Some(Finish::Stop), false)));
}

#[test]
fn without_a_tokenizer_every_token_is_told_at_once() {
    let mut choice = Choice::new(None, Vec::new());
    assert_eq!(choice.push(7, None), Some(delta("", &[7], None, false)));
    assert_eq!(choice.push(8, Some(Finish::Stop)), Some(delta("", &[8], Some(Finish::Stop), false)));
}
