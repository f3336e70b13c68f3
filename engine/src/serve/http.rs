//! The HTTP edge: routes, statuses and connections. Knows no engine but by the counter, and no model but by what it is asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};
use tokio::sync::mpsc::unbounded_channel;

use super::Limits;
use super::answer::{Frame, Kind, Usage};
use super::choice::Choice;
use super::desk::{Counter, Order, Submission};
use super::error::{ApiError, Result};
use super::metrics::{Metrics, Outcome};
use super::reply::{Claim, Reply};
use super::request::{Chat, Completion, Options};
use super::served::ServedModel;
use crate::clock::{monotonic_ns, unix_seconds};
use crate::runtime::Prompt;

/// Whether requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Health {
    /// They are.
    Serving = 0,
    /// No new ones.
    Closing = 1,
    /// The engine failed.
    Failed = 2,
}

/// What handlers share. Atomics, for handlers and the engine's thread run side by side.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) model: ServedModel,
    pub(super) counter: Counter,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: AtomicU8,
    /// Prompts of one request at most: as many as could ever be held at once.
    pub(super) prompts_max: usize,
    body_bytes_max: usize,
    read_by: Duration,
    /// Part of the names of answers: which run of the server.
    run: u64,
    /// Requests so far.
    tickets: AtomicU64,
    /// Seconds since 1970.
    created: i64,
}

impl Edge {
    /// Serving.
    pub(super) fn new(
        model: ServedModel,
        counter: Counter,
        metrics: Arc<Metrics>,
        prompts_max: usize,
        limits: &Limits,
    ) -> Self {
        Self {
            model,
            counter,
            metrics,
            health: AtomicU8::new(Health::Serving as u8),
            prompts_max,
            body_bytes_max: limits.body_bytes,
            read_by: limits.read_by,
            run: random(),
            tickets: AtomicU64::new(0),
            created: unix_seconds(),
        }
    }

    /// From now on it stands like this.
    pub(super) fn turn(&self, health: Health) {
        self.health.store(health as u8, Relaxed);
    }

    fn check_health(&self) -> Result<()> {
        match self.health.load(Relaxed) {
            serving if serving == Health::Serving as u8 => Ok(()),
            closing if closing == Health::Closing as u8 => {
                Err(ApiError::unavailable("the server is shutting down"))
            }
            _ => Err(ApiError::unavailable("the engine failed")),
        }
    }
}

/// The server's routes.
pub(super) fn routes(edge: Arc<Edge>) -> Router {
    Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chats))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(edge.body_bytes_max))
        .with_state(edge)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, json_body(&self.json())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn json_body(body: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string())
}

async fn no_path(uri: Uri) -> ApiError {
    ApiError::no_path(uri.path())
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::method(uri.path(), method.as_str())
}

async fn health(State(edge): State<Arc<Edge>>) -> Result<Response> {
    edge.check_health()?;
    Ok(json_body(&json!({"status": "ok"})).into_response())
}

async fn metrics(State(edge): State<Arc<Edge>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], edge.metrics.text())
        .into_response()
}

async fn models(State(edge): State<Arc<Edge>>) -> Response {
    json_body(&json!({"object": "list", "data": [card(&edge)]})).into_response()
}

async fn model(State(edge): State<Arc<Edge>>, Path(name): Path<String>) -> Result<Response> {
    match name == edge.model.name {
        true => Ok(json_body(&card(&edge)).into_response()),
        false => Err(ApiError::no_model(&edge.model.name, &name)),
    }
}

fn card(edge: &Edge) -> Value {
    json!({
        "id": edge.model.name, "object": "model", "created": edge.created, "owned_by": "chariot",
        "max_model_len": edge.model.max_model_len,
    })
}

/// A body's prompts and how their outputs are told.
type Read = fn(&Edge, &[u8]) -> Result<Asked>;
type Asked = (Vec<Prompt>, Options);

/// A whole body, or why there is none.
struct Sent(Result<Bytes>);

