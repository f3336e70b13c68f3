//! One GPU, opened by one rank: its stream, its kernels, its products, its messages, and waiting for it. Knows no tensor's shape.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as COUNT;
use cudarc::driver::sys::{CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, CudaStream};

use super::blas::{Blas, Product};
use super::compile::Element;
use super::error::{CudaError, driver};
use super::launch::{Argument, Kernels};
use super::library::{Library, require};
use super::memory::{Buffer, Pinned};
use super::nccl::{ABORT_PATIENCE, Comm, PATIENCE, Waited};
use super::timer::Timer;
use crate::shard::Dtype;

/// Bytes of a weight that go through pinned memory at a time.
const PIECE: usize = 16 << 20;
/// How much later than a rank that failed its peers speak of it.
const COURTESY: Duration = Duration::from_millis(300);
/// How long a rank looks at the GPU without sleeping: longer than most steps of decoding.
const AWAKE: Duration = Duration::from_millis(20);

/// What is loaded for the type of the weights, when the first of them is.
#[derive(Debug)]
struct Typed {
    element: Element,
    kernels: Kernels,
    blas: Blas,
}

/// A GPU and what is loaded on it. One thread uses it.
#[derive(Debug)]
pub(super) struct Card {
    context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) multiprocessors: usize,
    /// Where compiled kernels are kept.
    folder: Utf8PathBuf,
    typed: OnceCell<Typed>,
    allocations: Cell<u64>,
    /// Where calls are timed.
    timer: Option<RefCell<Timer>>,
    /// The rank's groups: who waits looks at them.
    comms: RefCell<Vec<Rc<Comm>>>,
    /// Two pieces of pinned memory, for weights to take turns.
    pieces: RefCell<Option<[Pinned; 2]>>,
}

