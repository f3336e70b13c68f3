//! NVRTC's entry points, of CUDA 12 or 13: a text becomes a cubin or PTX. Knows no kernel.
#![expect(unsafe_code, reason = "NVRTC is a C library")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use super::library::{Library, Missing, entry};

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;

/// Why a call did not work.
pub(super) enum NvrtcError {
    /// There is no NVRTC, or one without an entry point.
    Missing(Missing),
    /// NVRTC's name of the error.
    Refused(String),
}

impl From<Missing> for NvrtcError {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

/// A program in NVRTC's hands.
pub(super) struct Program(Handle);

impl Program {
    /// Of a text with a closing 0.
    pub(super) fn new(text: &CStr) -> Result<Self, NvrtcError> {
        let mut raw = null_mut();
        // SAFETY: the entry point's type, as in NVRTC's header; the text lives, no name and no headers are allowed, and a handle is written to
        // a variable of its type.
        let code = unsafe {
            let create = entry::<Create>(Library::Nvrtc, "nvrtcCreateProgram")?;
            create(&raw mut raw, text.as_ptr(), null(), 0, null(), null())
        };
        checked(code)?;
        Ok(Self(raw))
    }

    /// With these options.
    pub(super) fn compile(&self, options: &[String]) -> Result<(), NvrtcError> {
        let options: Vec<CString> =
            options.iter().map(|option| CString::new(option.as_str()).expect("options have no 0")).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the entry point's type; the program lives, and so do as many options as are named.
        let code = unsafe {
            let compile = entry::<Compile>(Library::Nvrtc, "nvrtcCompileProgram")?;
            compile(self.0, pointers.len() as c_int, pointers.as_ptr())
        };
        checked(code)
    }

    /// What the compiler said.
    pub(super) fn log(&self) -> String {
        let bytes = self.get("nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
        let bytes = bytes.unwrap_or_default();
        let text = CStr::from_bytes_until_nul(&bytes).map(CStr::to_string_lossy);
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    }

    /// Of a program that was compiled for a device.
    pub(super) fn cubin(&self) -> Result<Vec<u8>, NvrtcError> {
        self.get("nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    }

    /// With a closing 0.
    pub(super) fn ptx(&self) -> Result<Vec<u8>, NvrtcError> {
        self.get("nvrtcGetPTXSize", "nvrtcGetPTX")
    }

    /// Bytes that one entry point counts and the other writes.
    fn get(&self, size: &str, get: &str) -> Result<Vec<u8>, NvrtcError> {
        // SAFETY: the entry points' types: all of them have these two.
        let (size, get) =
            unsafe { (entry::<Size>(Library::Nvrtc, size)?, entry::<Get>(Library::Nvrtc, get)?) };
        let mut bytes = 0;
        // SAFETY: the program lives; a size is written to a variable of its type.
        checked(unsafe { size(self.0, &raw mut bytes) })?;
        let mut out = vec![0_u8; bytes];
        // SAFETY: the buffer has the size that NVRTC asked for.
        let code = unsafe { get(self.0, out.as_mut_ptr().cast()) };
        checked(code)?;
        Ok(out)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Handle) -> c_int;
        // SAFETY: the entry point's type; nobody else destroys the program. A failure would leak it, no more.
        unsafe {
            if let Ok(destroy) = entry::<Destroy>(Library::Nvrtc, "nvrtcDestroyProgram") {
                let _ = destroy(&raw mut self.0);
            }
        }
    }
}

/// A code that is not 0 is an error.
fn checked(code: c_int) -> Result<(), NvrtcError> {
    type Name = unsafe extern "C" fn(c_int) -> *const c_char;
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the entry point's type; it gives a text that lives as long as the library, for every code.
    let name = unsafe {
        entry::<Name>(Library::Nvrtc, "nvrtcGetErrorString")
            .map(|name| CStr::from_ptr(name(code)).to_string_lossy().into_owned())
    };
    Err(NvrtcError::Refused(name.unwrap_or_else(|_| format!("error {code}"))))
}
