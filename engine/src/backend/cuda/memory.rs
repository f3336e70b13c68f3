//! Device memory, and the host's pinned memory that copies to it read. Knows no tensor.
#![expect(unsafe_code, reason = "raw device and pinned memory")]

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, result};

use super::error::{CudaError, driver};

/// Bytes on the device, of no type. Addresses are its own until it is dropped, which waits for the stream as the driver does.
#[derive(Debug)]
pub(super) struct Buffer {
    slice: CudaSlice<u8>,
    /// Its first address on the device.
    pub(super) pointer: u64,
}

impl Buffer {
    /// Uninitialised.
    pub(super) fn new(stream: &Arc<CudaStream>, bytes: usize, what: &'static str) -> Result<Self, CudaError> {
        // SAFETY: every kernel and copy writes what it or a later one reads; tests on poisoned memory hold that.
        let slice = unsafe { stream.alloc::<u8>(bytes.max(1)) };
        let slice = slice.map_err(|error| match error.0 {
            cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free = stream.context().mem_get_info().map_or(0, |(free, _)| free);
                CudaError::Memory { what, bytes, free }
            }
            code => CudaError::Driver { what, code },
        })?;
        // Event tracking is off, so that the guard has nothing to record.
        let pointer = slice.device_ptr(stream).0;
        Ok(Self { slice, pointer })
    }

    pub(super) fn bytes(&self) -> usize {
        self.slice.len()
    }

    /// Queues a copy of the first `bytes` bytes to another buffer.
    pub(super) fn copy(&self, stream: &CudaStream, to: &Self, bytes: usize) -> Result<(), CudaError> {
        assert!(bytes <= self.bytes() && bytes <= to.bytes(), "expected both ends to have the bytes");
        // SAFETY: both ranges lie in their allocations, checked above.
        unsafe { result::memcpy_dtod_async(to.pointer, self.pointer, bytes, stream.cu_stream()) }
            .map_err(driver("copy on the GPU"))
    }

    /// Copies to the host and waits for it: all that comes before in the stream is done by then, if the caller has waited for it.
    pub(super) fn read<T: bytemuck::Pod>(
        &self,
        stream: &Arc<CudaStream>,
        out: &mut [T],
    ) -> Result<(), CudaError> {
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        assert!(out.len() <= self.bytes(), "expected at most {} bytes to read", self.bytes());
        // SAFETY: the range lies in this allocation, and `out` lives until the stream is through.
        unsafe { result::memcpy_dtoh_async(out, self.pointer, stream.cu_stream()) }
            .map_err(driver("copy from the GPU"))?;
        stream.synchronize().map_err(driver("copy from the GPU"))
    }
}

/// Host memory that the device reads by itself. Its contents must stay until the stream has read them.
#[derive(Debug)]
pub(super) struct Pinned {
    context: Arc<CudaContext>,
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the memory belongs to this value alone, and any thread may use or free it.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Zeros.
    pub(super) fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, CudaError> {
        let bytes = bytes.max(1);
        context.bind_to_thread().map_err(driver("use the GPU"))?;
        // SAFETY: the memory is written before it is read, here.
        let start = unsafe {
            let start = result::malloc_host(bytes, 0).map_err(driver("allocate pinned memory"))?.cast::<u8>();
            start.write_bytes(0, bytes);
            start
        };
        Ok(Self { context: Arc::clone(context), start, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this length, initialised, and borrowed mutably with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }

    /// Queues a copy of the first `bytes` bytes to the device, from byte `to` of `buffer` on; they must not change until the stream is past it.
    pub(super) fn send(
        &self,
        stream: &Arc<CudaStream>,
        buffer: &Buffer,
        to: usize,
        bytes: usize,
    ) -> Result<(), CudaError> {
        assert!(bytes <= self.bytes && to + bytes <= buffer.bytes(), "expected both ends to have the bytes");
        // SAFETY: both ranges lie in their allocations, checked above; the caller keeps the contents.
        let queued = unsafe {
            let from = std::slice::from_raw_parts(self.start, bytes);
            result::memcpy_htod_async(buffer.pointer + to as u64, from, stream.cu_stream())
        };
        queued.map_err(driver("copy to the GPU"))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `malloc_host`, freed once. A failure would leak, no more.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::free_host(self.start.cast()) });
    }
}

/// Buffers order their own use, all on one stream.
pub(super) fn without_event_tracking(context: &CudaContext) {
    // SAFETY: a rank has one stream for all of its buffers, so that nothing is used on two at once.
    unsafe { context.disable_event_tracking() };
}
