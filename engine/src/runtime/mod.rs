//! Real execution: a driver that forms batches, and one worker process a rank that runs them.
//!
//! ```text
//! driver                                        worker of rank r = stage * tp + tp rank
//! spawn, secret and setup on its stdin    ->    connects back, proves the secret
//! Clock, a few times                      ->
//!                                         <-    Clock(its time)
//! Join(addresses)                         ->    meets its peers, loads its weights
//!                                         <-    Ready
//! Step(chunks, tokens, blocks)            ->    embeds or receives, runs its layers, sends or samples
//!                                         <-    Stage(times) from each stage, with the tokens from the last
//!                                         <-    Alive, several times a second
//! Layers(chunks, tokens, blocks)          ->    Layers(times), from the first rank of the last stage
//! Memory                                  ->    Memory(free bytes)
//! CheckExchanges(type)                    ->    Checked(errors of what came from the others)
//! Stop                                    ->    Bye
//! ```
//!
//! The driver knows no tensor, a worker no scheduler. Whatever goes wrong ends the trial with one error that names a rank, and
//! leaves no process behind.

mod driver;
mod exchange;
#[cfg(debug_assertions)]
mod hang;
mod health;
mod launch;
mod limit;
mod lookout;
mod loss;
mod meeting;
mod offset;
mod places;
mod probe;
mod protocol;
mod rank;
mod sequences;
mod speed;
mod step;
mod switchboard;
mod unfit;
mod warm_up;
mod worker;

pub use driver::{Plan, RuntimeExecutor, Summary};
pub use launch::LaunchError;
pub use loss::Loss;
pub use places::{Place, Places};
pub use probe::{ProbePart, ProbePlan, Probed, probe_blocks};
pub use protocol::{Exchange, ExchangeKind, Weights};
pub use sequences::Prompt;
pub use speed::{check_ns, check_ns_max, slowed};
pub use switchboard::Waker;
pub use unfit::FETCH_AGAIN;
pub use warm_up::Bounds;
pub use worker::run as run_worker;
