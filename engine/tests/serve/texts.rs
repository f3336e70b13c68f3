//! Text: characters stay whole, stops cut, chats go through the template.

use serde_json::{Value, json};

use super::folder::{Folder, MODEL, text_of};
use super::server::{Server, golden, token_ids};

/// The golden prompt, whose output holds a Euro sign.
fn prompt() -> Vec<u32> {
    golden(MODEL).swap_remove(0).0
}

fn text(answer: &Value) -> String {
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_stream_gives_the_same_text_in_whole_characters() {
    let folder = Folder::with_text(&json!({}));
    let server = Server::start(folder.path().as_str(), &[]);
    let body = json!({"prompt": prompt(), "max_tokens": 32, "temperature": 0});
    let answer = server.complete(&body).ok();
    let whole = text(&answer);
    let (_, greedy) = golden(MODEL).swap_remove(0);
    assert_eq!(whole, text_of(&greedy));
    assert!(whole.contains('€'), "{whole}");
    assert!(answer["choices"][0].get("token_ids").is_none(), "there is text");
    let stream = |more: Value| {
        let mut body = body.clone();
        body["stream"] = json!(true);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.complete(&body).events()
    };
    let pieces: Vec<String> = stream(json!({})).iter().map(text).collect();
    assert_eq!(pieces.concat(), whole);
    assert!(pieces.iter().any(|piece| piece.contains('€')) && pieces.len() < 32, "{pieces:?}");
    let ids: Vec<u32> =
        stream(json!({"return_token_ids": true})).iter().flat_map(|chunk| token_ids(chunk, 0)).collect();
    assert_eq!(ids, greedy);
}

#[test]
fn stop_strings_cut_before_them_wherever_tokens_end() {
    let folder = Folder::with_text(&json!({}));
    let server = Server::start(folder.path().as_str(), &["--tp", "2"]);
    let run = |stop: &Value, stream: bool| -> (String, Value) {
        let body =
            json!({"prompt": prompt(), "max_tokens": 32, "temperature": 0, "stop": stop, "stream": stream});
        let answer = server.complete(&body);
        match stream {
            false => (text(&answer.ok()), answer.json()["choices"][0]["finish_reason"].clone()),
            true => {
                let events = answer.events();
                let last = events.last().unwrap()["choices"][0]["finish_reason"].clone();
                (events.iter().map(text).collect(), last)
            }
        }
    };
    let (whole, reason) = run(&Value::Null, false);
    assert_eq!(reason, "length");
    let chars: Vec<char> = whole.chars().collect();
    // From every place, over the border of two tokens at least, for no token has more than two characters.
    for start in 0..chars.len() - 3 {
        let stop: String = chars[start..start + 3].iter().collect();
        let expected = &whole[..whole.find(&stop).unwrap()];
        for given in [json!(stop), json!(["never in it", stop])] {
            for stream in [false, true] {
                assert_eq!(run(&given, stream), (expected.to_owned(), json!("stop")), "{stop}");
            }
        }
    }
    assert_eq!(run(&json!("never in it"), true), (whole, json!("length")));
    server.await_metric("chariot_kv_blocks_used", 0.0);
}

#[test]
fn a_stop_string_ends_the_sequence_too() {
    let folder = Folder::with_text(&json!({}));
    let server = Server::start(folder.path().as_str(), &["--max-model-len", "9000"]);
    let body = json!({"prompt": prompt(), "max_tokens": 8000, "temperature": 0, "stop": "€"});
    let answer = server.complete(&body).ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    server.await_metric("chariot_kv_blocks_used", 0.0);
    // The engine may be ahead of the text by what it does until it hears of the stop.
    assert!(server.metric("chariot_generation_tokens_total") < 1000.0);
}

#[test]
fn a_chat_is_a_completion_of_what_the_template_writes() {
    let folder = Folder::with_text(&json!({}));
    let server = Server::start(folder.path().as_str(), &[]);
    let messages = json!([{"role": "system", "content": "  short "}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}]);
    let body = json!({"messages": messages, "max_completion_tokens": 20, "seed": 3});
    let chat = server.post("/v1/chat/completions", &body).ok();
    let prompt = "[system] short\n[user] hello\n[assistant] ";
    let completion = server.complete(&json!({"prompt": prompt, "max_tokens": 20, "seed": 3})).ok();
    let message = &chat["choices"][0]["message"];
    assert_eq!(
        (&message["role"], &message["content"]),
        (&json!("assistant"), &completion["choices"][0]["text"])
    );
    assert_eq!((&chat["object"], &chat["usage"]), (&json!("chat.completion"), &completion["usage"]));
    assert_eq!(chat["usage"]["prompt_tokens"], prompt.len());
    let mut body = body;
    body["stream"] = json!(true);
    let events = server.post("/v1/chat/completions", &body).events();
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let content =
        |event: &Value| event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    assert_eq!(json!(events.iter().map(content).collect::<String>()), message["content"]);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    // Without a number, it may fill the context.
    let rest = server.post("/v1/chat/completions", &json!({"messages": messages, "temperature": 0})).ok();
    assert_eq!(rest["usage"]["total_tokens"], 256);
}
