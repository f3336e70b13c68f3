//! The edge's thread: connections in, until a signal or the engine's end. Knows no route.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::desk::Order;
use super::http::{Edge, Health, routes};
use super::{Limits, ServeError, failed};

/// How long answers that are made may take to reach their clients once the engine has ended.
const DELIVERY: Duration = Duration::from_secs(1);
/// After a connection that could not be accepted.
const RETRY: Duration = Duration::from_millis(50);

/// How far a server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Connections are accepted.
    Open,
    /// A signal came: none are, running requests go on.
    Closing,
    /// The engine has ended.
    Ended,
}

struct Signals {
    interrupts: Signal,
    terminations: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (interrupts, terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupts, terminations })
    }

    /// The next of either kind.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
    }
}

/// Answers on `listener` from now on, on a thread that ends soon after `phase` says that the engine has.
pub(super) fn start(
    listener: TcpListener,
    edge: Arc<Edge>,
    phase: watch::Sender<Phase>,
    limits: Limits,
) -> Result<JoinHandle<io::Result<()>>, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start the HTTP edge"))?;
    listener.set_nonblocking(true).map_err(failed("listen"))?;
    // Both register with the runtime.
    let guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed("listen"))?;
    let signals = Signals::new().map_err(failed("listen to signals"))?;
    drop(guard);
    let run = move || {
        let result = runtime.block_on(run(listener, edge, phase, signals, limits));
        // A text that is still being read is read for nobody.
        runtime.shutdown_background();
        result
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(run).map_err(failed("start the HTTP edge"))
}

async fn run(
    listener: tokio::net::TcpListener,
    edge: Arc<Edge>,
    phase: watch::Sender<Phase>,
    signals: Signals,
    limits: Limits,
) -> io::Result<()> {
    let (mut closing, mut ended) = (phase.subscribe(), phase.subscribe());
    tokio::spawn(watch_signals(signals, Arc::clone(&edge), phase, limits.grace));
    let connections = GracefulShutdown::new();
    tokio::select! {
        () = accept(&listener, routes(edge), limits.read_by, &connections) => {}
        // An error means that nobody can say so any more: then it is over as well.
        _ = closing.wait_for(|phase| *phase != Phase::Open) => {}
    }
    drop(listener);
    let late = async {
        let _ = ended.wait_for(|phase| *phase == Phase::Ended).await;
        tokio::time::sleep(DELIVERY).await;
    };
    tokio::select! {
        () = connections.shutdown() => {}
        () = late => {}
    }
    Ok(())
}

/// Serves whoever connects. A connection on which no request's head comes within `read_by` is closed, be it slow or idle.
async fn accept(
    listener: &tokio::net::TcpListener,
    routes: Router,
    read_by: Duration,
    connections: &GracefulShutdown,
) {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(read_by);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // The client is gone already, or there are too many open files: others may close meanwhile.
            tokio::time::sleep(RETRY).await;
            continue;
        };
        // Parts of a stream go out one by one, not gathered. A connection that refuses this is served all the same.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(routes.clone());
        let connection = connections.watch(protocol.serve_connection(TokioIo::new(stream), service));
        // What ends a connection early is its client's doing.
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn watch_signals(mut signals: Signals, edge: Arc<Edge>, phase: watch::Sender<Phase>, grace: Duration) {
    loop {
        signals.next().await;
        edge.turn(Health::Closing);
        edge.counter.order(Order::Close { grace_ns: u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX) });
        phase.send_if_modified(|phase| {
            let is_first = *phase == Phase::Open;
            if is_first {
                *phase = Phase::Closing;
            }
            is_first
        });
    }
}
