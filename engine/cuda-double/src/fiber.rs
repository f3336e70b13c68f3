//! CUDA threads as fibers: one block at a time, threads switched at barriers. Knows a kernel's entry, no stream.
#![expect(unsafe_code, reason = "switches stacks and handles faults")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering};

const STACK: usize = 64 << 10;
/// Most threads of a block.
pub(crate) const THREADS_MAX: usize = 1024;
const WARP: usize = 32;
/// Kinds of waits, as shim.h numbers them.
const BLOCK_WAIT: u32 = 0;

/// `ChariotState` of shim.h.
#[repr(C)]
pub(crate) struct State {
    pub(crate) thread: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) block_dim: [u32; 3],
    pub(crate) grid_dim: [u32; 3],
    pub(crate) wait: extern "C" fn(u32, u32, u32),
    pub(crate) dynamic: *mut u8,
    pub(crate) slot: [u64; THREADS_MAX],
}

/// The order in which threads that can run are run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    Forward,
    Reverse,
    Random(u64),
}

impl Order {
    /// From CHARIOT_DOUBLE_ORDER.
    pub(crate) fn from_environment() -> Result<Self, String> {
        let text = std::env::var("CHARIOT_DOUBLE_ORDER").unwrap_or_default();
        let seed = text.strip_prefix("random:").and_then(|seed| seed.parse().ok());
        match (text.as_str(), seed) {
            ("" | "forward", _) => Ok(Self::Forward),
            ("reverse", _) => Ok(Self::Reverse),
            (_, Some(seed)) => Ok(Self::Random(seed)),
            _ => Err(format!("CHARIOT_DOUBLE_ORDER: expected forward, reverse or random:SEED, found {text}")),
        }
    }

