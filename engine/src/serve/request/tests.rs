//! Bodies read and refused.

use serde_json::json;

use super::*;

fn completion(body: Value) -> Result<Completion> {
    Completion::parse(body.to_string().as_bytes(), "m")
}

/// With the members that a request must have.
fn with(name: &str, value: Value) -> Value {
    let mut body = json!({"model": "m", "prompt": [1, 2], "messages": [{"role": "user", "content": "hi"}]});
    body[name] = value;
    body
}

fn refused(error: &ApiError, status: u16, field: &str, message: &str) {
    assert_eq!((error.status, error.field.as_deref()), (status, Some(field)), "{error:?}");
    assert!(error.message.contains(message), "expected `{message}` in {}", error.message);
}

#[test]
fn prompts_come_in_four_forms() {
    let text = |text: &str| Input::Text(text.to_owned());
    for (prompt, expected) in [
        (json!("ab"), vec![text("ab")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([1, 2]), vec![Input::Tokens(vec![1, 2])]),
        (json!([[1], [2, 3]]), vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])]),
    ] {
        assert_eq!(completion(with("prompt", prompt)).unwrap().inputs, expected);
    }
    for prompt in
        [json!([]), json!(7), json!([1, "a"]), json!([1, -2]), json!([1.5]), json!({}), json!([[1], 2])]
    {
        refused(
            &completion(with("prompt", prompt)).unwrap_err(),
            400,
            "prompt",
            "expected a string, an array",
        );
    }
}

#[test]
fn members_left_out_or_null_have_openais_defaults() {
    let options = completion(with("temperature", Value::Null)).unwrap().options;
    let expected = Options {
        max_tokens: None,
        temperature: 1.0,
        top_p: 1.0,
        seed: None,
        stop: Vec::new(),
        stop_token_ids: Vec::new(),
        ignore_eos: false,
        stream: false,
        include_usage: false,
        return_token_ids: false,
    };
    assert_eq!(options, expected);
}

#[test]
fn members_are_read() {
    let body = json!({
        "model": "m", "prompt": "a", "max_tokens": 3, "temperature": 0, "top_p": 0.5, "seed": -1, "stop": ["x", "y"],
        "stop_token_ids": [4], "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
        "return_token_ids": true, "user": "somebody", "a_member_of_the_future": {},
    });
    let options = completion(body).unwrap().options;
    let expected = Options {
        max_tokens: Some(("max_tokens", 3)),
        temperature: 0.0,
        top_p: 0.5,
        seed: Some(u64::MAX),
        stop: vec!["x".to_owned(), "y".to_owned()],
        stop_token_ids: vec![4],
        ignore_eos: true,
        stream: true,
        include_usage: true,
        return_token_ids: true,
    };
    assert_eq!(options, expected);
}

#[test]
fn mistakes_name_member_expected_and_found() {
    for (name, value, message) in [
        ("max_tokens", json!(0), "max_tokens: expected a whole number of at least 1, found 0"),
        ("max_tokens", json!("many"), "found \"many\""),
        ("temperature", json!(2.5), "temperature: expected a number from 0 to 2, found 2.5"),
        ("top_p", json!(-0.1), "found -0.1"),
        ("seed", json!(1.5), "seed: expected a whole number of 64 bits, found 1.5"),
        ("stop", json!(["a", "b", "c", "d", "e"]), "stop: expected a string or up to 4 of them, none empty"),
        ("stop", json!(""), "none empty"),
        ("stop_token_ids", json!([-1]), "expected an array of token ids"),
        ("stream", json!("yes"), "stream: expected true or false, found \"yes\""),
        ("stream_options", json!({"include_usage": true}), "none without `stream: true`"),
    ] {
        refused(&completion(with(name, value)).unwrap_err(), 400, name, message);
    }
    assert!(
        completion(json!({"prompt": "a"}))
            .unwrap_err()
            .message
            .contains("model: expected a string, found none")
    );
    let unknown = completion(json!({"model": "other", "prompt": "a"})).unwrap_err();
    refused(&unknown, 404, "model", "expected `m`, found `other`");
    assert_eq!(unknown.code, Some("model_not_found"));
    for body in ["", "{", "[1]", "{\"model\": }", "\u{0}"] {
        let error = Completion::parse(body.as_bytes(), "m").unwrap_err();
        assert_eq!((error.status, error.message.starts_with("body: expected")), (400, true), "{error:?}");
    }
}

/// A member that OpenAI or vLLM knows and this server does not, and a value of it that asks for nothing.
#[test]
fn members_without_effect_are_refused_unless_they_ask_for_nothing() {
    for (name, nothing, something) in [
        ("n", json!(1), json!(2)),
        ("best_of", json!(1), json!(3)),
        ("echo", json!(false), json!(true)),
        ("suffix", json!(""), json!("end")),
        ("logprobs", Value::Null, json!(0)),
        ("prompt_logprobs", Value::Null, json!(1)),
        ("presence_penalty", json!(0), json!(0.5)),
        ("frequency_penalty", json!(0.0), json!(-1)),
        ("repetition_penalty", json!(1), json!(1.1)),
        ("logit_bias", json!({}), json!({"50": 1})),
        ("top_k", json!(-1), json!(40)),
        ("min_p", json!(0), json!(0.1)),
        ("response_format", json!({"type": "text"}), json!({"type": "json_object"})),
    ] {
        assert!(completion(with(name, nothing)).is_ok(), "{name}");
        refused(&completion(with(name, something)).unwrap_err(), 400, name, &format!("{name}: expected"));
    }
    for (name, nothing, something) in [
        ("logprobs", json!(false), json!(true)),
        ("top_logprobs", Value::Null, json!(2)),
        ("tools", json!([]), json!([{"type": "function"}])),
        ("tool_choice", json!("none"), json!("auto")),
        ("modalities", json!(["text"]), json!(["text", "audio"])),
    ] {
        let chat = |value| Chat::parse(with(name, value).to_string().as_bytes(), "m");
        assert!(chat(nothing).is_ok(), "{name}");
        refused(&chat(something).unwrap_err(), 400, name, &format!("{name}: expected"));
    }
}

#[test]
fn messages_become_roles_with_one_text_each() {
    let chat = |messages: Value| Chat::parse(with("messages", messages).to_string().as_bytes(), "m");
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let read = chat(
        json!([{"role": "user", "content": parts}, {"role": "assistant", "content": null, "name": "x"}]),
    );
    let messages = serde_json::to_value(read.unwrap().messages).unwrap();
    let expected =
        json!([{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "", "name": "x"}]);
    assert_eq!(messages, expected);
    for (messages, field) in [
        (json!([]), "messages"),
        (json!("hi"), "messages"),
        (json!(["hi"]), "messages[0]"),
        (json!([{"role": "user", "content": "a"}, {"content": "b"}]), "messages[1].role"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages[0].content",
        ),
    ] {
        refused(&chat(messages).unwrap_err(), 400, field, "expected");
    }
    let body =
        json!({"model": "m", "messages": [{"role": "user"}], "max_tokens": 9, "max_completion_tokens": 5});
    let options = Chat::parse(body.to_string().as_bytes(), "m").unwrap().options;
    assert_eq!(options.max_tokens, Some(("max_completion_tokens", 5)));
}
