//! NVML's questions about links, on a machine that CHARIOT_DOUBLE_LINKS describes. A GPU's handle and its bus are its number, whatever
//! CUDA_VISIBLE_DEVICES says.
#![expect(unsafe_code, reason = "a C interface")]

use std::ffi::{CStr, c_char};

use crate::context::Ptr;
use crate::status::put;

const SUCCESS: u32 = 0;
const INVALID_ARGUMENT: u32 = 2;
const NOT_SUPPORTED: u32 = 3;
const NOT_FOUND: u32 = 6;
const DRIVER_NOT_LOADED: u32 = 9;
const UNKNOWN: u32 = 999;

/// Cards of the machine: the buses above are switches'.
const CARDS: u32 = 64;

/// What joins the cards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Four NVLinks between cards 2k and 2k + 1.
    Pairs,
    /// The same, in a virtual machine that hides where they lead to.
    Hidden,
    /// Twelve NVLinks of each to switches.
    Switch,
    /// No NVLink.
    Pcie,
    /// NVML starts, and fails at every other call.
    Broken,
    /// NVML does not start.
    None,
}

fn links() -> Links {
    match std::env::var("CHARIOT_DOUBLE_LINKS").as_deref() {
        Ok("pairs") => Links::Pairs,
        Ok("hidden") => Links::Hidden,
        Ok("switch") => Links::Switch,
        Ok("broken") => Links::Broken,
        Ok("none") => Links::None,
        _ => Links::Pcie,
    }
}

/// NVLinks of each card.
fn count() -> u32 {
    match links() {
        Links::Pairs | Links::Hidden => 4,
        Links::Switch => 12,
        Links::Pcie | Links::Broken | Links::None => 0,
    }
}

/// As in NVML's header.
#[repr(C)]
struct PciInfo {
    legacy: [u8; 16],
    domain: u32,
    bus: u32,
    device: u32,
    ids: [u32; 2],
    name: [u8; 32],
}

fn on_bus(bus: u32) -> PciInfo {
    let mut info = PciInfo { legacy: [0; 16], domain: 0, bus, device: 0, ids: [0; 2], name: [0; 32] };
    info.name[..16].copy_from_slice(format!("00000000:{bus:02X}:00.0").as_bytes());
    info
}

fn card(handle: Ptr) -> u32 {
    handle as usize as u32 - 1
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> u32 {
    if links() == Links::None { DRIVER_NOT_LOADED } else { SUCCESS }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> u32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, out: *mut Ptr) -> u32 {
    if bus_id.is_null() {
        return INVALID_ARGUMENT;
    }
    if links() == Links::Broken {
        return UNKNOWN;
    }
    // SAFETY: a C string, by the caller's contract.
    let text = unsafe { CStr::from_ptr(bus_id) }.to_string_lossy().into_owned();
    let bus = text.split(':').nth(1).and_then(|bus| u32::from_str_radix(bus, 16).ok());
    match bus.filter(|bus| *bus < CARDS) {
        Some(bus) => put(out, (bus as usize + 1) as Ptr),
        None => NOT_FOUND,
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPciInfo_v3(device: Ptr, out: *mut PciInfo) -> u32 {
    put(out, on_bus(card(device)))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMaxPcieLinkGeneration(_device: Ptr, out: *mut u32) -> u32 {
    put(out, 4)
}

/// The last of eight cards sits in a slot of half the lanes.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMaxPcieLinkWidth(device: Ptr, out: *mut u32) -> u32 {
    put(out, if card(device) == 7 { 8 } else { 16 })
}

/// There are two more than are active.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkState(_device: Ptr, link: u32, out: *mut u32) -> u32 {
    match count() {
        0 => NOT_SUPPORTED,
        count if link < count + 2 => put(out, u32::from(link < count)),
        _ => INVALID_ARGUMENT,
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkRemoteDeviceType(_device: Ptr, link: u32, out: *mut u32) -> u32 {
    match links() {
        _ if link >= count() => INVALID_ARGUMENT,
        Links::Pairs => put(out, 0),
        Links::Switch => put(out, 2),
        _ => NOT_SUPPORTED,
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: Ptr, link: u32, out: *mut PciInfo) -> u32 {
    match links() {
        _ if link >= count() => INVALID_ARGUMENT,
        Links::Pairs => put(out, on_bus(card(device) ^ 1)),
        Links::Switch => put(out, on_bus(CARDS + link)),
        _ => NOT_SUPPORTED,
    }
}

/// 0: the one reaches the other so; 5: not.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetP2PStatus(from: Ptr, to: Ptr, what: u32, out: *mut u32) -> u32 {
    const NVLINK: u32 = 2;
    let is_joined = match links() {
        Links::Pairs | Links::Hidden => card(from) ^ 1 == card(to),
        Links::Switch => true,
        Links::Pcie | Links::Broken | Links::None => false,
    };
    put(out, if what == NVLINK && is_joined { 0 } else { 5 })
}

/// Pairs hang on one switch, fours on one NUMA node.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTopologyCommonAncestor(one: Ptr, other: Ptr, out: *mut u32) -> u32 {
    let (one, other) = (card(one), card(other));
    put(
        out,
        if one / 2 == other / 2 {
            10
        } else if one / 4 == other / 4 {
            40
        } else {
            50
        },
    )
}
