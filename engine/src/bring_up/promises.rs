//! Whether a platform's link classes fit what joins the GPUs. Pure.

use crate::sim::hardware::{Peer, PeerLink};
use crate::sim::platform::{Link, Platform};

/// A sentence for each class that does not fit: one whose name promises NVLink or PCIe and whose GPUs have the other, and one that joins
/// some GPUs by NVLink and others without. The platform is a valid one; GPUs are numbered as its devices.
pub fn doubts(platform: &Platform, peers: &[Peer]) -> Vec<String> {
    let pairs: Vec<([u32; 2], PeerLink)> = peers
        .iter()
        .filter(|peer| peer.gpus.iter().all(|gpu| *gpu < platform.devices()))
        .filter_map(|peer| Some((peer.gpus, peer.link?)))
        .collect();
    let of_class = |class: &Link| {
        let own = pairs.iter().filter(|(gpus, _)| platform.link(gpus) == class);
        doubt(&class.name, &own.copied().collect::<Vec<_>>())
    };
    platform.links.iter().filter_map(of_class).collect()
}

fn doubt(class: &str, pairs: &[([u32; 2], PeerLink)]) -> Option<String> {
    let say = |([a, b], link): ([u32; 2], PeerLink)| format!("GPUs {a} and {b} have {link}");
    let first = |nvlink: bool| pairs.iter().copied().find(|(_, link)| link.is_nvlink() == nvlink);
    let order = "CUDA_VISIBLE_DEVICES sets the order of GPUs";
    match (promise(class), first(true), first(false)) {
        (Some(true), _, Some(pair)) => {
            Some(format!("links.{class} should be NVLink, but {}; {order}", say(pair)))
        }
        (Some(false), Some(pair), _) => {
            Some(format!("links.{class} should be PCIe, but {}; {order}", say(pair)))
        }
        (None, Some(fast), Some(slow)) => Some(format!(
            "links.{class} has one cost for GPUs that are joined differently: {}, but {}; {order}",
            say(fast),
            say(slow)
        )),
        _ => None,
    }
}

/// What a class's name says: whether it is NVLink, or PCIe; nothing, most often.
fn promise(class: &str) -> Option<bool> {
    let class = class.to_lowercase();
    let says = |words: [&str; 2]| words.iter().any(|word| class.contains(word));
    match says(["nvlink", "nvswitch"]) {
        true => Some(true),
        false => says(["pcie", "pci-e"]).then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::hardware::Ancestor;

    const NVLINK: PeerLink = PeerLink::Nvlink { links: Some(4) };
    const PCIE: PeerLink = PeerLink::Pcie { nearest: Ancestor::HostBridge };

    /// Four GPUs, of which these pairs have NVLink, on a platform of these two classes.
    fn check(classes: [&str; 2], nvlinks: &[[u32; 2]], expected: &[&str]) {
        let costs = "all_reduce: {alpha_us: 1, ring_gbps: 1}, send_recv: {alpha_us: 1, gbps: 1}";
        let [near, far] = classes;
        let text = format!(
            "name: four\nnodes: 1\ngpus_per_node: 4\ngpu_memory_gb: 1\nlinks:\n\
             - {{name: {near}, span: 2, {costs}}}\n- {{name: {far}, span: 4, {costs}}}\n"
        );
        let platform: Platform = serde_saphyr::from_str(&text).unwrap();
        // A fifth GPU is none of the platform's.
        let pairs = (0..5).flat_map(|a| (a + 1..5).map(move |b| [a, b]));
        let peer = |gpus: [u32; 2]| {
            let link = if nvlinks.contains(&gpus) || gpus[1] == 4 { NVLINK } else { PCIE };
            Peer { gpus, direct: None, performance_rank: None, link: Some(link) }
        };
        let found = doubts(&platform, &pairs.map(peer).collect::<Vec<_>>());
        assert_eq!(found, expected);
    }

    #[test]
    fn a_class_that_does_not_fit_is_told_with_two_gpus() {
        let neighbours = [[0, 1], [2, 3]];
        check(["nvlink_pair", "pcie_node"], &neighbours, &[]);
        check(["span-2", "span-4"], &neighbours, &[]);
        check(["span-2", "span-4"], &[], &[]);
        let all = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
        check(["NVLink", "NVSwitch"], &all, &[]);
        let order = "CUDA_VISIBLE_DEVICES sets the order of GPUs";
        let pcie = format!(
            "links.nvlink_pair should be NVLink, but GPUs 0 and 1 have PCIe through a host bridge; {order}"
        );
        check(["nvlink_pair", "pcie_node"], &[], &[&pcie]);
        let nvlink = format!("links.pcie_node should be PCIe, but GPUs 0 and 2 have 4 NVLinks; {order}");
        check(["nvlink_pair", "pcie_node"], &all, &[&nvlink]);
        // The bridges lie crosswise.
        let mixed = format!(
            "links.span-4 has one cost for GPUs that are joined differently: GPUs 0 and 2 have 4 NVLinks, \
             but GPUs 0 and 3 have PCIe through a host bridge; {order}"
        );
        check(["span-2", "span-4"], &[[0, 2], [1, 3]], &[&mixed]);
    }

    #[test]
    fn what_nobody_knows_is_not_doubted() {
        let text = "name: two\nnodes: 1\ngpus_per_node: 2\ngpu_memory_gb: 1\nlinks: [{name: nvlink, span: 2, \
                    all_reduce: {alpha_us: 1, ring_gbps: 1}, send_recv: {alpha_us: 1, gbps: 1}}]\n";
        let platform: Platform = serde_saphyr::from_str(text).unwrap();
        let peer = Peer { gpus: [0, 1], direct: Some(false), performance_rank: None, link: None };
        assert!(doubts(&platform, &[peer]).is_empty());
    }
}