impl FromRequest<Arc<Edge>> for Sent {
    type Rejection = Infallible;

    async fn from_request(request: Request, edge: &Arc<Edge>) -> std::result::Result<Self, Infallible> {
        let read = tokio::time::timeout(edge.read_by, Bytes::from_request(request, edge)).await;
        let Ok(body) = read else { return Ok(Self(Err(ApiError::slow(edge.read_by)))) };
        Ok(Self(body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::body(edge.body_bytes_max),
            _ => ApiError::malformed(format_args!("body: {}", rejection.body_text())),
        })))
    }
}

async fn completions(State(edge): State<Arc<Edge>>, body: Sent) -> Result<Response> {
    answer(edge, body, Kind::Completion, |edge, body| {
        let request = Completion::parse(body, &edge.model.name)?;
        let prompts = edge.model.completion(&request, random())?;
        Ok((prompts, request.options))
    })
    .await
}

async fn chats(State(edge): State<Arc<Edge>>, body: Sent) -> Result<Response> {
    answer(edge, body, Kind::Chat, |edge, body| {
        let request = Chat::parse(body, &edge.model.name)?;
        let prompts = edge.model.chat(&request, random())?;
        Ok((prompts, request.options))
    })
    .await
}

async fn answer(edge: Arc<Edge>, body: Sent, kind: Kind, read: Read) -> Result<Response> {
    let arrival_ns = monotonic_ns();
    edge.check_health()?;
    let read = read_body(&edge, body, read).await;
    let (prompts, options) = read.inspect_err(|_| edge.metrics.ended(Outcome::Invalid, 1))?;
    let mut reply = submit(&edge, kind, arrival_ns, prompts, &options);
    reply.accepted().await?;
    if !options.stream {
        return Ok(json_body(&reply.whole().await?).into_response());
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok((headers, Body::from_stream(reply.events())).into_response())
}

/// Long texts take a while to become tokens, so other requests are served meanwhile.
async fn read_body(edge: &Arc<Edge>, body: Sent, read: Read) -> Result<Asked> {
    let body = body.0?;
    let reading = tokio::task::spawn_blocking({
        let edge = Arc::clone(edge);
        move || read(&edge, &body)
    });
    let (prompts, options) =
        reading.await.map_err(|error| ApiError::lost(format_args!("read the request: {error}")))??;
    if prompts.len() > edge.prompts_max {
        let expected = format!("at most {} prompts at once", edge.prompts_max);
        return Err(ApiError::field("prompt", expected, prompts.len()));
    }
    Ok((prompts, options))
}

/// Hands a request in at the desk.
fn submit(edge: &Edge, kind: Kind, arrival_ns: u64, prompts: Vec<Prompt>, options: &Options) -> Reply {
    let ticket = edge.tickets.fetch_add(1, Relaxed);
    let (sender, news) = unbounded_channel();
    let prefix = match kind {
        Kind::Completion => "cmpl",
        Kind::Chat => "chatcmpl",
    };
    let frame = Frame {
        kind,
        id: format!("{prefix}-{:016x}-{ticket}", edge.run),
        created: unix_seconds(),
        model: edge.model.name.clone(),
        tells_tokens: options.return_token_ids || !edge.model.has_text(),
        tells_usage: options.include_usage,
    };
    let choices = prompts.iter().map(|_| Choice::new(edge.model.decoder(), options.stop.clone())).collect();
    let prompt = prompts.iter().map(|prompt| prompt.tokens.len() as u32).sum();
    let claim = Claim {
        ticket,
        counter: edge.counter.clone(),
        metrics: Arc::clone(&edge.metrics),
        open: prompts.len() as u64,
    };
    edge.counter.order(Order::Submit(Submission { ticket, arrival_ns, prompts, news: sender }));
    Reply { frame, claim, news, choices, usage: Usage { prompt, completion: 0 } }
}

/// A number that nobody knows.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty());
    assert_eq!(filled, Ok(bytes.len()), "the operating system has random numbers");
    u64::from_le_bytes(bytes)
}