    fn arrange(&mut self, threads: &mut [usize]) {
        match self {
            Self::Forward => threads.sort_unstable(),
            Self::Reverse => threads.sort_unstable_by(|a, b| b.cmp(a)),
            Self::Random(state) => {
                for last in (1..threads.len()).rev() {
                    *state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    threads.swap(last, (*state >> 33) as usize % (last + 1));
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait {
    kind: u32,
    mask: u32,
    site: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fiber {
    Ready,
    Waits(Wait),
    Done,
}

/// What a block runs.
pub(crate) struct Block<'a> {
    pub(crate) entry: extern "C" fn(*mut *mut u8),
    pub(crate) arguments: *mut *mut u8,
    pub(crate) state: *mut State,
    pub(crate) order: &'a mut Order,
}

/// A block that runs: the fiber code reaches it through `RUN`.
struct Run {
    entry: extern "C" fn(*mut *mut u8),
    arguments: *mut *mut u8,
    home: usize,
    tops: Vec<usize>,
    fibers: Vec<Fiber>,
    current: usize,
}

static RUN: AtomicPtr<UnsafeCell<Run>> = AtomicPtr::new(std::ptr::null_mut());
/// The thread of the host that runs the block.
static RUNNER: AtomicI32 = AtomicI32::new(0);
static FAULT: AtomicUsize = AtomicUsize::new(0);
static HANDLED: AtomicBool = AtomicBool::new(false);
static STACKS: AtomicUsize = AtomicUsize::new(0);

std::arch::global_asm!(
    ".global chariot_double_switch",
    "chariot_double_switch:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
);

// SAFETY: defined above with this signature.
unsafe extern "C" {
    fn chariot_double_switch(save: *mut usize, to: usize);
}

fn run() -> *mut Run {
    // SAFETY: only called from fibers, while `run_block` holds the cell alive.
    unsafe { (*RUN.load(Ordering::Relaxed)).get() }
}

/// Leaves the running fiber in `state`.
fn leave(state: Fiber) {
    let run = run();
    // SAFETY: one OS thread runs all fibers, so nobody else touches the run; `home` is the scheduler's stack.
    unsafe {
        let current = (*run).current;
        (&mut (*run).fibers)[current] = state;
        let save = &raw mut (&mut (*run).tops)[current];
        chariot_double_switch(save, (*run).home);
    }
}

pub(crate) extern "C" fn wait(kind: u32, mask: u32, site: u32) {
    leave(Fiber::Waits(Wait { kind, mask, site }));
}

extern "C" fn fiber_main() {
    let run = run();
    // SAFETY: the run outlives its fibers.
    let (entry, arguments) = unsafe { ((*run).entry, (*run).arguments) };
    entry(arguments);
    leave(Fiber::Done);
}

extern "C" fn fault_landing() {
    leave(Fiber::Done);
}

extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes both for SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: an async-signal-safe call.
    let is_runner = unsafe { libc::gettid() } == RUNNER.load(Ordering::Relaxed);
    if RUN.load(Ordering::Relaxed).is_null() || !is_runner {
        let text = b"cuda-double: the host accessed memory that is not its own, such as the device's\n";
        // SAFETY: async-signal-safe calls; the default action then ends the process at the same instruction.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        }
        return;
    }
    FAULT.store(address.max(1), Ordering::Relaxed);
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the interrupted fiber goes on in `fault_landing` with an aligned stack, as if called, and never returns.
    unsafe {
        let registers = &mut (*context).uc_mcontext.gregs;
        let stack = registers[libc::REG_RSP as usize] - 256;
        registers[libc::REG_RSP as usize] = (stack & !15) - 8;
        registers[libc::REG_RIP as usize] = fault_landing as *const () as i64;
    }
}

/// Makes faults of kernels errors, and names those of the host.
pub(crate) fn handle_faults() {
    if HANDLED.swap(true, Ordering::SeqCst) {
        return;
    }
    // SAFETY: a zeroed sigaction is valid; the handler has SA_SIGINFO's signature.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

fn stacks() -> usize {
    if STACKS.load(Ordering::Relaxed) == 0 {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let mode = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new private mapping touches no existing memory.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), STACK * THREADS_MAX, mode, flags, -1, 0) };
        assert_ne!(map, libc::MAP_FAILED, "64 MiB of address space");
        STACKS.store(map as usize, Ordering::Relaxed);
    }
    STACKS.load(Ordering::Relaxed)
}

/// A stack whose first switch enters `fiber_main`.
fn fresh_top(thread: usize) -> usize {
    let top = stacks() + (thread + 1) * STACK - 16;
    // SAFETY: within the stack of this thread, which runs nothing now.
    unsafe {
        (top as *mut usize).write(fiber_main as *const () as usize);
        std::ptr::write_bytes((top - 48) as *mut u8, 0, 48);
    }
    top - 48
}

/// Frees whole warps that wait for each other.
fn release_warps(fibers: &mut [Fiber]) {
    for warp in fibers.chunks_mut(WARP) {
        for lane in 0..warp.len() {
            let Fiber::Waits(wait) = warp[lane] else { continue };
            let member = |other: usize| wait.mask >> other & 1 == 1;
            let whole = (0..warp.len()).filter(|&l| member(l)).all(|l| warp[l] == Fiber::Waits(wait));
            if wait.kind != BLOCK_WAIT && member(lane) && whole {
                (0..warp.len()).filter(|&l| member(l)).for_each(|l| warp[l] = Fiber::Ready);
            }
        }
    }
}

fn describe(fiber: Fiber) -> String {
    match fiber {
        Fiber::Done => "has ended".to_owned(),
        Fiber::Ready => "runs".to_owned(),
        Fiber::Waits(w) if w.kind == BLOCK_WAIT => format!("waits at the barrier of line {}", w.site),
        Fiber::Waits(w) => format!("waits for lanes {:#010x} of its warp", w.mask),
    }
}

/// Everybody at one barrier goes on; else who diverges from whom.
fn release_block(fibers: &mut [Fiber]) -> Result<(), String> {
    let waiting = fibers.iter().position(|f| *f != Fiber::Done).expect("somebody is not done");
    let first = fibers[waiting];
    let is_barrier = matches!(first, Fiber::Waits(wait) if wait.kind == BLOCK_WAIT);
    match fibers.iter().position(|f| *f != first) {
        None if is_barrier => {
            fibers.fill(Fiber::Ready);
            Ok(())
        }
        other => {
            let other = other.unwrap_or(waiting);
            let (a, b) = (describe(first), describe(fibers[other]));
            Err(format!("divergent barrier: thread {waiting} {a}, thread {other} {b}"))
        }
    }
}

/// Why a block did not end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An access to this address.
    Fault { address: usize, thread: usize },
    /// Threads that wait for each other for ever.
    Divergence(String),
}

/// Runs one block to its end.
pub(crate) fn run_block(block: &mut Block<'_>) -> Result<(), Failure> {
    // SAFETY: the state is the loaded object's own, which stays loaded.
    let dim = unsafe { (*block.state).block_dim };
    let count = dim.iter().product::<u32>() as usize;
    let run = UnsafeCell::new(Run {
        entry: block.entry,
        arguments: block.arguments,
        home: 0,
        tops: (0..count).map(fresh_top).collect(),
        fibers: vec![Fiber::Ready; count],
        current: 0,
    });
    FAULT.store(0, Ordering::Relaxed);
    // SAFETY: it only asks for a number.
    RUNNER.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    RUN.store((&raw const run).cast_mut(), Ordering::Relaxed);
    let result = schedule(run.get(), block, dim);
    RUN.store(std::ptr::null_mut(), Ordering::Relaxed);
    result
}

fn schedule(run: *mut Run, block: &mut Block<'_>, dim: [u32; 3]) -> Result<(), Failure> {
    loop {
        // SAFETY: no fiber runs now, so this is the only reference.
        let fibers = unsafe { &mut (*run).fibers };
        release_warps(fibers);
        let mut ready: Vec<_> = (0..fibers.len()).filter(|&t| fibers[t] == Fiber::Ready).collect();
        if ready.is_empty() {
            if fibers.iter().all(|f| *f == Fiber::Done) {
                return Ok(());
            }
            release_block(fibers).map_err(Failure::Divergence)?;
            continue;
        }
        block.order.arrange(&mut ready);
        // One warp goes as far as it can before another does: so it also runs ahead of what others have yet to read.
        let warp = ready[0] / WARP;
        ready.retain(|thread| thread / WARP == warp);
        for thread in ready {
            let t = thread as u32;
            // SAFETY: the state is the loaded object's; the fiber's stack was made by `fresh_top` or a switch.
            unsafe {
                (*block.state).thread = [t % dim[0], t / dim[0] % dim[1], t / (dim[0] * dim[1])];
                (*run).current = thread;
                let to = (&(*run).tops)[thread];
                chariot_double_switch(&raw mut (*run).home, to);
            }
            let address = FAULT.load(Ordering::Relaxed);
            if address != 0 {
                return Err(Failure::Fault { address, thread });
            }
        }
    }
}
