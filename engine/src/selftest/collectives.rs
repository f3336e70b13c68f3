//! Sums, gathers and messages between GPUs, against what each rank is known to have sent. Knows a backend by its trait alone.

use super::Check;
use super::bed::Bed;
use super::sample::{EPSILON, Sample, made_up, narrowing};
use crate::backend::Backend;
use crate::comm::Mesh;
use crate::shard::Dtype;

/// Rows and width of what each rank has: few values, and as many as a step of hundreds of tokens, which NCCL moves another way.
const SIZES: [[usize; 2]; 2] = [[3, 331], [64, 4096]];

/// Where a rank stands.
pub struct Place<'a> {
    /// Its connections to all others.
    pub mesh: &'a Mesh,
    /// Which it is.
    pub rank: usize,
    /// What people call each of the ranks.
    pub names: &'a [String],
}

/// Sums, gathers and messages among all ranks of a mesh, each of which makes this call, on a backend whose weights are of `dtype`, and that runs
/// no step. How far what came is from what was sent.
pub fn exchanged<B: Backend>(
    backend: &mut B,
    dtype: Dtype,
    place: &Place<'_>,
) -> Result<Vec<Check>, B::Error> {
    let got = run(&mut Bed { backend, dtype }, place)?;
    Ok(got.iter().map(|(expected, found)| expected.check(found, dtype)).collect())
}

/// What a rank should have got, and what it got.
type Got = (Sample, Vec<f32>);

/// What this rank got: every rank makes the same calls.
fn run<B: Backend>(bed: &mut Bed<'_, B>, place: &Place<'_>) -> Result<Vec<Got>, B::Error> {
    let world: Vec<usize> = (0..place.names.len()).collect();
    // Made first, for it is what tells the backend its type.
    let mine = SIZES.map(|size| bed.upload(&values_of(place.rank, size), size[1]));
    let mut group = bed.backend.group(place.mesh, &world)?;
    let mut got = Vec::new();
    for (size, mine) in SIZES.into_iter().zip(mine) {
        let mine = mine?;
        let [rows, width] = size;
        let mut x = bed.upload(&values_of(place.rank, size), width)?;
        bed.backend.all_reduce(&mut group, &mut x)?;
        got.push((sum(bed, place, size), bed.download(&x, rows, width)?));
        let mut all = bed.backend.tensor();
        bed.backend.all_gather(&mut group, &mine, &mut all)?;
        let values = world.iter().flat_map(|&rank| values_of(rank, size)).collect();
        let all = bed.download(&all, world.len() * rows, width)?;
        got.push((exact("all_gather", among(place, size), values), all));
        got.extend(messages(bed, place, &mut group, &mine, size)?);
    }
    Ok(got)
}

/// One message from each rank to each other.
fn messages<B: Backend>(
    bed: &mut Bed<'_, B>,
    place: &Place<'_>,
    group: &mut B::Group,
    mine: &B::Tensor,
    size: [usize; 2],
) -> Result<Vec<Got>, B::Error> {
    let ([rows, width], world) = (size, place.names.len());
    let mut got = Vec::new();
    for (from, to) in (0..world).flat_map(|from| (0..world).map(move |to| (from, to))) {
        if from != to && place.rank == from {
            bed.backend.send(group, to, mine)?;
            bed.backend.synchronize()?;
        } else if from != to && place.rank == to {
            let mut x = bed.backend.tensor();
            bed.backend.recv(group, from, rows, width, &mut x)?;
            let link = format!("[{rows}, {width}], {} to {}", place.names[from], place.names[to]);
            got.push((exact("send, recv", link, values_of(from, size)), bed.download(&x, rows, width)?));
        }
    }
    Ok(got)
}

fn values_of(rank: usize, [rows, width]: [usize; 2]) -> Vec<f32> {
    made_up(100 + rank as u64, rows * width, 1.0)
}

fn among(place: &Place<'_>, [rows, width]: [usize; 2]) -> String {
    format!("[{rows}, {width}], {} GPUs", place.names.len())
}

fn exact(operation: &'static str, shape: String, values: Vec<f32>) -> Sample {
    Sample { operation, shape, values, allowed: 0.0 }
}

/// Every rank adds in the group's type, in an order that is NCCL's to choose: each of the sums on the way may be rounded.
fn sum<B: Backend>(bed: &Bed<'_, B>, place: &Place<'_>, size: [usize; 2]) -> Sample {
    let mut values = vec![0.0; size[0] * size[1]];
    for rank in 0..place.names.len() {
        values.iter_mut().zip(values_of(rank, size)).for_each(|(sum, value)| *sum += value);
    }
    let ranks = place.names.len() as f32;
    let allowed = ranks * ranks * (EPSILON + narrowing(bed.dtype));
    Sample { operation: "all_reduce", shape: among(place, size), values, allowed }
}
