//! The threads of one rank: fork a loop over tasks, join it. Knows nothing of what the tasks compute.
#![expect(
    unsafe_code,
    reason = "a job borrows its caller's stack, and tasks write disjoint parts of one slice"
)]

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Looks at the epoch before a worker parks: some ten microseconds, so that ranks that share a core lose little.
const SPINS: usize = 2000;

/// Values from which on threads share a loop over rows: some microseconds of work.
const SHARE_FROM: usize = 1 << 14;
/// Parts of a thread in a loop over rows.
const PARTS: usize = 4;

type Task<'a> = dyn Fn(usize) + Sync + 'a;
type RowsTask<'a, T> = dyn Fn(usize, &mut [T]) + Sync + 'a;

#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    tasks: usize,
}

// SAFETY: the pointee is Sync, and `Pool::run` keeps it alive until every worker has reported that it is done with it.
unsafe impl Send for Job {}

/// What the lock of a pool protects.
#[derive(Default)]
struct Slot {
    job: Option<Job>,
    /// Workers that wait to be notified: with none, a start costs no system call.
    parked: usize,
}

#[derive(Default)]
struct Shared {
    /// The lock hands the job over and lets workers park without missing a start.
    slot: Mutex<Slot>,
    start: Condvar,
    epoch: AtomicUsize,
    next: AtomicUsize,
    running: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
}

/// Worker threads beside the caller's; none of one thread.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One loop at a time, whichever thread asks.
    turn: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(threads: usize, cores: Option<&[usize]>) -> std::io::Result<Self> {
        let mut pool = Self { shared: Arc::default(), workers: Vec::new(), turn: Mutex::new(()) };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let core = cores.map(|cores| cores[thread]);
            let worker = std::thread::Builder::new().name(format!("cpu-{thread}"));
            pool.workers.push(worker.spawn(move || work(&shared, core))?);
        }
        if let Some(cores) = cores {
            pin(cores[0])?;
        }
        Ok(pool)
    }

    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` with each of `0..tasks` once, on any thread. Panics if a task does, after all threads are done.
    pub(super) fn run(&self, tasks: usize, task: &Task<'_>) {
        if self.workers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(task);
        }
        let _turn = lock(&self.turn);
        // SAFETY: only the lifetime changes, and this function does not return before `running` is 0.
        let erased = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        self.fork(Job { task: erased, tasks });
        let own = catch_unwind(AssertUnwindSafe(|| drain(&self.shared, task, tasks)));
        self.join();
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!self.shared.panicked.swap(false, Ordering::Relaxed), "a task of the pool panicked");
    }

    /// Calls `task` with whole rows of `data`, each of `width` values, and the number of the first; on all threads, unless
    /// there is too little to share.
    pub(super) fn rows<T: Send>(&self, data: &mut [T], width: usize, task: &RowsTask<'_, T>) {
        let (rows, threads) = (data.len() / width, self.threads());
        if threads == 1 || data.len() < SHARE_FROM {
            return task(0, data);
        }
        // Some parts a thread, so that none waits long for another that was held up.
        let step = rows.div_ceil(PARTS * threads);
        let parts = Parts::new(data);
        self.run(rows.div_ceil(step), &|part| {
            let (first, end) = (part * step, ((part + 1) * step).min(rows));
            // SAFETY: each task has its own rows.
            task(first, unsafe { parts.part(first * width, (end - first) * width) });
        });
    }

    /// Calls `task` with each item and its number, on any thread.
    pub(super) fn each<T: Send>(&self, items: &mut [T], task: &(dyn Fn(usize, &mut T) + Sync)) {
        let parts = Parts::new(items);
        // SAFETY: each task has its own item.
        self.run(parts.len, &|index| task(index, &mut unsafe { parts.part(index, 1) }[0]));
    }

    fn fork(&self, job: Job) {
        let shared = &self.shared;
        let mut slot = lock(&shared.slot);
        shared.next.store(0, Ordering::Relaxed);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        slot.job = Some(job);
        shared.epoch.fetch_add(1, Ordering::Release);
        let is_any_parked = slot.parked > 0;
        drop(slot);
        if is_any_parked {
            shared.start.notify_all();
        }
    }

    fn join(&self) {
        let mut spins = 0;
        while self.shared.running.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let slot = lock(&self.shared.slot);
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        drop(slot);
        self.shared.start.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so there is none to hand on.
            let _ = worker.join();
        }
    }
}

fn drain(shared: &Shared, task: &Task<'_>, tasks: usize) {
    loop {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        if index >= tasks {
            return;
        }
        task(index);
    }
}

fn work(shared: &Shared, core: Option<usize>) {
    // A core that cannot be had costs speed, not results, and the caller's own pin reports it.
    let _ = core.map(pin);
    let mut seen = 0;
    loop {
        let job = await_job(shared, &mut seen);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let job = job.expect("a start without a stop sets the job");
        // SAFETY: `Pool::run` keeps the task alive until this thread has counted `running` down.
        let task = unsafe { &*job.task };
        if catch_unwind(AssertUnwindSafe(|| drain(shared, task, job.tasks))).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

fn await_job(shared: &Shared, seen: &mut usize) -> Option<Job> {
    let mut spins = 0;
    while shared.epoch.load(Ordering::Acquire) == *seen && spins < SPINS {
        spins += 1;
        std::hint::spin_loop();
    }
    let mut slot = lock(&shared.slot);
    while shared.epoch.load(Ordering::Acquire) == *seen {
        slot.parked += 1;
        slot = shared.start.wait(slot).unwrap_or_else(PoisonError::into_inner);
        slot.parked -= 1;
    }
    *seen = shared.epoch.load(Ordering::Acquire);
    slot.job
}

fn pin(core: usize) -> std::io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(core)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?)
}

/// A slice of which tasks write disjoint parts.
pub(super) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of an exclusive slice, each to one thread by the contract of `part`.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// # Safety
    /// No other part that overlaps this one may be in use.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint by contract")]
    pub(super) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "expected a part of {} values", self.len);
        // SAFETY: within the slice by the assertion, and exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

impl Parts<'_, f32> {
    /// # Safety
    /// No part that overlaps this one may be in use, and it must lie within the slice: nothing is checked where this is called most.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint by contract")]
    #[inline(always)]
    pub(super) unsafe fn array(&self, start: usize) -> &mut [[f32; 16]; 2] {
        debug_assert!(start + 32 <= self.len, "expected a part of {} values", self.len);
        // SAFETY: this function's contract.
        unsafe { &mut *self.start.add(start).cast() }
    }
}