impl Card {
    /// Opens GPU `ordinal`; kernels that `folder` does not hold will be compiled into it.
    /// `timed`: what each call takes is asked for.
    pub(super) fn open(ordinal: usize, folder: &Utf8Path, timed: bool) -> Result<Self, CudaError> {
        for library in [Library::Driver, Library::Nvrtc, Library::Cublas] {
            require(library)?;
        }
        let count = CudaContext::device_count().map_or(0, |count| count as usize);
        if ordinal >= count {
            return Err(CudaError::Device { ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(driver("open the GPU"))?;
        super::memory::without_event_tracking(&context);
        let stream = context.new_stream().map_err(driver("open a stream"))?;
        let multiprocessors = context.attribute(COUNT).map_err(driver("ask the GPU what it has"))?;
        Ok(Self {
            context,
            stream,
            multiprocessors: multiprocessors as usize,
            folder: folder.to_owned(),
            typed: OnceCell::new(),
            allocations: Cell::new(0),
            timer: timed.then(RefCell::default),
            comms: RefCell::default(),
            pieces: RefCell::default(),
        })
    }

    /// Loads kernels for matrices of this type; all that come are of one.
    pub(super) fn load(&self, dtype: Dtype) -> Result<(), CudaError> {
        let element = match dtype {
            Dtype::Float32 => Element::F32,
            Dtype::Bfloat16 => Element::Bf16,
            Dtype::Float16 => Element::F16,
        };
        match self.typed.get() {
            Some(typed) if typed.element == element => Ok(()),
            Some(typed) => Err(CudaError::Mixed { expected: typed.element.name(), found: dtype }),
            None => {
                let kernels = Kernels::load(&self.context, &self.stream, &self.folder, element)?;
                let blas = Blas::new(&self.stream, element)?;
                self.typed
                    .set(Typed { element, kernels, blas })
                    .expect("it was empty, and this is the one thread");
                Ok(())
            }
        }
    }

    fn typed(&self) -> &Typed {
        self.typed.get().expect("weights are loaded before anything is computed")
    }

    /// Type of activations, weights, keys and values.
    pub(super) fn element(&self) -> Element {
        self.typed().element
    }

    /// Queues a kernel.
    pub(super) fn launch(
        &self,
        name: &'static str,
        grid: [usize; 3],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        self.typed().kernels.launch(name, grid, threads, arguments)?;
        self.mark(name)
    }

    /// A call of this kind was queued.
    pub(super) fn mark(&self, call: &'static str) -> Result<(), CudaError> {
        self.timer.as_ref().map_or(Ok(()), |timer| timer.borrow_mut().mark(&self.stream, call))
    }

    /// From here on calls are a step's.
    pub(super) fn begin_timing(&self) -> Result<(), CudaError> {
        self.timer.as_ref().map_or(Ok(()), |timer| timer.borrow_mut().begin(&self.stream))
    }

    /// What the step's calls took so far, by kind; the stream must be through.
    pub(super) fn times(&self) -> Result<Vec<(&'static str, u32, u64)>, CudaError> {
        self.timer.as_ref().map_or(Ok(Vec::new()), |timer| timer.borrow().times())
    }

    /// Nanoseconds of each of some calls, from the end of the one before; when all before them is done.
    pub(super) fn time_each(
        &self,
        calls: usize,
        mut call: impl FnMut(usize) -> Result<(), CudaError>,
    ) -> Result<Vec<u64>, CudaError> {
        self.wait("what comes before calls that are timed")?;
        let mut timer = Timer::default();
        timer.begin(&self.stream)?;
        for number in 0..calls {
            call(number)?;
            timer.mark(&self.stream, "")?;
        }
        self.wait("calls that are timed")?;
        timer.each().map(|timed| timed.map(|(_, ns)| ns)).collect()
    }

    /// Queues a product.
    pub(super) fn product(&self, product: &Product) -> Result<(), CudaError> {
        self.typed().blas.product(product)?;
        self.mark(product.what)
    }

    /// Bytes of a value.
    pub(super) fn value_bytes(&self) -> usize {
        match self.element() {
            Element::F32 => 4,
            Element::Bf16 | Element::F16 => 2,
        }
    }

    /// Bytes that nobody has taken, other processes included, and bytes in all. What was given back counts as free.
    pub(super) fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.wait("what uses the GPU's memory")?;
        // Not by events alone: pools give memory back when somebody waits for a stream.
        let through = self.stream.synchronize().and_then(|()| self.context.mem_get_info());
        through.map_err(driver("ask the GPU for its memory"))
    }

    /// Refuses keys and values of `bytes` bytes, in so many blocks, beside which a step's activations would not fit.
    pub(super) fn check_room(
        &self,
        blocks: usize,
        bytes: usize,
        activations: usize,
    ) -> Result<(), CudaError> {
        let (free, total) = self.memory()?;
        match bytes.saturating_add(activations) <= free {
            true => Ok(()),
            false => {
                let gpu = self.context.ordinal();
                Err(CudaError::NoRoom { gpu, free, total, blocks, bytes, activations })
            }
        }
    }

    /// Room for `bytes` bytes; `what` is what for.
    pub(super) fn allocate(&self, bytes: usize, what: &'static str) -> Result<Buffer, CudaError> {
        self.allocations.set(self.allocations.get() + 1);
        Buffer::new(&self.stream, bytes, what)
    }

    /// How often memory was asked for so far.
    pub(super) fn allocations(&self) -> u64 {
        self.allocations.get()
    }

    /// Pinned memory of at least `bytes` bytes.
    pub(super) fn pinned(&self, bytes: usize) -> Result<Pinned, CudaError> {
        Pinned::new(&self.context, bytes)
    }

    /// A buffer of these bytes: a piece is copied into pinned memory while the device takes the one before.
    pub(super) fn upload(&self, parts: &[&[u8]], what: &'static str) -> Result<Buffer, CudaError> {
        let buffer = self.allocate(parts.iter().map(|part| part.len()).sum(), what)?;
        let mut pieces = self.pieces.borrow_mut();
        if pieces.is_none() {
            *pieces = Some([self.pinned(PIECE)?, self.pinned(PIECE)?]);
        }
        let pieces = pieces.as_mut().expect("made above");
        let mut sent = [None, None];
        let mut to = 0;
        let all = parts.iter().flat_map(|part| part.chunks(PIECE));
        for (number, bytes) in all.enumerate() {
            let (turn, piece) = (number % 2, &mut pieces[number % 2]);
            if let Some(event) = sent[turn].take() {
                let event: cudarc::driver::CudaEvent = event;
                event.synchronize().map_err(driver("copy to the GPU"))?;
            }
            piece.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
            piece.send(&self.stream, &buffer, to, bytes.len())?;
            sent[turn] = Some(self.stream.record_event(None).map_err(driver("copy to the GPU"))?);
            to += bytes.len();
        }
        self.stream.synchronize().map_err(driver("copy to the GPU"))?;
        Ok(buffer)
    }

    /// Queues a copy of the first bytes of one buffer to another; nothing where there are none.
    pub(super) fn copy(
        &self,
        from: Option<&Buffer>,
        to: Option<&Buffer>,
        bytes: usize,
    ) -> Result<(), CudaError> {
        match (from, to) {
            (Some(from), Some(to)) if bytes > 0 => from.copy(&self.stream, to, bytes),
            _ => Ok(()),
        }
    }

    /// Gives up the memory that weights went through.
    pub(super) fn end_uploads(&self) {
        *self.pieces.borrow_mut() = None;
    }

    /// Waiting looks at this group, too, from now on.
    pub(super) fn watch(&self, comm: &Rc<Comm>) {
        self.comms.borrow_mut().push(Rc::clone(comm));
    }

    /// Waits until the stream is through. A group that fails, or a GPU that is not done in time, ends all groups of this rank, so that
    /// nothing hangs on it.
    pub(super) fn wait(&self, what: &'static str) -> Result<(), CudaError> {
        let waited = self.wait_watching(what);
        if let Err(error) = &waited {
            let ends: Vec<_> = self.comms.borrow().iter().filter_map(|comm| comm.abort()).collect();
            for end in ends {
                let _ = end.recv_timeout(ABORT_PATIENCE);
            }
            if error.is_of_a_peer() {
                // What went wrong there says more, and had better be heard first.
                std::thread::sleep(COURTESY);
            }
        }
        waited
    }

    fn wait_watching(&self, what: &'static str) -> Result<(), CudaError> {
        let event = self.stream.record_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING));
        let event = event.map_err(driver(what))?;
        let mut waited = Waited::begin();
        loop {
            match event.try_is_complete() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.0 == CUresult::CUDA_ERROR_NOT_READY => {}
                Err(error) => return Err(driver(what)(error)),
            }
            for comm in self.comms.borrow().iter() {
                comm.look(what)?;
            }
            let so_far = waited.so_far();
            if so_far > PATIENCE {
                return Err(CudaError::Stuck { what, seconds: PATIENCE.as_secs_f64() });
            }
            if so_far > AWAKE {
                std::thread::sleep(Duration::from_micros(50));
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// The first values of a buffer, when the stream is through.
    pub(super) fn read<T: bytemuck::Pod>(
        &self,
        buffer: &Buffer,
        out: &mut [T],
        what: &'static str,
    ) -> Result<(), CudaError> {
        self.wait(what)?;
        buffer.read(&self.stream, out)
    }
}
