//! How requests and servers end: clients that go away, signals, dead workers.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use super::server::{Answer, NAME, Server};

fn long() -> Value {
    json!({"model": NAME, "prompt": vec![1; 40], "max_tokens": 8000, "temperature": 0})
}

/// Four workers, and room for long outputs.
fn server(more: &[&str]) -> Server {
    Server::start("llama-gqa", &[&["--tp", "2", "--pp", "2", "--max-model-len", "9000"], more].concat())
}

#[expect(clippy::disallowed_methods, reason = "how long a failure takes is what is tested")]
fn now() -> Instant {
    Instant::now()
}

fn is_alive(pid: i32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// What is left of a stream.
fn rest(mut stream: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_client_that_goes_away_frees_its_blocks() {
    let server = server(&["--batch-cap", "1"]);
    let post = || server.connect("POST", "/v1/completions", long().to_string().as_bytes());
    // Streamed, then not, then still in the queue.
    let stream = server.stream(&long());
    server.await_metric("chariot_requests_running", 1.0);
    assert!(server.metric("chariot_kv_blocks_used") >= 3.0);
    let queued = post();
    server.await_metric("chariot_requests_waiting", 1.0);
    drop(queued);
    server.await_metric("chariot_requests_waiting", 0.0);
    assert_eq!(server.metric("chariot_requests_running"), 1.0, "the other goes on");
    drop(stream);
    server.await_metric("chariot_kv_blocks_used", 0.0);
    let whole = post();
    server.await_metric("chariot_requests_running", 1.0);
    drop(whole);
    server.await_metric("chariot_kv_blocks_used", 0.0);
    server.await_metric("chariot_requests_total{outcome=\"aborted\"}", 3.0);
    // Whoever comes next gets its tokens, and all of them.
    let answer = server.complete(&json!({"prompt": [1, 2, 3], "max_tokens": 9})).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 9);
}

#[test]
fn a_dead_worker_ends_requests_and_server_with_its_name() {
    for victim in [0, 3] {
        let server = server(&[]);
        let workers = server.workers();
        assert_eq!(workers.len(), 4);
        let stream = server.stream(&long());
        let whole = server.connect("POST", "/v1/completions", long().to_string().as_bytes());
        server.await_metric("chariot_requests_running", 2.0);
        let killed = now();
        kill_process(Pid::from_raw(workers[victim]).unwrap(), Signal::KILL).unwrap();
        let answer = Answer::read(whole);
        assert_eq!(answer.status, 500, "{}", answer.text());
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        let said = format!("rank {victim} (process {}): was killed by signal 9", workers[victim]);
        assert!(message.contains(&said), "{message}");
        let health = server.get("/health");
        assert_eq!(
            (health.status, health.json()["error"]["message"].as_str()),
            (503, Some("the engine failed"))
        );
        assert_eq!(server.complete(&json!({"prompt": [1]})).status, 503);
        let rest = rest(stream);
        assert!(
            rest.contains("data: {\"error\":") && rest.contains(&said) && !rest.contains("[DONE]"),
            "{rest}"
        );
        let (status, error) = server.end();
        assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
        assert_eq!(status.code(), Some(1), "{error}");
        assert!(error.contains(&format!("error: {said}")), "{error}");
        assert!(workers.iter().all(|pid| !is_alive(*pid)), "no orphan");
    }
}

#[test]
fn a_worker_that_dies_while_nobody_asks_is_missed_too() {
    let server = server(&[]);
    let workers = server.workers();
    kill_process(Pid::from_raw(workers[1]).unwrap(), Signal::KILL).unwrap();
    let (status, error) = server.end();
    assert_eq!(status.code(), Some(1), "{error}");
    assert!(error.contains("rank 1"), "{error}");
    assert!(workers.iter().all(|pid| !is_alive(*pid)), "no orphan");
}

#[test]
fn sigterm_lets_running_requests_end_and_takes_no_new_ones() {
    let server = server(&["--grace", "30"]);
    let workers = server.workers();
    let short = json!({"model": NAME, "prompt": [1, 2], "max_tokens": 3000, "temperature": 0});
    let whole = server.connect("POST", "/v1/completions", short.to_string().as_bytes());
    server.await_metric("chariot_requests_running", 1.0);
    // Who is connected and has not asked yet hears that it is too late; nobody else is let in.
    let mut late = TcpStream::connect(server.address).unwrap();
    late.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    server.metric("chariot_requests_running");
    server.signal(Signal::TERM);
    while TcpStream::connect(server.address).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    late.write_all(b"Host: test\r\n\r\n").unwrap();
    assert_eq!(Answer::read(late).status, 503);
    assert_eq!(Answer::read(whole).ok()["usage"]["completion_tokens"], 3000);
    let address = server.address;
    let (status, error) = server.end();
    assert_eq!(status.code(), Some(0), "{error}");
    assert!(TcpStream::connect(address).is_err());
    assert!(workers.iter().all(|pid| !is_alive(*pid)), "no orphan");
}

#[test]
fn what_outlasts_the_grace_is_cut_off() {
    let server = server(&["--grace", "0", "--backend", "cpu"]);
    let workers = server.workers();
    let stream = server.stream(&long());
    let whole = server.connect("POST", "/v1/completions", long().to_string().as_bytes());
    server.await_metric("chariot_requests_running", 2.0);
    // To the server's whole process group, as a terminal does.
    kill_process_group(Pid::from_raw(server.pid() as i32).unwrap(), Signal::INT).unwrap();
    let answer = Answer::read(whole);
    assert_eq!(
        (answer.status, &answer.json()["error"]["message"]),
        (503, &json!("the server is shutting down"))
    );
    let rest = rest(stream);
    assert!(rest.contains("the server is shutting down") && !rest.contains("[DONE]"), "{rest}");
    let (status, error) = server.end();
    assert_eq!((status.code(), error.as_str()), (Some(0), ""));
    assert!(workers.iter().all(|pid| !is_alive(*pid)), "no orphan");
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace() {
    let server = server(&["--grace", "3600"]);
    let stream = server.stream(&long());
    server.signal(Signal::TERM);
    // Signals of one kind that come together count once.
    std::thread::sleep(Duration::from_millis(200));
    server.signal(Signal::TERM);
    assert!(rest(stream).contains("the server is shutting down"));
    assert_eq!(server.end().0.code(), Some(0));
}
