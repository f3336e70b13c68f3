//! A server that is started and asked, over plain sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

pub(crate) const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/golden");
/// What every server of a test calls its model.
pub(crate) const NAME: &str = "tiny";

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Open, so that the server never writes into a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Serves a golden model, or any folder that `model` names with a slash.
    pub(crate) fn start(model: &str, more: &[&str]) -> Self {
        let folder = if model.contains('/') { model.to_owned() } else { format!("{GOLDEN}/{model}") };
        let mut child = Command::new(env!("CARGO_BIN_EXE_chariot-engine"))
            .args(["serve", "--port", "0", "--served-model-name", NAME, "--model", &folder])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some((_, address)) = line.trim().split_once("listens on http://") else {
            let output = child.wait_with_output().unwrap();
            panic!("expected a server, found `{line}` and: {}", String::from_utf8_lossy(&output.stderr));
        };
        Self { child, address: address.parse().unwrap(), _stdout: stdout }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn workers(&self) -> Vec<i32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let text = fs_err::read_to_string(path).unwrap_or_default();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; what it said on stderr comes along.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }

    pub(crate) fn connect(&self, method: &str, path: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        stream
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        Answer::read(self.connect(method, path, body))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, named(body).to_string().as_bytes())
    }

    pub(crate) fn complete(&self, body: &Value) -> Answer {
        self.post("/v1/completions", body)
    }

    /// A stream whose first event has come.
    pub(crate) fn stream(&self, body: &Value) -> BufReader<TcpStream> {
        let mut body = named(body);
        body["stream"] = json!(true);
        let mut reader = BufReader::new(self.connect("POST", "/v1/completions", body.to_string().as_bytes()));
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "expected an event");
        }
        reader
    }

    /// A number that the server counts.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("expected {name} in:\n{text}")).parse().unwrap()
    }

    pub(crate) fn await_metric(&self, name: &str, expected: f64) {
        let mut found = self.metric(name);
        for _ in 0..500 {
            if found == expected {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
            found = self.metric(name);
        }
        panic!("{name}: expected {expected}, found {found}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended; its workers end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn named(body: &Value) -> Value {
    let mut body = body.clone();
    if body.get("model").is_none() {
        body["model"] = json!(NAME);
    }
    body
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..split].to_vec()).unwrap().to_lowercase();
        let body = &bytes[split + 4..];
        let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_vec() };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("every answer is UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("expected JSON, found {self:?}"))
    }

    /// The answer of a request that went well.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The events of a stream, each checked to be whole; the last must be `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(
            (self.status, self.header("content-type").unwrap()),
            (200, "text/event-stream; charset=utf-8")
        );
        let text = self.text();
        let mut events: Vec<&str> =
            text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

/// The content of a body that came in chunks; one that was cut off is cut off here too.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        let chunk = &body[end + 2..];
        content.extend_from_slice(&chunk[..length.min(chunk.len())]);
        body = chunk.get(length + 2..).unwrap_or_default();
    }
    content
}

/// Token ids of output `index`.
pub(crate) fn token_ids(answer: &Value, index: usize) -> Vec<u32> {
    serde_json::from_value(answer["choices"][index]["token_ids"].clone()).unwrap()
}

/// A golden model's prompts and the tokens that Transformers continues them with.
pub(crate) fn golden(model: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let text = fs_err::read_to_string(format!("{GOLDEN}/{model}/golden.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let ids = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    let prompts = json["prompts"].as_array().unwrap().iter();
    prompts.map(|prompt| (ids(&prompt["tokens"]), ids(&prompt["greedy"]))).collect()
}
