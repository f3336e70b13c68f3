//! What is refused, and how: every mistake with its status, in OpenAI's shape.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::folder::Folder;
use super::server::{Answer, GOLDEN, NAME, Server};

fn refused(answer: &Answer, status: u16, field: &Value, message: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let error = &answer.json()["error"];
    assert_eq!(&error["param"], field, "{error}");
    assert!(error["message"].as_str().unwrap().contains(message), "expected `{message}` in {error}");
    assert!(error["type"].is_string(), "{error}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[test]
fn mistakes_are_answered_with_their_member() {
    let server = Server::start(
        "llama-gqa",
        &["--max-model-len", "64", "--batch-cap", "2", "--queue", "1", "--max-body", "4KiB"],
    );
    for (body, status, field, message) in [
        (json!({"prompt": [1], "model": "gpt"}), 404, "model", "expected `tiny`, found `gpt`"),
        (json!({}), 400, "prompt", "found none"),
        (json!({"prompt": "text"}), 400, "prompt", "no tokenizer.json"),
        (json!({"prompt": []}), 400, "prompt", "found []"),
        (json!({"prompt": [[]]}), 400, "prompt", "at least one token"),
        (json!({"prompt": [1, 250]}), 400, "prompt", "expected token ids below 250, found 250"),
        (
            json!({"prompt": vec![1; 64]}),
            400,
            "prompt",
            "expected fewer than 64 tokens (the model's limit), found 64",
        ),
        (
            json!({"prompt": vec![1; 60], "max_tokens": 5}),
            400,
            "max_tokens",
            "at most 4 after a prompt of 60 tokens",
        ),
        (json!({"prompt": [[1], [1], [1], [1]]}), 400, "prompt", "at most 3 prompts at once, found 4"),
        (json!({"prompt": [1], "n": 2}), 400, "n", "expected 1"),
        (json!({"prompt": [1], "stop": "."}), 400, "stop", "use stop_token_ids"),
        (json!({"prompt": [1], "stop_token_ids": [999]}), 400, "stop_token_ids", "below 250, found 999"),
        (json!({"prompt": [1], "logprobs": 1}), 400, "logprobs", "not supported"),
    ] {
        refused(&server.complete(&body), status, &json!(field), message);
    }
    let chat = server.post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "hi"}]}));
    refused(&chat, 400, &Value::Null, "expected a model with a tokenizer.json");
    refused(
        &server.ask("POST", "/v1/completions", b"{\"model\": "),
        400,
        &Value::Null,
        "body: expected JSON, found EOF",
    );
    refused(&server.ask("POST", "/v1/completions", b""), 400, &Value::Null, "body: expected JSON");
    refused(&server.ask("POST", "/v1/completions", &[b' '; 5000]), 413, &Value::Null, "at most 4096 bytes");
    refused(&server.get("/v1/completions"), 405, &Value::Null, "found GET");
    refused(&server.ask("DELETE", "/health", b""), 405, &Value::Null, "found DELETE");
    refused(&server.get("/v2"), 404, &Value::Null, "found /v2");
    refused(&server.get("/v1/models/other"), 404, &json!("model"), "expected `tiny`, found `other`");
    // A prompt that leaves less room than the default still gets an answer.
    let answer = server.complete(&json!({"prompt": vec![1; 60], "temperature": 0})).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    assert_eq!(server.metric("chariot_requests_total{outcome=\"invalid\"}"), 17.0);
}

#[test]
fn health_and_models_are_told() {
    let server = Server::start("llama-gqa", &[]);
    assert_eq!(server.get("/health").ok(), json!({"status": "ok"}));
    let list = server.get("/v1/models").ok();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!(NAME)));
    assert_eq!(list["data"][0]["max_model_len"], 256, "max_position_embeddings");
    assert_eq!(server.get("/v1/models/tiny").ok()["id"], NAME);
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in metrics.text().lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("chariot_") && value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn a_chat_needs_a_template_and_what_it_refuses_is_the_clients_mistake() {
    let folder = Folder::with_text(&json!({}));
    let config = folder.path().join("tokenizer_config.json");
    let chat = |server: &Server| {
        server.post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "hi"}]}))
    };
    fs_err::write(&config, "{}").unwrap();
    let server = Server::start(folder.path().as_str(), &[]);
    refused(&chat(&server), 400, &Value::Null, "a chat template in tokenizer_config.json");
    let template = json!({"chat_template": "{{ raise_exception('roles must alternate') }}"});
    fs_err::write(&config, template.to_string()).unwrap();
    let server = Server::start(folder.path().as_str(), &[]);
    refused(&chat(&server), 400, &json!("messages"), "roles must alternate");
}

