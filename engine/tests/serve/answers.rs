//! Tokens: those of Transformers, of `generate`, the same streamed, seeded, and beside others.

use std::process::Command;

use serde_json::{Value, json};

use super::folder::Folder;
use super::server::{GOLDEN, Server, golden, token_ids};

#[test]
fn tokens_are_those_of_transformers_streamed_or_not() {
    let server = Server::start("falcon-new", &["--tp", "2", "--pp", "2", "--chunk", "16"]);
    let prompts = golden("falcon-new");
    for (prompt, greedy) in &prompts {
        let body = json!({"prompt": prompt, "max_tokens": 32, "temperature": 0});
        let answer = server.complete(&body).ok();
        assert_eq!(&token_ids(&answer, 0), greedy);
        assert_eq!(answer["object"], "text_completion");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        let usage = json!({
            "prompt_tokens": prompt.len(), "completion_tokens": 32, "total_tokens": prompt.len() + 32,
        });
        assert_eq!(answer["usage"], usage);
        let mut body = body;
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let events = server.complete(&body).events();
        let (last, chunks) = events.split_last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage));
        let streamed: Vec<u32> = chunks.iter().flat_map(|chunk| token_ids(chunk, 0)).collect();
        assert_eq!(&streamed, greedy);
        assert_eq!(chunks.len(), 32, "a chunk a token");
        assert!(chunks.iter().all(|chunk| chunk["id"] == last["id"] && chunk["usage"].is_null()));
        let reasons: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
        assert!(reasons[..31].iter().all(|reason| reason.is_null()) && reasons[31] == "length");
    }
    // All at once, as one request.
    let all: Vec<_> = prompts.iter().map(|(prompt, _)| prompt).collect();
    let answer = server.complete(&json!({"prompt": all, "max_tokens": 32, "temperature": 0})).ok();
    for (index, (_, greedy)) in prompts.iter().enumerate() {
        assert_eq!(&token_ids(&answer, index), greedy);
        assert_eq!(answer["choices"][index]["index"], index);
    }
    assert_eq!(answer["usage"]["completion_tokens"], 32 * prompts.len());
}

#[test]
fn draws_depend_on_the_seed_alone_and_are_those_of_generate() {
    let server = Server::start("llama-gqa", &["--pp", "2"]);
    let draw = |more: Value| {
        let mut body = json!({"prompt": [5, 6, 7], "max_tokens": 24, "top_p": 0.9});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token_ids(&server.complete(&body).ok(), 0)
    };
    let output = Command::new(env!("CARGO_BIN_EXE_chariot-engine"))
        .args(["generate", "--json", "--prompt-ids", "5,6,7", "--max-tokens", "24", "--seed", "7"])
        .args(["--temperature", "1", "--top-p", "0.9", "--model", &format!("{GOLDEN}/llama-gqa")])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let generated: Vec<u32> = serde_json::from_value(report["outputs"][0]["token_ids"].clone()).unwrap();
    assert_eq!(draw(json!({"seed": 7})), generated);
    assert_eq!(draw(json!({"seed": 7, "temperature": 1.0})), generated);
    assert_ne!(draw(json!({"seed": 8})), generated);
    assert_ne!(draw(json!({})), draw(json!({})), "a request without a seed draws as no other does");
    assert_eq!(draw(json!({"temperature": 0})), draw(json!({"temperature": 0, "seed": 9})));
}

#[test]
fn stop_tokens_end_an_output() {
    let (prompt, greedy) = golden("llama-gqa").swap_remove(0);
    let ends = |token: u32| greedy.iter().position(|other| *other == token).unwrap() + 1;
    let stop = greedy[4];
    let folder = Folder::new(&json!({"eos_token_id": stop}));
    let server = Server::start(folder.path().as_str(), &[]);
    let check = |more: Value, expected: &[u32], reason: &str| {
        let mut body = json!({"prompt": prompt, "max_tokens": 12, "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = server.complete(&body).ok();
        assert_eq!(
            (token_ids(&answer, 0), &answer["choices"][0]["finish_reason"]),
            (expected.to_vec(), &json!(reason))
        );
        assert_eq!(answer["usage"]["completion_tokens"], expected.len());
    };
    check(json!({}), &greedy[..ends(stop)], "stop");
    check(json!({"ignore_eos": true}), &greedy[..12], "length");
    let earlier = ends(greedy[0]).min(ends(stop));
    check(json!({"stop_token_ids": [greedy[0]]}), &greedy[..earlier], "stop");
    check(json!({"ignore_eos": true, "stop_token_ids": [greedy[0]]}), &greedy[..1], "stop");
    // The stop token as the last that it may have is still why it stopped.
    check(json!({"max_tokens": ends(stop)}), &greedy[..ends(stop)], "stop");
    assert!(server.metric("chariot_requests_total{outcome=\"stop\"}") == 4.0);
}

/// Prompts of many lengths, greedy and drawn, streamed and not.
fn mixed(number: u32) -> Value {
    let prompt: Vec<u32> = (0..3 + number * 7 % 60).map(|i| (number * 31 + i * 17) % 250).collect();
    let temperature = if number.is_multiple_of(2) { 0.0 } else { 0.8 };
    json!({"prompt": prompt, "max_tokens": 8 + number * 5 % 40, "temperature": temperature, "seed": number, "stream": number.is_multiple_of(3)})
}

fn tokens_of(server: &Server, body: &Value) -> Vec<u32> {
    let answer = server.complete(body);
    match body["stream"] == true {
        true => answer.events().iter().flat_map(|chunk| token_ids(chunk, 0)).collect(),
        false => token_ids(&answer.ok(), 0),
    }
}

#[test]
fn sixteen_at_once_get_what_each_gets_alone() {
    // Memory for about four of them: some are preempted and computed again.
    let more = ["--tp", "2", "--pp", "2", "--chunk", "16", "--kv-blocks", "18", "--max-model-len", "120"];
    let server = Server::start("llama-gqa", &more);
    let bodies: Vec<Value> = (0..16).map(mixed).collect();
    let alone: Vec<Vec<u32>> = bodies.iter().map(|body| tokens_of(&server, body)).collect();
    assert_eq!(server.metric("chariot_preemptions_total"), 0.0);
    let together: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = bodies.iter().map(|body| scope.spawn(|| tokens_of(&server, body))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
    assert!(server.metric("chariot_preemptions_total") > 0.0, "memory was to be scarce");
    server.await_metric("chariot_kv_blocks_used", 0.0);
    let generated: usize = alone.iter().map(Vec::len).sum();
    assert_eq!(server.metric("chariot_generation_tokens_total"), 2.0 * generated as f64);
    assert_eq!(server.metric("chariot_time_to_first_token_seconds_count"), 32.0);
    assert_eq!(server.metric("chariot_time_between_tokens_seconds_count"), 2.0 * (generated - 16) as f64);
    assert_eq!(server.metric("chariot_e2e_request_latency_seconds_count"), 32.0);
}
