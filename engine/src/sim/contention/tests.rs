use super::*;

const FAR: Nanos = Nanos(1 << 60);

/// A batch of two stages that reaches the first at `arrives`.
fn job(number: u32, arrives: u64, work: [u64; 2], factor: f64) -> Job {
    Job {
        batch: BatchId(number),
        arrives: Nanos(arrives),
        work: work.iter().map(|time| (Nanos(*time), factor)).collect(),
        sends: vec![Nanos(5)],
        back: Nanos(7),
        process: Nanos(1),
    }
}

/// Lets all batches leave; when each was back, and all stays as (batch, stage, start, end).
fn drain(mut contention: Contention) -> (Vec<u64>, Vec<[u64; 4]>) {
    let (mut backs, mut stays) = (Vec::new(), Vec::new());
    while contention.len() > 0 {
        let keep = |stay: StageStay| {
            stays.push([u64::from(stay.batch.0), u64::from(stay.stage), stay.start.0, stay.end.0]);
        };
        backs.push(contention.leave(FAR, keep).unwrap().back.0);
    }
    (backs, stays)
}

#[test]
fn a_batch_alone_takes_its_lone_times() {
    let mut contention = Contention::new(2);
    contention.enter(job(0, 100, [1000, 2000], 9.0));
    let (backs, stays) = drain(contention);
    assert_eq!(stays, [[0, 0, 100, 1100], [0, 1, 1105, 3105]]);
    assert_eq!(backs, [3112]);
}

#[test]
fn two_busy_stages_run_at_half_speed() {
    let mut contention = Contention::new(2);
    contention.enter(job(0, 0, [1000, 2000], 2.0));
    contention.enter(job(1, 0, [1000, 500], 2.0));
    let (backs, stays) = drain(contention);
    // Batch 0 leaves stage 0 at 1000; its way to stage 1 costs batch 1, alone until 1005, nothing. From there both run at half
    // speed: batch 1 has 995 to go until 2995, and batch 0 then 1005 of its 2000, alone: it leaves at 4000. Batch 1 is there at 3000.
    assert_eq!(stays, [[0, 0, 0, 1000], [1, 0, 1000, 2995], [0, 1, 1005, 4000], [1, 1, 4000, 4500]]);
    assert_eq!(backs, [4007, 4507]);
}

#[test]
fn without_slowing_down_it_is_the_recursion_over_stages() {
    let mut contention = Contention::new(2);
    let works = [[1000, 700], [50, 900], [300, 20], [800, 800]];
    let (mut free, mut expected, mut backs) = ([0_u64; 2], Vec::new(), Vec::new());
    for (number, work) in works.into_iter().enumerate() {
        let mut ready = 13 * number as u64;
        contention.enter(job(number as u32, ready, work, 1.0));
        for stage in 0..2 {
            ready += if stage > 0 { 5 } else { 0 };
            let start = ready.max(free[stage]);
            ready = start + work[stage];
            free[stage] = ready;
            expected.push([number as u64, stage as u64, start, ready]);
        }
        backs.push(ready + 7);
    }
    let (found, mut stays) = drain(contention);
    stays.sort_unstable();
    assert_eq!((found, stays), (backs, expected));
}

#[test]
fn time_stops_where_it_is_told() {
    let mut contention = Contention::new(2);
    contention.enter(job(0, 0, [1000, 1000], 3.0));
    assert_eq!(contention.leave(Nanos(400), |_| ()), None);
    // A second batch comes while the first has 600 of its first stage to go, and must wait for it.
    contention.enter(job(1, 400, [1000, 1000], 3.0));
    let (backs, stays) = drain(contention);
    assert_eq!(stays[0], [0, 0, 0, 1000]);
    assert_eq!(stays[1][..3], [1, 0, 1000]);
    assert!(backs[0] < backs[1]);
}

#[test]
fn batches_keep_their_order_whatever_they_take() {
    let mut contention = Contention::new(2);
    for number in 0..6 {
        let work = if number % 2 == 0 { [900, 10] } else { [0, 700] };
        contention.enter(job(number, 0, work, 1.5));
    }
    let mut left = Vec::new();
    while contention.len() > 0 {
        left.push(contention.leave(FAR, |_| ()).unwrap().batch.0);
    }
    assert_eq!(left, [0, 1, 2, 3, 4, 5]);
}