#[test]
fn a_full_queue_is_answered_with_429() {
    let server = Server::start("llama-gqa", &["--batch-cap", "1", "--queue", "1", "--max-model-len", "9000"]);
    let long = json!({"prompt": [1, 2, 3], "max_tokens": 8000, "temperature": 0});
    let running = server.stream(&long);
    let waiting = server.connect(
        "POST",
        "/v1/completions",
        json!({"model": NAME, "prompt": [4], "max_tokens": 8}).to_string().as_bytes(),
    );
    server.await_metric("chariot_requests_waiting", 1.0);
    for stream in [false, true] {
        let answer = server.complete(&json!({"prompt": [1], "stream": stream}));
        refused(&answer, 429, &Value::Null, "the queue is full: 2 requests run or wait");
        assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    }
    assert_eq!(server.metric("chariot_requests_total{outcome=\"rejected\"}"), 2.0);
    // The first goes away: the second has its turn, and there is room again.
    drop(running);
    assert_eq!(Answer::read(waiting).ok()["usage"]["completion_tokens"], 8);
    server.complete(&json!({"prompt": [1]})).ok();
}

#[test]
fn a_request_that_never_fits_into_the_cache_is_refused() {
    let server = Server::start("llama-gqa", &["--kv-blocks", "3"]);
    let answer = server.complete(&json!({"prompt": [[1], vec![1; 40]], "max_tokens": 16}));
    refused(&answer, 400, &json!("prompt"), "fits into the KV cache");
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    server.complete(&json!({"prompt": vec![1; 30], "max_tokens": 16})).ok();
    server.await_metric("chariot_kv_blocks_used", 0.0);
}

#[test]
fn mistakes_of_who_starts_it_end_with_code_2() {
    let folder = Folder::new(&json!({}));
    fs_err::write(folder.path().join("tokenizer.json"), "{\"version\": 1}").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let good = format!("{GOLDEN}/llama-gqa");
    for (model, more, said) in [
        (good.as_str(), &["--tp", "3"][..], "tp=3"),
        (&good, &["--port", &port], "in use"),
        (&good, &["--kv-memory", "1KiB"], "--kv-memory: expected at least a block"),
        (&good, &["--kv-memory", "1GB"], "KiB, MiB or GiB"),
        (&good, &["--policy", "orca", "--chunk", "8"], "--chunk: expected none"),
        (&good, &["--policy", "orca", "--kv-blocks", "2"], "KV blocks"),
        (&good, &["--policy", "best"], "possible values"),
        ("/nowhere", &[], "config.json: expected a file"),
        (folder.path().as_str(), &[], "tokenizer.json: "),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_chariot-engine"))
            .args(["serve", "--model", model])
            .args(if more.contains(&"--port") { &[][..] } else { &["--port", "0"] })
            .args(more)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
        assert!(error.contains(said), "{more:?}: expected `{said}` in: {error}");
    }
}

/// A connection that says so much and no more.
fn unfinished(server: &Server, begun: &str) -> (Vec<u8>, Duration) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(begun.as_bytes()).unwrap();
    let began = monotonic();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    (answer, monotonic() - began)
}

fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn who_does_not_finish_a_request_is_not_waited_for() {
    let server = Server::start("llama-gqa", &["--read-timeout", "1"]);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n";
    for begun in ["", "POST /v1/comp", head] {
        let (answer, took) = unfinished(&server, begun);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{begun:?}: {answer}");
        assert!((0.9..20.0).contains(&took.as_secs_f64()), "{begun:?}: {took:?}");
    }
    let (answer, _) = unfinished(&server, &format!("{head}\r\n{{\"model\":"));
    refused(&Answer::read(&answer[..]), 408, &Value::Null, "expected the body within 1 s");
    server.complete(&json!({"prompt": [1]})).ok();
    assert_eq!(server.metric("chariot_requests_total{outcome=\"invalid\"}"), 1.0);
}

#[test]
fn every_policy_serves() {
    for policy in ["vllm", "orca", "faster-transformer", "simple-chunking"] {
        let server = Server::start("llama-gqa", &["--policy", policy, "--batch-cap", "2", "--pp", "2"]);
        let answer = server.complete(&json!({"prompt": [[1, 2], [3], [4, 5, 6]], "max_tokens": 5})).ok();
        assert_eq!(answer["usage"]["completion_tokens"], 15, "{policy}");
    }
}
