//! What NVML, the driver's own library, tells of a GPU's NVLinks and of its place on the PCI bus. It is optional, and knows nothing of
//! CUDA's numbers: GPUs are named by their bus ids, since NVML lists them in an order of its own and all of them.
#![expect(unsafe_code, reason = "loads and calls a C library")]

use std::ffi::{CStr, c_char, c_void};

use libloading::Library;
use thiserror::Error;

use crate::sim::hardware::{Ancestor, Pcie};

/// Why NVML tells nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NoNvml {
    /// No such library.
    #[error(
        "no NVML: libnvidia-ml.so.1, a part of the driver, was not found, so NVLink and PCIe cannot be told apart"
    )]
    Absent,
    /// It is there, and says this number to its first call.
    #[error("NVML does not start (its error {0}), so NVLink and PCIe cannot be told apart")]
    Refused(u32),
}

/// Error of a library without an entry point that is asked for; NVML has the same number for it.
const NO_FUNCTION: u32 = 13;
/// More NVLinks than a GPU has: the numbers from the first unknown one on are refused.
const LINKS_MAX: u32 = 64;

/// The library, started.
pub(super) struct Nvml(Library);

/// An NVML handle of a GPU, and where that is.
pub(super) struct Card<'a> {
    nvml: &'a Nvml,
    handle: *mut c_void,
    place: Place,
}

/// A place on the PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) domain: u32,
    pub(super) bus: u32,
    pub(super) device: u32,
}

/// Where an active NVLink leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remote {
    /// A GPU at that place.
    Gpu(Place),
    /// A switch, which joins all GPUs that have links to switches.
    Switch,
    /// NVML does not tell, as in some virtual machines.
    Unknown,
}

/// As NVML lays it out.
#[repr(C)]
#[derive(Default)]
struct PciInfo {
    legacy: [u8; 16],
    domain: u32,
    bus: u32,
    device: u32,
    ids: [u32; 2],
    name: [u8; 32],
}

impl From<PciInfo> for Place {
    fn from(PciInfo { domain, bus, device, .. }: PciInfo) -> Self {
        Self { domain, bus, device }
    }
}

impl Nvml {
    /// Loads and starts it.
    pub(super) fn open() -> Result<Self, NoNvml> {
        // SAFETY: loading runs the library's initialisers, which NVIDIA's are made for.
        let library = unsafe { Library::new("libnvidia-ml.so.1") }.map_err(|_| NoNvml::Absent)?;
        let nvml = Self(library);
        // SAFETY: the entry point's type, as in NVML's header.
        let start = unsafe { nvml.entry::<unsafe extern "C" fn() -> u32>(c"nvmlInit_v2") };
        // SAFETY: it takes nothing.
        match start.map_or(NO_FUNCTION, |start| unsafe { start() }) {
            0 => Ok(nvml),
            code => Err(NoNvml::Refused(code)),
        }
    }

    /// An entry point, where this version has it.
    ///
    /// # Safety
    /// `F` is its type.
    unsafe fn entry<F: Copy>(&self, name: &CStr) -> Option<F> {
        // SAFETY: the caller's promise; the function is not used beyond the library, which `self` holds.
        unsafe { self.0.get::<F>(name.to_bytes_with_nul()) }.ok().map(|entry| *entry)
    }

    /// The GPU with this bus id, as CUDA writes it.
    pub(super) fn card(&self, bus_id: &CStr) -> Option<Card<'_>> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the entry point's type, as in NVML's header; a handle is written to a variable of its type.
        let code = unsafe {
            type Entry = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> u32;
            self.entry::<Entry>(c"nvmlDeviceGetHandleByPciBusId_v2")?(bus_id.as_ptr(), &raw mut handle)
        };
        if code != 0 {
            return None;
        }
        // SAFETY: this entry point's output has that type.
        let place = unsafe { self.of_card::<PciInfo>(c"nvmlDeviceGetPciInfo_v3", handle) }?.into();
        Some(Card { nvml: self, handle, place })
    }

    /// # Safety
    /// The entry point takes a handle and a place for a `V`.
    unsafe fn of_card<V: Default>(&self, name: &CStr, handle: *mut c_void) -> Option<V> {
        let mut value = V::default();
        // SAFETY: the caller's promise; the handle is NVML's.
        let code = unsafe {
            type Entry<V> = unsafe extern "C" fn(*mut c_void, *mut V) -> u32;
            self.entry::<Entry<V>>(name)?(handle, &raw mut value)
        };
        (code == 0).then_some(value)
    }

    /// # Safety
    /// The entry point takes a handle, the number of a link and a place for a `V`.
    unsafe fn of_link<V: Default>(&self, name: &CStr, handle: *mut c_void, link: u32) -> Option<V> {
        let mut value = V::default();
        // SAFETY: the caller's promise; the handle is NVML's.
        let code = unsafe {
            type Entry<V> = unsafe extern "C" fn(*mut c_void, u32, *mut V) -> u32;
            self.entry::<Entry<V>>(name)?(handle, link, &raw mut value)
        };
        (code == 0).then_some(value)
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: the entry point's type, as in NVML's header; it takes nothing, and no handle is left.
        unsafe {
            if let Some(stop) = self.entry::<unsafe extern "C" fn() -> u32>(c"nvmlShutdown") {
                stop();
            }
        }
    }
}

