//! What each kind of call takes on the GPU, by an event after every call. Knows no kernel.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};

use super::error::{CudaError, driver};

/// Calls, each with the event behind it; the first one is no call but the step's beginning.
pub(super) type Marks = Vec<(&'static str, CudaEvent)>;

/// Calls of the step that is being asked for, and events to use again.
#[derive(Debug, Default)]
pub(super) struct Timer {
    marks: Marks,
    spare: Vec<CudaEvent>,
}

impl Timer {
    /// A step begins; what was marked before is forgotten.
    pub(super) fn begin(&mut self, stream: &Arc<CudaStream>) -> Result<(), CudaError> {
        self.spare.extend(self.marks.drain(..).map(|(_, event)| event));
        self.mark(stream, "")
    }

    /// A call was queued.
    pub(super) fn mark(&mut self, stream: &Arc<CudaStream>, call: &'static str) -> Result<(), CudaError> {
        let what = "time the GPU";
        let event = match self.spare.pop() {
            Some(event) => event,
            None => {
                stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver(what))?
            }
        };
        event.record(stream).map_err(driver(what))?;
        self.marks.push((call, event));
        Ok(())
    }

    /// The step's calls so far.
    pub(super) fn take(&mut self) -> Marks {
        std::mem::take(&mut self.marks)
    }

    /// For each kind of call, in order of the first: how many, and nanoseconds from the end of the call before to their own. The stream
    /// must be past them; their events are used again.
    pub(super) fn times(&mut self, marks: Marks) -> Result<Vec<(&'static str, u32, u64)>, CudaError> {
        let mut times = Vec::<(&'static str, u32, u64)>::new();
        for timed in between(&marks) {
            let (call, ns) = timed?;
            match times.iter_mut().find(|(known, ..)| *known == call) {
                Some((_, calls, total)) => (*calls, *total) = (*calls + 1, *total + ns),
                None => times.push((call, 1, ns)),
            }
        }
        self.spare.extend(marks.into_iter().map(|(_, event)| event));
        Ok(times)
    }

    /// Each call, and nanoseconds from the end of the call before to its own. The stream must be through.
    pub(super) fn each(&self) -> impl Iterator<Item = Result<(&'static str, u64), CudaError>> {
        between(&self.marks)
    }
}

fn between(
    marks: &[(&'static str, CudaEvent)],
) -> impl Iterator<Item = Result<(&'static str, u64), CudaError>> {
    let pair = |[(_, before), (call, after)]: &[(&'static str, CudaEvent); 2]| {
        let ms = before.elapsed_ms(after).map_err(driver("time the GPU"));
        ms.map(|ms| (*call, (f64::from(ms) * 1e6) as u64))
    };
    marks.array_windows().map(pair)
}
