//! What GPUs this host has, as plain data: names, memory, how they reach each other, and versions. Opens none of them.
#![expect(unsafe_code, reason = "calls C libraries")]

use std::ffi::{CStr, CString, c_char};

use cudarc::driver::result::{self, device};
use cudarc::driver::sys::{self, CUdevice_P2PAttribute as PeerAttribute, CUdevice_attribute as Attribute};

use super::error::{CudaError, driver};
use super::library::{Library, device_count, nccl_version, require};
use super::peer_links;
use crate::sim::hardware::{Gpu, Hardware, Peer};

/// Everything, or why there is no GPU to ask.
pub fn hardware() -> Result<Hardware, CudaError> {
    let count = device_count()? as u32;
    result::init().map_err(driver("start the driver"))?;
    let mut version = 0;
    // SAFETY: a number is written to a variable of its type. Without a version it stays 0.
    let _ = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    let gpus = (0..count).map(gpu).collect::<Result<_, _>>().map_err(driver("ask a GPU what it is"))?;
    let peers = (0..count).flat_map(|a| (a + 1..count).map(move |b| peer([a, b])));
    let mut hardware = Hardware {
        cuda: format!("{}.{}", version / 1000, version % 1000 / 10),
        driver: kernel_module(),
        nccl: nccl(),
        gpus,
        peers: peers.collect(),
    };
    let bus_ids: Vec<Option<CString>> = (0..count).map(bus_id).collect();
    peer_links::add(&mut hardware, &bus_ids);
    Ok(hardware)
}

/// The kernel module's line: its version stands in the middle of it.
fn kernel_module() -> Option<String> {
    let text = fs_err::read_to_string("/proc/driver/nvidia/version").ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

fn nccl() -> Option<String> {
    require(Library::Nccl).ok()?;
    let version = nccl_version()?;
    Some(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

fn gpu(ordinal: u32) -> Result<Gpu, cudarc::driver::DriverError> {
    let card = device::get(ordinal as i32)?;
    // SAFETY: the device is one that the driver gave.
    let attribute = |attribute| unsafe { device::get_attribute(card, attribute) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: as above.
    let memory_bytes = unsafe { device::total_mem(card)? } as u64;
    let uuid = device::get_uuid(card)?;
    Ok(Gpu {
        name: device::get_name(card)?,
        uuid: uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect(),
        compute_capability: format!("{major}.{minor}"),
        memory_bytes,
        pcie: None,
        free_bytes: None,
    })
}

/// Where it is on the PCI bus, as NVML takes it.
fn bus_id(ordinal: u32) -> Option<CString> {
    let card = device::get(ordinal as i32).ok()?;
    let mut text: [c_char; 32] = [0; 32];
    // SAFETY: a text and its end are written within the length that is told; the device is one that the driver gave.
    let status = unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, card) };
    status.result().ok()?;
    let bytes = text.map(|c| c as u8);
    CStr::from_bytes_until_nul(&bytes).ok().map(CStr::to_owned)
}

fn peer(gpus: [u32; 2]) -> Peer {
    let ask = |attribute| {
        let (mut value, [a, b]) = (0, gpus.map(|gpu| gpu as i32));
        // SAFETY: a number is written to a variable of its type; devices are ordinals below the count.
        let status = unsafe { sys::cuDeviceGetP2PAttribute(&raw mut value, attribute, a, b) };
        status.result().is_ok().then_some(value)
    };
    let direct = ask(PeerAttribute::CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED).map(|value| value != 0);
    let rank = direct.filter(|direct| *direct);
    let performance_rank = rank.and_then(|_| ask(PeerAttribute::CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK));
    Peer { gpus, direct, performance_rank, link: None }
}
