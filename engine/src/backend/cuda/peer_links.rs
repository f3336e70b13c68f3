//! What joins each two GPUs, from what NVML tells of each. Calls no C library itself.

use std::ffi::CString;

use super::nvml::{Card, NoNvml, Nvml, Place, Remote};
use crate::sim::hardware::{Ancestor, Hardware, PeerLink};

/// Why NVLink and PCIe cannot be told apart on this machine, if so.
pub fn no_nvml() -> Option<NoNvml> {
    Nvml::open().err()
}

/// Writes down each GPU's slot and what joins each two, as far as NVML tells. `bus_ids`: by the GPU's number.
pub(super) fn add(hardware: &mut Hardware, bus_ids: &[Option<CString>]) {
    let Ok(nvml) = Nvml::open() else { return };
    let cards: Vec<Option<Card>> =
        bus_ids.iter().map(|id| id.as_ref().and_then(|id| nvml.card(id))).collect();
    for (gpu, card) in hardware.gpus.iter_mut().zip(&cards) {
        gpu.pcie = card.as_ref().and_then(Card::pcie);
    }
    let links: Vec<Vec<Remote>> =
        cards.iter().map(|card| card.as_ref().map(Card::nvlinks).unwrap_or_default()).collect();
    for peer in &mut hardware.peers {
        let [a, b] = peer.gpus.map(|gpu| gpu as usize);
        let (Some(one), Some(other)) = (&cards[a], &cards[b]) else { continue };
        let ends = [(one.place(), &links[a][..]), (other.place(), &links[b][..])];
        peer.link = link(ends, one.has_nvlink_to(other), one.ancestor(other));
    }
}

/// `ends`: where the two GPUs are, and where their active NVLinks lead to. `by_nvlink`: the driver's word on whether NVLink joins them.
fn link(
    ends: [(Place, &[Remote]); 2],
    by_nvlink: Option<bool>,
    nearest: Option<Ancestor>,
) -> Option<PeerLink> {
    let [(_, from), (to, back)] = ends;
    let count = |links: &[Remote], what| links.iter().filter(|link| **link == what).count() as u32;
    let direct = count(from, Remote::Gpu(to));
    let switched = count(from, Remote::Switch).min(count(back, Remote::Switch));
    match by_nvlink {
        _ if direct > 0 => Some(PeerLink::Nvlink { links: Some(direct) }),
        // Switches join nothing before the driver's fabric manager has set them up.
        Some(true) | None if switched > 0 => Some(PeerLink::Nvswitch { links: switched }),
        Some(true) => Some(PeerLink::Nvlink { links: None }),
        _ => nearest.map(|nearest| PeerLink::Pcie { nearest }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bus: u32) -> Place {
        Place { domain: 0, bus, device: 0 }
    }

    #[test]
    fn links_are_those_between_the_two() {
        use Remote::{Gpu, Switch, Unknown};
        let nearest = Some(Ancestor::HostBridge);
        let check = |from: &[Remote], back: &[Remote], by_nvlink, expected| {
            let found = link([(place(1), from), (place(2), back)], by_nvlink, nearest);
            assert_eq!(found, Some(expected), "{from:?} {back:?} {by_nvlink:?}");
        };
        let pcie = PeerLink::Pcie { nearest: Ancestor::HostBridge };
        let two = [Gpu(place(2)), Gpu(place(3)), Gpu(place(2))];
        check(&two, &[], None, PeerLink::Nvlink { links: Some(2) });
        check(&[Gpu(place(3))], &[Gpu(place(4))], Some(false), pcie);
        check(&[Switch; 12], &[Switch; 10], None, PeerLink::Nvswitch { links: 10 });
        check(&[Switch; 12], &[Switch; 12], Some(true), PeerLink::Nvswitch { links: 12 });
        check(&[Switch; 12], &[Switch; 12], Some(false), pcie);
        check(&[Switch; 12], &[], None, pcie);
        // The links' other ends are hidden, or numbered as the host of a virtual machine numbers them.
        check(&[Unknown; 4], &[Unknown; 4], Some(true), PeerLink::Nvlink { links: None });
        check(&[Gpu(place(77))], &[Gpu(place(78))], Some(true), PeerLink::Nvlink { links: None });
        check(&[], &[], None, pcie);
        assert_eq!(link([(place(1), &[]), (place(2), &[])], Some(false), None), None);
    }
}
