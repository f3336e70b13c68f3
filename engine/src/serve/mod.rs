//! The front door: an HTTP server that speaks OpenAI's protocol, over the same engine as trials.
//!
//! ```text
//! HTTP edge (one thread, tokio)                     desk (the thread that called `serve`)
//! http: routes -> request -> served: prompts   ->   orders: submit, forget, close
//! reply: text, stop strings, JSON, events      <-   news: accepted, token, cut, lost
//! ```
//!
//! Orders and news are plain data on channels; an order also ends the engine's wait. What a client sees is decided at the edge,
//! what runs when at the desk. docs/serve.md tells users of it.

mod answer;
mod choice;
mod desk;
mod error;
mod fields;
mod http;
mod listen;
mod metrics;
mod reply;
mod request;
mod served;
mod template;
mod text;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::runtime::{Loss, RuntimeExecutor};
use desk::Desk;
use http::{Edge, Health};
use listen::Phase;
use metrics::Metrics;
pub use served::ServedModel;

/// How long a server whose engine failed goes on saying so.
const OBITUARY: Duration = Duration::from_secs(1);

/// How a server behaves.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that wait, beside as many as may run.
    pub queue: usize,
    /// Bytes of a request's body at most.
    pub body_bytes: usize,
    /// A request's head, and then its body, must have come by then.
    pub read_by: Duration,
    /// How long running requests may go on after SIGINT or SIGTERM; a second signal ends them at once.
    pub grace: Duration,
}

/// Why a server ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] Loss),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
}

/// What failed.
fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::Io { what, source }
}

/// Serves `model` on `listener` until SIGINT, SIGTERM or a failure. Its workers are gone when it returns. `ready` is called once
/// requests are answered.
pub fn serve(
    listener: TcpListener,
    model: ServedModel,
    engine: Engine<RuntimeExecutor>,
    limits: &Limits,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let metrics = Arc::new(Metrics::new());
    let capacity = engine.scheduler().config().batch_cap as usize + limits.queue;
    let (desk, counter) = Desk::new(engine, capacity, Arc::clone(&metrics));
    let edge = Arc::new(Edge::new(model, counter, metrics, capacity, limits));
    let phase = watch::Sender::new(Phase::Open);
    let http = listen::start(listener, Arc::clone(&edge), phase.clone(), *limits)?;
    ready();
    let served = desk.run(|| edge.turn(Health::Failed));
    if served.is_err() {
        std::thread::sleep(OBITUARY);
    }
    phase.send_replace(Phase::Ended);
    let closed = http.join().expect("the edge does not panic");
    served?;
    closed.map_err(failed("serve HTTP"))
}
