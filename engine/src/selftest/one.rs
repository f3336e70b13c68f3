//! One GPU's part of the test, in a process of its own.

use std::time::Duration;

use camino::Utf8Path;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::bed::Bed;
use super::collectives::{Place, exchanged};
use super::operations::Run;
use super::{Check, Tested, attention, operations};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{Cuda, Options, kernel_folder};
use crate::comm::{CommError, Mesh, Patience};
use crate::shard::Dtype;

/// How long a rank waits for the others to come: each compiles and opens its GPU first.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process tests.
#[derive(Debug)]
pub struct Seat<'a> {
    /// Ordinals of the GPUs, in order of ranks.
    pub gpus: &'a [usize],
    /// This process has `gpus[rank]`.
    pub rank: usize,
    /// Memory that all ranks share, by [`crate::comm::shm::SharedMemory::path`]; absent: operations are tested, and nothing between ranks.
    pub meet: Option<&'a Utf8Path>,
    /// Types to test.
    pub dtypes: &'a [Dtype],
}

/// Asks the system to end this process with the one that started it, however that ends.
pub fn end_with_parent() -> std::io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Tests it; never fails, but says so.
pub fn run_one(seat: &Seat<'_>) -> Tested {
    let mut checks = Vec::new();
    let failure = match seat.meet {
        Some(meet) => messages(seat, meet, &mut checks),
        None => seat.dtypes.iter().try_for_each(|&dtype| compare(seat.gpus[seat.rank], dtype, &mut checks)),
    };
    Tested { checks, failure: failure.err() }
}

fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

/// As trials compute, but call by call.
const PLAIN: Options = Options { graphs: false, ..Options::FAST };

/// Every operation of one type on both backends; attention to prompts by the flash kernels, and where there are such also without.
fn compare(gpu: usize, dtype: Dtype, checks: &mut Vec<Check>) -> Result<(), String> {
    let all = |checks: &mut Vec<Check>| {
        let cases = (cases::<Cpu>(), cases::<Cuda>());
        compare_on(gpu, dtype, PLAIN, cases, checks)
    };
    all(checks)?;
    if dtype == Dtype::Float32 {
        return Ok(());
    }
    let before = checks.len();
    let attention = (attention::cases::<Cpu>().into(), attention::cases::<Cuda>().into());
    let compared = compare_on(gpu, dtype, Options { flash: false, ..PLAIN }, attention, checks);
    // What else the stories test was tested before.
    let mut again = checks.split_off(before);
    again.retain(|check| check.operation == "attend");
    again.iter_mut().for_each(|check| check.operation.push_str(" by products"));
    checks.extend(again);
    compared
}

fn compare_on(
    gpu: usize,
    dtype: Dtype,
    options: Options,
    (of_cpu, of_cuda): (Vec<Case<Cpu>>, Vec<Case<Cuda>>),
    checks: &mut Vec<Check>,
) -> Result<(), String> {
    let mut cpu = Cpu::new(1, None).map_err(|error| format!("start a compute thread: {error}"))?;
    let mut cuda = Cuda::open(gpu, &kernel_folder(), options).map_err(|error| words(&error))?;
    let (mut expected, mut found) = (Bed { backend: &mut cpu, dtype }, Bed { backend: &mut cuda, dtype });
    for ((name, on_cpu), (_, on_cuda)) in of_cpu.into_iter().zip(of_cuda) {
        let expected =
            on_cpu(&mut expected).map_err(|error| format!("{name} on the CPU: {}", words(&error)))?;
        let found = on_cuda(&mut found).map_err(|error| format!("{name}: {}", words(&error)))?;
        let pairs = expected.iter().zip(&found);
        checks.extend(pairs.map(|(expected, found)| expected.check(&found.values, dtype)));
        if name == operations::TRANSFER && !checks.iter().all(Check::is_right) {
            return Err(
                "values do not come back as they went there, so that nothing else can be tested".to_owned()
            );
        }
    }
    Ok(())
}

/// An operation's name, and what tests it.
type Case<B> = (&'static str, Run<B>);

fn cases<B: Backend>() -> Vec<Case<B>> {
    operations::cases().into_iter().chain(attention::cases()).collect()
}

/// All messages, of all types: ranks meet once.
fn messages(seat: &Seat<'_>, meet: &Utf8Path, checks: &mut Vec<Check>) -> Result<(), String> {
    let mesh = Mesh::shared_memory(meet, seat.rank, seat.gpus.len(), Patience::shared_cores(PATIENCE));
    let mesh = mesh.map_err(|error| format!("meet the other ranks: {error}"))?;
    let names: Vec<String> = seat.gpus.iter().map(|gpu| format!("GPU {gpu}")).collect();
    let place = Place { mesh: &mesh, rank: seat.rank, names: &names };
    for &dtype in seat.dtypes {
        let mut cuda =
            Cuda::open(seat.gpus[seat.rank], &kernel_folder(), PLAIN).map_err(|error| words(&error))?;
        let results = exchanged(&mut cuda, dtype, &place);
        let results = results.map_err(|error| format!("values between GPUs: {}", words(&error)))?;
        // A group ends for all when one rank leaves it, whatever is still on its way.
        everybody_is_here(&mesh, seat).map_err(|error| format!("wait for the other ranks: {error}"))?;
        checks.extend(results);
    }
    Ok(())
}

/// Returns when all ranks have called it.
fn everybody_is_here(mesh: &Mesh, seat: &Seat<'_>) -> Result<(), CommError> {
    let ranks: Vec<usize> = (0..seat.gpus.len()).collect();
    let mut all = vec![0.0; ranks.len()];
    mesh.group(&ranks).all_gather(&[0.0], &mut all)
}
