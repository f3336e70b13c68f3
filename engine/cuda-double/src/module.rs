//! Loaded kernels: their arguments' sizes, and a launch from the first block to the last. Knows no stream.
#![expect(unsafe_code, reason = "loads and calls compiled kernels")]

use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::fiber::{self, Block, Failure, Order, State};
use crate::memory::{POISON, memory, opened};
use crate::status::{ILLEGAL_ADDRESS, LAUNCH_FAILED, delay, failed, is_stuck, is_wrong};
use crate::wrong::Before;

/// Held while a kernel runs: fibers, and the state of an object, are one to a process.
static DEVICE: Mutex<()> = Mutex::new(());
static LOADED: AtomicUsize = AtomicUsize::new(0);

/// A kernel of a loaded object.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    entry: extern "C" fn(*mut *mut u8),
    state: usize,
    shared: (usize, usize),
    dynamic: AtomicU32,
    /// Bytes of each argument.
    pub(crate) sizes: Vec<usize>,
}

/// Length of an ELF image, from its header.
pub(crate) fn image_bytes<'a>(image: *const c_void) -> Option<&'a [u8]> {
    // SAFETY: an image has at least an ELF header of 64 bytes, by the C contract.
    let header = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 64) };
    if header[..4] != *b"\x7fELF" {
        return None;
    }
    let number = |at: usize, bytes: usize| {
        header[at..at + bytes].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
    };
    let length = number(40, 8) + number(58, 2) * number(60, 2);
    // SAFETY: the section table is what g++'s linker writes last.
    Some(unsafe { std::slice::from_raw_parts(image.cast::<u8>(), length) })
}

/// A handle of the object in `image`.
pub(crate) fn load(image: &[u8]) -> Option<usize> {
    let number = LOADED.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("chariot-double-{}-{number}.so", std::process::id()));
    fs_err::write(&path, image).ok()?;
    let name = CString::new(path.to_str()?).ok()?;
    // SAFETY: the object has no constructors with effects.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    fs_err::remove_file(&path).ok()?;
    (!handle.is_null()).then_some(handle as usize)
}

fn symbol(module: usize, name: &str) -> Option<*mut c_void> {
    let name = CString::new(name).ok()?;
    // SAFETY: `module` came from `load`.
    let found = unsafe { libc::dlsym(module as *mut c_void, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// A kernel by name.
pub(crate) fn kernel(module: usize, name: &str) -> Option<Kernel> {
    let entry = symbol(module, &format!("chariot_run_{name}"))?;
    let sizes = symbol(module, &format!("chariot_sizes_{name}"))?;
    let (state, range) = (symbol(module, "chariot_state")?, symbol(module, "chariot_shared_range")?);
    let (mut from, mut to, mut room) = (0, 0, [0; 128]);
    // SAFETY: shim.h and nvrtc.rs define these symbols with these signatures.
    let (entry, count) = unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn(*mut usize, *mut usize)>(range)(&mut from, &mut to);
        let sizes = std::mem::transmute::<*mut c_void, extern "C" fn(*mut i32) -> i32>(sizes);
        (std::mem::transmute::<*mut c_void, extern "C" fn(*mut *mut u8)>(entry), sizes(room.as_mut_ptr()))
    };
    let sizes = room[..count as usize].iter().map(|bytes| *bytes as usize).collect();
    Some(Kernel {
        name: name.to_owned(),
        entry,
        state: state as usize,
        shared: (from, to),
        dynamic: AtomicU32::new(0),
        sizes,
    })
}

impl Kernel {
    /// Lets a launch take so many bytes of dynamic shared memory.
    pub(crate) fn allow_shared(&self, bytes: u32) {
        self.dynamic.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn shared_allowed(&self) -> u32 {
        self.dynamic.load(Ordering::Relaxed)
    }
}

/// Runs every block, one kernel at a time; spoils the result of the kernel that CHARIOT_DOUBLE_WRONG names.
pub(crate) fn launch(
    kernel: &Kernel,
    device: usize,
    grid: [u32; 3],
    dim: [u32; 3],
    shared: usize,
    arguments: &mut [Vec<u128>],
) -> Result<(), u32> {
    if is_stuck(&kernel.name, device) {
        // It ends with the process alone.
        loop {
            std::thread::park();
        }
    }
    delay(&kernel.name).into_iter().for_each(std::thread::sleep);
    let _device = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = is_wrong(&kernel.name).then(|| Before::of(arguments));
    run(kernel, grid, dim, shared, arguments)?;
    before.iter().for_each(Before::spoil);
    Ok(())
}

/// Runs every block; on failure says which kernel, block and thread, and returns CUDA's code.
fn run(
    kernel: &Kernel,
    grid: [u32; 3],
    dim: [u32; 3],
    shared: usize,
    arguments: &mut [Vec<u128>],
) -> Result<(), u32> {
    let mut pointers: Vec<*mut u8> = arguments.iter_mut().map(|a| a.as_mut_ptr().cast()).collect();
    let mut dynamic = vec![0u128; shared.div_ceil(16).max(1)];
    let state = kernel.state as *mut State;
    let mut order = Order::from_environment().map_err(|why| failed(&why, LAUNCH_FAILED))?;
    let total = grid.iter().product::<u32>();
    opened(|| {
        for b in 0..total {
            let block = [b % grid[0], b / grid[0] % grid[1], b / (grid[0] * grid[1])];
            dynamic.fill(u128::MAX);
            // SAFETY: the object's own state and shared section, which no thread of a kernel uses now.
            unsafe {
                (*state).block = block;
                (*state).block_dim = dim;
                (*state).grid_dim = grid;
                (*state).wait = fiber::wait;
                (*state).dynamic = dynamic.as_mut_ptr().cast();
                let (from, to) = kernel.shared;
                std::ptr::write_bytes(from as *mut u8, POISON, to - from);
            }
            let mut run =
                Block { entry: kernel.entry, arguments: pointers.as_mut_ptr(), state, order: &mut order };
            fiber::run_block(&mut run).map_err(|failure| explain(kernel, block, &failure))?;
        }
        Ok(())
    })
}

fn explain(kernel: &Kernel, block: [u32; 3], failure: &Failure) -> u32 {
    let place = format!("kernel {}, block {block:?}", kernel.name);
    match failure {
        Failure::Divergence(why) => failed(&format!("{place}: {why}"), LAUNCH_FAILED),
        Failure::Fault { address, thread } => {
            let what = memory().describe(*address);
            failed(&format!("{place}, thread {thread}: {what}"), ILLEGAL_ADDRESS)
        }
    }
}
