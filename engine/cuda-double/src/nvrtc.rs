//! NVRTC's C interface over g++: the "cubin" is a shared object. Knows no device.
#![expect(unsafe_code, reason = "a C interface")]

use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::process::Command;

const SHIM: &str = include_str!("shim.h");
const INVALID_INPUT: c_int = 3;
const COMPILATION: c_int = 6;

#[derive(Default)]
struct Program {
    source: String,
    cubin: Vec<u8>,
    log: Vec<u8>,
}

/// Names of `extern "C" __global__` functions.
fn kernels(source: &str) -> Vec<String> {
    let code: Vec<_> = source.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
    let code = code.join("\n");
    let ident = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for part in code.split("__global__").skip(1) {
        let head = match part.split_once("__launch_bounds__") {
            Some((before, after)) if !before.contains('{') => {
                after.split_once(')').map_or(part, |(_, rest)| rest)
            }
            _ => part,
        };
        let head = head.split('(').next().unwrap_or("").trim_end();
        names.extend(head.rsplit(|c| !ident(c)).next().filter(|name| !name.is_empty()).map(str::to_owned));
    }
    names
}

/// `extern __shared__ T name[];` as a pointer into the double's room.
fn dynamic_shared(source: &str) -> String {
    let rewrite = |line: &str| {
        let (before, rest) = line.split_once("extern __shared__ ")?;
        let (declaration, after) = rest.split_once("[]")?;
        let declaration = match declaration.strip_prefix("__align__(") {
            Some(aligned) => aligned.split_once(')')?.1.trim_start(),
            None => declaration,
        };
        let (kind, name) = declaration.rsplit_once(' ')?;
        Some(format!("{before}{kind} *{name} = ({kind} *)chariot_state.dynamic{after}"))
    };
    source.lines().map(|line| rewrite(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn whole(source: &str) -> String {
    let mut text = format!("{SHIM}{}", dynamic_shared(source));
    for name in kernels(source) {
        text += &format!(
            "extern \"C\" void chariot_run_{name}(void **p) {{ chariot_call(&{name}, p); }}\n\
             extern \"C\" int chariot_sizes_{name}(int *out) {{ return chariot_sizes(&{name}, out); }}\n"
        );
    }
    text
}

fn compile(source: &str, options: &[String]) -> Result<Vec<u8>, String> {
    let text = whole(source);
    let defines: Vec<_> = options.iter().filter(|o| o.starts_with("-D")).cloned().collect();
    let digest = blake3::hash(format!("{text}\0{defines:?}").as_bytes()).to_hex();
    let folder: PathBuf = std::env::temp_dir().join("chariot-cuda-double");
    let (object, told) = (folder.join(format!("{digest}.so")), |e: std::io::Error| e.to_string());
    if let Ok(bytes) = fs_err::read(&object) {
        return Ok(bytes);
    }
    fs_err::create_dir_all(&folder).map_err(told)?;
    let stem = folder.join(format!("{digest}-{}-{:?}", std::process::id(), std::thread::current().id()));
    let (input, output) = (stem.with_extension("cpp"), stem.with_extension("tmp"));
    fs_err::write(&input, text).map_err(told)?;
    let flags = ["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-fno-strict-aliasing", "-ffp-contract=off"];
    let run = Command::new("g++").args(flags).args(&defines).arg(&input).arg("-o").arg(&output).output();
    let run = run.map_err(|e| format!("g++: {e}"))?;
    fs_err::remove_file(&input).map_err(told)?;
    if !run.status.success() {
        return Err(String::from_utf8_lossy(&run.stderr).into_owned());
    }
    let bytes = fs_err::read(&output).map_err(told)?;
    fs_err::rename(&output, &object).map_err(told)?;
    Ok(bytes)
}

fn put<V>(at: *mut V, value: V) -> c_int {
    if at.is_null() {
        return INVALID_INPUT;
    }
    // SAFETY: the caller's C contract: a pointer to a writable value.
    unsafe { at.write(value) };
    0
}

fn copy(bytes: &[u8], at: *mut c_char) -> c_int {
    // SAFETY: the caller made room of the size it asked for.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast(), bytes.len()) };
    0
}

fn program<'a>(program: *mut core::ffi::c_void) -> &'a mut Program {
    // SAFETY: made by nvrtcCreateProgram and not yet destroyed, by the C contract.
    unsafe { &mut *program.cast::<Program>() }
}

fn text(at: *const c_char) -> String {
    // SAFETY: a C string, by the C contract.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}

type Handle = *mut core::ffi::c_void;

#[unsafe(no_mangle)]
extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    put(major, 12) | put(minor, 8)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcCreateProgram(
    out: *mut Handle,
    source: *const c_char,
    _name: *const c_char,
    _headers: c_int,
    _texts: *const *const c_char,
    _names: *const *const c_char,
) -> c_int {
    let made = Program { source: text(source), ..Program::default() };
    put(out, Box::into_raw(Box::new(made)).cast())
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcDestroyProgram(handle: *mut Handle) -> c_int {
    // SAFETY: a program of ours, by the C contract, destroyed once.
    drop(unsafe { Box::from_raw((*handle).cast::<Program>()) });
    0
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcCompileProgram(handle: Handle, count: c_int, options: *const *const c_char) -> c_int {
    // SAFETY: `count` C strings, by the C contract.
    let options: Vec<_> = (0..count as usize).map(|i| text(unsafe { *options.add(i) })).collect();
    let program = program(handle);
    match compile(&program.source, &options) {
        Ok(cubin) => program.cubin = cubin,
        Err(log) => {
            program.log = log.into_bytes();
            return COMPILATION;
        }
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLogSize(handle: Handle, out: *mut usize) -> c_int {
    put(out, program(handle).log.len() + 1)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLog(handle: Handle, out: *mut c_char) -> c_int {
    copy(&[&program(handle).log[..], b"\0"].concat(), out)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBINSize(handle: Handle, out: *mut usize) -> c_int {
    put(out, program(handle).cubin.len())
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBIN(handle: Handle, out: *mut c_char) -> c_int {
    copy(&program(handle).cubin, out)
}
