//! What GPUs of different hosts send each other, tested before anything is measured on them: by the processes and over the connections that a trial
//! has. Knows no operation.

use std::io::Write as _;
use std::time::Instant;

use anyhow::Context;
use chariot_engine::bring_up;
use chariot_engine::selftest::stamps::{self, Stamps};
use chariot_engine::selftest::{Check, DTYPES, name};
use chariot_engine::sim::platform::Platform;

use super::nodes::{Node, nodes_of};
use super::ranks::bare;

/// Refuses to measure on GPUs of a platform's hosts that compute wrongly, or that get wrong values from each other: those of the first `ranks` ranks,
/// as far as they have not passed.
pub(super) fn before_measuring(platform: &Platform, ranks: u32) -> anyhow::Result<()> {
    let nodes = nodes_of(platform, ranks);
    let mut gpus = Vec::new();
    for node in &nodes {
        gpus.extend(node.before_measuring()?);
    }
    match nodes.len() {
        // What its GPUs exchange was tested there.
        1 => Ok(()),
        _ => test_if_new(platform, &nodes, &gpus),
    }
}

/// Tests what GPUs of all nodes exchange, unless they have passed. `gpus`: what they are, by rank.
fn test_if_new(platform: &Platform, nodes: &[Node], gpus: &[String]) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("find this executable")?;
    let stamp = Stamps::of(&program, &stamps::folder())?.across(gpus);
    if stamp.is_there() {
        return Ok(());
    }
    let (began, ranks) = (now(), gpus.len() as u32);
    let found = bring_up::exchanges(&program, &bare(platform, ranks), ranks, &DTYPES)
        .context("test what GPUs of different hosts exchange, before anything is measured")?;
    if let Some(wrong) = first_wrong(nodes, &found) {
        anyhow::bail!("{wrong}; nothing is measured on GPUs that exchange wrong values");
    }
    let (results, seconds) = (found.iter().map(Vec::len).sum::<usize>(), began.elapsed().as_secs_f64());
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(
        std::io::stderr(),
        "self-test before the first trial: {ranks} GPUs of {} nodes exchange values rightly: {results} results in {seconds:.1} s",
        nodes.len()
    );
    stamp.put().context("remember that the GPUs exchange values rightly")
}

/// The first result that is not what was sent, in words: later ones may be wrong because of it.
fn first_wrong(nodes: &[Node], found: &[Vec<Check>]) -> Option<String> {
    let mut all =
        (0_u32..).zip(found).flat_map(|(rank, checks)| checks.iter().map(move |check| (rank, check)));
    let (rank, check) = all.find(|(_, check)| !check.is_right())?;
    let Check { operation, shape, dtype, error, allowed } = check;
    let place =
        nodes.iter().find(|node| node.has(rank)).map_or_else(String::new, |node| format!(" of {node}"));
    Some(format!(
        "rank {rank}{place} gets wrong values: {operation} of {shape} in {} is off by {error:.2e}, expected at most {allowed:.2e}",
        name(*dtype)
    ))
}

#[expect(clippy::disallowed_methods, reason = "says how long the test took")]
fn now() -> Instant {
    Instant::now()
}
