//! One GPU, opened by one rank: its stream, its kernels, its products, its messages, and waiting for it. Knows no tensor's shape.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as COUNT;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::blas::{Blas, Product};
use super::compile::Element;
use super::error::{CudaError, driver};
use super::launch::{Argument, Kernels};
use super::library::{Library, require};
use super::memory::{Buffer, Pinned};
use super::nccl::Comm;
use super::patience::{ABORT_PATIENCE, Waited};
use super::stays::{Clock, Moment, Stay, has_come};
use super::timer::Timer;
use super::uploads::{self, Uploads};
use crate::backend::Stayed;
use crate::clock::monotonic_ns;
use crate::shard::Dtype;

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

/// How a GPU is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Care {
    /// What each call takes is asked for.
    pub(super) timed: bool,
    /// Bytes of a weight that go through pinned memory at a time.
    pub(super) piece_bytes: usize,
    /// How long it may take for what it has all it needs for.
    pub(super) patience: Duration,
    /// Steps that may be under way at once.
    pub(super) under_way: usize,
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
    clock: Clock,
    /// The point from which on the GPU has all that it needs for what it was asked for last.
    entered: RefCell<Option<Rc<Moment>>>,
    /// Where calls are timed.
    timer: Option<RefCell<Timer>>,
    /// The rank's groups: who waits looks at them.
    comms: RefCell<Vec<Rc<Comm>>>,
    pub(super) care: Care,
    /// While weights are loaded.
    uploads: RefCell<Option<Uploads>>,
}

impl Card {
    /// Opens GPU `ordinal`; kernels that `folder` does not hold will be compiled into it.
    pub(super) fn open(ordinal: usize, folder: &Utf8Path, care: Care) -> Result<Self, CudaError> {
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
            clock: Clock::new(&context)?,
            context,
            stream,
            multiprocessors: multiprocessors as usize,
            folder: folder.to_owned(),
            typed: OnceCell::new(),
            allocations: Cell::new(0),
            entered: RefCell::default(),
            timer: care.timed.then(RefCell::default),
            comms: RefCell::default(),
            care,
            uploads: RefCell::default(),
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

    /// A step is about to be asked for.
    pub(super) fn begin_step(&self) -> Result<(), CudaError> {
        self.clock.compare()
    }

    /// From here on calls are a step's.
    pub(super) fn begin_timing(&self) -> Result<(), CudaError> {
        self.timer.as_ref().map_or(Ok(()), |timer| timer.borrow_mut().begin(&self.stream))
    }

    /// What follows is a stage's own: who waits for it counts from here on.
    pub(super) fn enter(&self) -> Result<Stay, CudaError> {
        let stay = Stay::enter(&self.clock, &self.stream)?;
        *self.entered.borrow_mut() = Some(Rc::clone(&stay.start));
        Ok(stay)
    }

    /// All of it was asked for; with a time, it was waited for until then.
    pub(super) fn leave(&self, stay: &mut Stay, done_ns: Option<u64>) -> Result<(), CudaError> {
        if let Some(timer) = &self.timer {
            stay.marks = timer.borrow_mut().take();
        }
        stay.leave(&self.clock, &self.stream, done_ns)
    }

    /// When a stay was, if it is over. One that lasts too long, or a group that fails, ends all groups of this rank.
    pub(super) fn stayed(&self, stay: &mut Stay) -> Result<Option<Stayed>, CudaError> {
        let what = "a stage's part of a step";
        let is_over = stay.is_over(what, self.care.patience);
        let is_over =
            is_over.and_then(|is_over| if is_over { Ok(true) } else { self.look(what).map(|()| false) });
        if !self.or_give_up(is_over)? {
            return Ok(None);
        }
        let [start_ns, end_ns] = stay.times()?;
        let marks = std::mem::take(&mut stay.marks);
        let calls = self.timer.as_ref().map_or(Ok(Vec::new()), |timer| timer.borrow_mut().times(marks))?;
        Ok(Some(Stayed { start_ns, end_ns, calls }))
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

    /// A buffer of these bytes, which the device may be still to read: a piece is copied into pinned memory while the device takes the one before.
    pub(super) fn upload(&self, parts: &[&[u8]], what: &'static str) -> Result<Buffer, CudaError> {
        let buffer = self.allocate(parts.iter().map(|part| part.len()).sum(), what)?;
        let mut uploads = self.uploads.borrow_mut();
        let uploads = match &mut *uploads {
            Some(uploads) => uploads,
            none => none.insert(Uploads::new(&self.context, self.care.piece_bytes)?),
        };
        let wait = |read: &CudaEvent| self.wait_for(read, uploads::WHAT);
        self.or_give_up(uploads.send(&self.stream, &buffer, parts, wait))?;
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

    /// Waits for all that was uploaded, and gives up the memory that it went through.
    pub(super) fn end_uploads(&self) -> Result<(), CudaError> {
        if self.uploads.borrow().is_some() {
            self.wait(uploads::WHAT)?;
        }
        *self.uploads.borrow_mut() = None;
        Ok(())
    }

    /// Waiting looks at this group, too, from now on.
    pub(super) fn watch(&self, comm: &Rc<Comm>) {
        self.comms.borrow_mut().push(Rc::clone(comm));
    }

    /// Waits until the stream is through. A group that fails, or a GPU that is not done in time, ends all groups of this rank.
    pub(super) fn wait(&self, what: &'static str) -> Result<(), CudaError> {
        let event = self.stream.record_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING));
        self.or_give_up(event.map_err(driver(what)).and_then(|event| self.wait_for(&event, what)))
    }

    /// Where something failed, ends all groups of this rank, so that nothing hangs on it.
    pub(super) fn or_give_up<T>(&self, result: Result<T, CudaError>) -> Result<T, CudaError> {
        if let Err(error) = &result {
            let ends: Vec<_> = self.comms.borrow().iter().filter_map(|comm| comm.abort()).collect();
            let until_ns = monotonic_ns() + ABORT_PATIENCE.as_nanos() as u64;
            for end in ends {
                let left = Duration::from_nanos(until_ns.saturating_sub(monotonic_ns()));
                let _ = end.recv_timeout(left);
            }
            if error.is_of_a_peer() {
                // What went wrong there says more, and had better be heard first.
                std::thread::sleep(COURTESY);
            }
        }
        result
    }

    /// An error if a group has failed.
    fn look(&self, what: &'static str) -> Result<(), CudaError> {
        self.comms.borrow().iter().try_for_each(|comm| comm.look(what))
    }

    /// Waits until the stream has come to an event. Patience is for the GPU's own work: what that needs from other ranks may take as long as they
    /// do, who watch themselves.
    fn wait_for(&self, event: &CudaEvent, what: &'static str) -> Result<(), CudaError> {
        let entered = self.entered.borrow().clone();
        let mut in_all = Waited::begin();
        let mut at_work: Option<Waited> = None;
        while !has_come(event, what)? {
            self.look(what)?;
            if at_work.is_none() && entered.as_ref().map_or(Ok(true), |entered| entered.has_come(what))? {
                at_work = Some(Waited::begin());
            }
            if at_work.as_mut().is_some_and(|waited| waited.so_far() > self.care.patience) {
                return Err(CudaError::Stuck { what, seconds: self.care.patience.as_secs_f64() });
            }
            if in_all.so_far() > AWAKE {
                std::thread::sleep(Duration::from_micros(50));
            } else {
                std::thread::yield_now();
            }
        }
        Ok(())
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
