//! cuBLAS's C interface: handles, and parameters of products. Knows no arithmetic.
#![expect(unsafe_code, reason = "a C interface")]

use std::ffi::{c_char, c_int, c_longlong, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::context::{Ptr, key};
use crate::gemm::{Element, Gemm, Matrix};
use crate::status::{failed, put};
use crate::stream::{self, Op};

const NOT_INITIALIZED: u32 = 1;
const INVALID_VALUE: u32 = 7;
const EXECUTION_FAILED: u32 = 13;
const NOT_SUPPORTED: u32 = 15;
const VERSION: [c_int; 3] = [12, 8, 4];
/// CUBLAS_COMPUTE_32F, _32F_PEDANTIC and _32F_FAST_TF32: all three are f32 here.
const COMPUTE: [u32; 3] = [68, 69, 77];

/// What a handle remembers: the stream.
struct Handle(AtomicUsize);

fn handle<'a>(handle: Ptr) -> Result<&'a Handle, u32> {
    // SAFETY: null or a live handle of ours, by the C contract.
    unsafe { handle.cast::<Handle>().as_ref() }.ok_or(NOT_INITIALIZED)
}

fn with(of: Ptr, call: impl FnOnce(&Handle) -> u32) -> u32 {
    handle(of).map_or_else(|code| code, call)
}

fn given<V>(out: *mut V, value: V) -> u32 {
    if put(out, value) == 0 { 0 } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
extern "C" fn cublasCreate_v2(out: *mut Ptr) -> u32 {
    given(out, Box::into_raw(Box::new(Handle(AtomicUsize::new(0)))).cast())
}

#[unsafe(no_mangle)]
extern "C" fn cublasDestroy_v2(of: Ptr) -> u32 {
    if of.is_null() {
        return NOT_INITIALIZED;
    }
    // SAFETY: a handle of ours, destroyed once, by the C contract.
    drop(unsafe { Box::from_raw(of.cast::<Handle>()) });
    0
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetStream_v2(of: Ptr, stream: Ptr) -> u32 {
    with(of, |handle| {
        handle.0.store(stream as usize, Ordering::Relaxed);
        0
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetStream_v2(of: Ptr, out: *mut Ptr) -> u32 {
    with(of, |handle| given(out, handle.0.load(Ordering::Relaxed) as Ptr))
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetVersion_v2(_of: Ptr, out: *mut c_int) -> u32 {
    given(out, VERSION[0] * 10_000 + VERSION[1] * 100 + VERSION[2])
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetProperty(which: u32, out: *mut c_int) -> u32 {
    VERSION.get(which as usize).map_or(INVALID_VALUE, |value| given(out, *value))
}

/// The modes differ in speed and precision; here every product is f32.
#[unsafe(no_mangle)]
extern "C" fn cublasSetMathMode(of: Ptr, _mode: u32) -> u32 {
    with(of, |_| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetMathMode(of: Ptr, out: *mut u32) -> u32 {
    with(of, |_| given(out, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetWorkspace_v2(of: Ptr, _workspace: Ptr, _bytes: usize) -> u32 {
    with(of, |_| 0)
}

/// Only factors in the host's memory.
#[unsafe(no_mangle)]
extern "C" fn cublasSetPointerMode_v2(of: Ptr, mode: u32) -> u32 {
    with(of, |_| if mode == 0 { 0 } else { NOT_SUPPORTED })
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetPointerMode_v2(of: Ptr, out: *mut u32) -> u32 {
    with(of, |_| given(out, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetStatusString(status: u32) -> *const c_char {
    let name = match status {
        0 => c"success",
        NOT_INITIALIZED => c"not initialized",
        INVALID_VALUE => c"invalid value",
        EXECUTION_FAILED => c"execution failed",
        NOT_SUPPORTED => c"not supported",
        _ => c"an error of the CUDA double",
    };
    name.as_ptr()
}

fn invalid(why: &str) -> u32 {
    failed(&format!("cublas: {why}"), INVALID_VALUE)
}

fn element(kind: u32) -> Result<Element, u32> {
    match kind {
        0 => Ok(Element::F32),
        2 => Ok(Element::F16),
        14 => Ok(Element::Bf16),
        _ => Err(NOT_SUPPORTED),
    }
}

fn size(name: &str, value: c_int) -> Result<usize, u32> {
    usize::try_from(value).map_err(|_| invalid(&format!("{name} is {value}")))
}

/// A matrix as the caller describes it.
#[derive(Clone, Copy)]
struct Given {
    at: *const c_void,
    kind: u32,
    leading: c_int,
    stride: c_longlong,
}

/// An operand of `rows` x `columns` after its transposition.
fn matrix(name: &str, given: Given, op: u32, rows: usize, columns: usize) -> Result<Matrix, u32> {
    let is_transposed = match op {
        0 => false,
        1 | 2 => true,
        _ => return Err(invalid(&format!("{name} has operation {op}"))),
    };
    let (rows, columns) = if is_transposed { (columns, rows) } else { (rows, columns) };
    let leading = size(&format!("the leading dimension of {name}"), given.leading)?;
    if leading < rows.max(1) {
        return Err(invalid(&format!(
            "the leading dimension of {name} is {leading}, less than its {rows} rows"
        )));
    }
    if given.at.is_null() && rows * columns > 0 {
        return Err(invalid(&format!("{name} is null")));
    }
    let stride =
        usize::try_from(given.stride).map_err(|_| invalid(&format!("{name} has a negative stride")))?;
    let (at, element) = (given.at as usize, element(given.kind)?);
    Ok(Matrix { at, element, rows, columns, leading, stride, is_transposed })
}

struct Call {
    ops: [u32; 2],
    sizes: [c_int; 3],
    factors: [*const f32; 2],
    a: Given,
    b: Given,
    c: Given,
    batch: c_int,
    compute: u32,
}

impl Call {
    fn gemm(&self) -> Result<Gemm, u32> {
        let [m, n, k] = self.sizes;
        let (m, n, k) = (size("m", m)?, size("n", n)?, size("k", k)?);
        if self.factors.iter().any(|factor| factor.is_null()) {
            return Err(invalid("alpha or beta is null"));
        }
        // SAFETY: pointers to the host's f32, by the C contract and the pointer mode.
        let [alpha, beta] = self.factors.map(|factor| unsafe { *factor });
        let a = matrix("A", self.a, self.ops[0], m, k)?;
        let b = matrix("B", self.b, self.ops[1], k, n)?;
        let c = matrix("C", self.c, 0, m, n)?;
        let is_known = a.element == b.element && (c.element == a.element || c.element == Element::F32);
        if !COMPUTE.contains(&self.compute) || !is_known {
            return Err(NOT_SUPPORTED);
        }
        Ok(Gemm { m, n, k, alpha, beta, a, b, c, batch: size("the batch", self.batch)? })
    }

    fn queue(&self, of: Ptr) -> u32 {
        let queued = handle(of).and_then(|handle| {
            let gemm = self.gemm()?;
            let stream = key(handle.0.load(Ordering::Relaxed) as Ptr);
            match stream::push(stream, Op::work(move || gemm.run())) {
                0 => Ok(0),
                _ => Err(EXECUTION_FAILED),
            }
        });
        queued.unwrap_or_else(|code| code)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasGemmEx(
    of: Ptr,
    op_a: u32,
    op_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const f32,
    a: *const c_void,
    kind_a: u32,
    lda: c_int,
    b: *const c_void,
    kind_b: u32,
    ldb: c_int,
    beta: *const f32,
    c: *mut c_void,
    kind_c: u32,
    ldc: c_int,
    compute: u32,
    _algorithm: c_int,
) -> u32 {
    let (ops, sizes, factors) = ([op_a, op_b], [m, n, k], [alpha, beta]);
    let a = Given { at: a, kind: kind_a, leading: lda, stride: 0 };
    let b = Given { at: b, kind: kind_b, leading: ldb, stride: 0 };
    let c = Given { at: c, kind: kind_c, leading: ldc, stride: 0 };
    Call { ops, sizes, factors, a, b, c, batch: 1, compute }.queue(of)
}

#[unsafe(no_mangle)]
extern "C" fn cublasGemmStridedBatchedEx(
    of: Ptr,
    op_a: u32,
    op_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const f32,
    a: *const c_void,
    kind_a: u32,
    lda: c_int,
    stride_a: c_longlong,
    b: *const c_void,
    kind_b: u32,
    ldb: c_int,
    stride_b: c_longlong,
    beta: *const f32,
    c: *mut c_void,
    kind_c: u32,
    ldc: c_int,
    stride_c: c_longlong,
    batch: c_int,
    compute: u32,
    _algorithm: c_int,
) -> u32 {
    let (ops, sizes, factors) = ([op_a, op_b], [m, n, k], [alpha, beta]);
    let a = Given { at: a, kind: kind_a, leading: lda, stride: stride_a };
    let b = Given { at: b, kind: kind_b, leading: ldb, stride: stride_b };
    let c = Given { at: c, kind: kind_c, leading: ldc, stride: stride_c };
    Call { ops, sizes, factors, a, b, c, batch, compute }.queue(of)
}
