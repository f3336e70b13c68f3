//! Sums, gathers and messages between GPUs, against what each rank is known to have sent. Knows a backend by its trait alone.

use super::bed::Bed;
use super::sample::{EPSILON, Sample, made_up, narrowing};
use crate::backend::Backend;
use crate::comm::Mesh;

/// Rows and width of what each rank has.
const ROWS: usize = 3;
const WIDTH: usize = 331;

/// Where a rank stands: GPUs in order of ranks.
pub(super) struct Place<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) rank: usize,
    pub(super) gpus: &'a [usize],
}

/// What this rank found, with what it should have: every rank makes the same calls.
pub(super) fn run<B: Backend>(
    bed: &mut Bed<'_, B>,
    place: &Place<'_>,
) -> Result<Vec<(Sample, Vec<f32>)>, B::Error> {
    // Only now does the backend know its type.
    let mut x = bed.upload(&values_of(place.rank), WIDTH)?;
    let mine = bed.upload(&values_of(place.rank), WIDTH)?;
    let world: Vec<usize> = (0..place.gpus.len()).collect();
    let mut group = bed.backend.group(place.mesh, &world)?;
    bed.backend.all_reduce(&mut group, &mut x)?;
    let mut results = vec![(sum(bed, place), bed.download(&x, ROWS, WIDTH)?)];
    let mut all = bed.backend.tensor();
    bed.backend.all_gather(&mut group, &mine, &mut all)?;
    let gathered = bed.download(&all, world.len() * ROWS, WIDTH)?;
    results.push((
        exact("all_gather", among(place), world.iter().flat_map(|&rank| values_of(rank)).collect()),
        gathered,
    ));
    for from in 0..world.len() {
        for to in (0..world.len()).filter(|&to| to != from) {
            if place.rank == from {
                bed.backend.send(&mut group, to, &mine)?;
                bed.backend.synchronize()?;
            } else if place.rank == to {
                let mut got = bed.backend.tensor();
                bed.backend.recv(&mut group, from, ROWS, WIDTH, &mut got)?;
                let link = format!("GPU {} to GPU {}", place.gpus[from], place.gpus[to]);
                results.push((exact("send, recv", link, values_of(from)), bed.download(&got, ROWS, WIDTH)?));
            }
        }
    }
    Ok(results)
}

fn values_of(rank: usize) -> Vec<f32> {
    made_up(100 + rank as u64, ROWS * WIDTH, 1.0)
}

fn among(place: &Place<'_>) -> String {
    format!("{} GPUs, [{ROWS}, {WIDTH}]", place.gpus.len())
}

fn exact(operation: &'static str, shape: String, values: Vec<f32>) -> Sample {
    Sample { operation, shape, values, allowed: 0.0 }
}

/// Every rank adds in the group's type, in an order that is NCCL's to choose: each of the sums on the way may be rounded.
fn sum<B: Backend>(bed: &Bed<'_, B>, place: &Place<'_>) -> Sample {
    let all: Vec<Vec<f32>> = (0..place.gpus.len()).map(values_of).collect();
    let values = (0..ROWS * WIDTH).map(|index| all.iter().map(|values| values[index]).sum()).collect();
    let ranks = place.gpus.len() as f32;
    let allowed = ranks * ranks * (EPSILON + narrowing(bed.dtype));
    Sample { operation: "all_reduce", shape: among(place), values, allowed }
}