impl Card<'_> {
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Its active NVLinks.
    pub(super) fn nvlinks(&self) -> Vec<Remote> {
        // SAFETY: this entry point's output is a number of 32 bits.
        let state =
            |link| unsafe { self.nvml.of_link::<u32>(c"nvmlDeviceGetNvLinkState", self.handle, link) };
        let known = (0..LINKS_MAX).map_while(|link| Some((link, state(link)?)));
        known.filter(|(_, state)| *state == 1).map(|(link, _)| self.remote(link)).collect()
    }

    fn remote(&self, link: u32) -> Remote {
        let (nvml, handle) = (self.nvml, self.handle);
        // SAFETY: this entry point's output is a number of 32 bits.
        let kind: Option<u32> = unsafe { nvml.of_link(c"nvmlDeviceGetNvLinkRemoteDeviceType", handle, link) };
        // SAFETY: this entry point's output has that type.
        let place =
            || unsafe { nvml.of_link::<PciInfo>(c"nvmlDeviceGetNvLinkRemotePciInfo_v2", handle, link) };
        match kind {
            Some(2) => Remote::Switch,
            // Older drivers have no entry point for the kind.
            Some(0) | None => place().map_or(Remote::Unknown, |info| Remote::Gpu(info.into())),
            Some(_) => Remote::Unknown,
        }
    }

    /// The best that its slot and it can do; an idle GPU's link may be slower just now.
    pub(super) fn pcie(&self) -> Option<Pcie> {
        // SAFETY: these entry points' outputs are numbers of 32 bits.
        let ask = |name| unsafe { self.nvml.of_card::<u32>(name, self.handle) };
        let generation = ask(c"nvmlDeviceGetMaxPcieLinkGeneration")?;
        Some(Pcie { generation, lanes: ask(c"nvmlDeviceGetMaxPcieLinkWidth")? })
    }

    /// Whether the driver lets one read the other's memory over NVLink.
    pub(super) fn has_nvlink_to(&self, other: &Card<'_>) -> Option<bool> {
        const NVLINK: u32 = 2;
        const STATUS_UNKNOWN: u32 = 6;
        let mut status = STATUS_UNKNOWN;
        // SAFETY: the entry point's type, as in NVML's header; a number is written to a variable of its type.
        let code = unsafe {
            type Entry = unsafe extern "C" fn(*mut c_void, *mut c_void, u32, *mut u32) -> u32;
            let ask = self.nvml.entry::<Entry>(c"nvmlDeviceGetP2PStatus")?;
            ask(self.handle, other.handle, NVLINK, &raw mut status)
        };
        (code == 0 && status != STATUS_UNKNOWN).then_some(status == 0)
    }

    /// The nearest thing on the PCI bus that both hang on.
    pub(super) fn ancestor(&self, other: &Card<'_>) -> Option<Ancestor> {
        let mut level = 0;
        // SAFETY: the entry point's type, as in NVML's header; a number is written to a variable of its type.
        let code = unsafe {
            type Entry = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut u32) -> u32;
            let ask = self.nvml.entry::<Entry>(c"nvmlDeviceGetTopologyCommonAncestor")?;
            ask(self.handle, other.handle, &raw mut level)
        };
        match (code, level) {
            (0, 0) => Some(Ancestor::Board),
            (0, 10) => Some(Ancestor::Switch),
            (0, 20) => Some(Ancestor::Switches),
            (0, 30) => Some(Ancestor::HostBridge),
            (0, 40) => Some(Ancestor::NumaNode),
            (0, 50) => Some(Ancestor::System),
            _ => None,
        }
    }
}
