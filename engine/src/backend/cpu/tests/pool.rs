//! Every task runs once, and a panic reaches the caller.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::pool::Pool;

#[test]
fn every_task_runs_once_in_many_forks() {
    let pool = Pool::new(4, None).unwrap();
    for tasks in (0..2000).map(|fork| fork % 9) {
        let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, &|task| {
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn a_task_that_panics_panics_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3, None).unwrap();
    for bad in 0..20 {
        let run = || pool.run(20, &|task| assert_ne!(task, bad, "told to"));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
    let done = AtomicUsize::new(0);
    pool.run(20, &|_| {
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(done.into_inner(), 20);
}

#[test]
fn every_row_is_visited_once_whatever_its_width() {
    for threads in 1..4 {
        let pool = Pool::new(threads, None).unwrap();
        for (rows, width) in [(1, 7), (3, 6000), (1000, 33), (65, 1024), (40_000, 1)] {
            let mut data = vec![0; rows * width];
            pool.rows(&mut data, width, &|first, rows| {
                for (row, values) in (first..).zip(rows.chunks_exact_mut(width)) {
                    values.iter_mut().for_each(|value| *value += row + 1);
                }
            });
            let is_right = |(row, values): (usize, &[usize])| values.iter().all(|&value| value == row + 1);
            assert!(data.chunks_exact(width).enumerate().all(is_right), "{rows} rows of {width}");
        }
    }
}
