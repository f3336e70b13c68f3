//! Whether TCP can keep to the links that it is asked to emulate. Pure.

use crate::sim::coefficient::Band;
use crate::sim::platform::{Emulation, Link, Platform, Transport};

/// GB/s of the ring that an all-reduce over TCP came to between processes of one host: 0.4 to 0.6, whatever their number (docs/communicators.md).
const TCP_RING_GBPS: f64 = 0.5;
/// Bytes of a value on the wire.
const VALUE_BYTES: f64 = 4.0;

/// A sentence for each class whose all-reduces would come late over TCP from some size on. None of shared memory, nor of devices that have a clock of
/// their own: what it takes to move bytes is no time on them.
pub fn emulation_doubts(platform: &Platform) -> Vec<String> {
    let Some(runtime) = &platform.runtime else { return Vec::new() };
    let Some(emulation) = runtime.emulate else { return Vec::new() };
    if runtime.transport != Transport::Tcp || emulation.compute_scale.is_some() {
        return Vec::new();
    }
    platform.links.iter().filter_map(|class| doubt(class, &emulation, platform.devices())).collect()
}

fn doubt(class: &Link, emulation: &Emulation, devices: u32) -> Option<String> {
    let ranks = f64::from(class.span.min(devices));
    // Of the bytes that are moved, which are not those that a value counts for.
    let asked = class.all_reduce.ring_gbps.at(Band::Central) / emulation.time_scale * VALUE_BYTES
        / emulation.bytes_per_value;
    if asked <= TCP_RING_GBPS || ranks < 2.0 {
        return None;
    }
    // Up to here the fixed part of the planned time is enough for TCP, too. Bytes over GB/s are nanoseconds.
    let fixed_ns = emulation.time_scale * class.all_reduce.alpha_us.at(Band::Central) * 1e3;
    let ring_bytes = fixed_ns / (1.0 / TCP_RING_GBPS - 1.0 / asked);
    let kilobytes = ring_bytes * ranks / (2.0 * (ranks - 1.0)) / 1024.0;
    Some(format!(
        "links.{} asks an all-reduce for {asked:.1} GB/s, and TCP moves about {TCP_RING_GBPS}: those of more than {kilobytes:.0} KB will be late; \
         expected transport: shared_memory, or a larger emulate.time_scale",
        class.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(runtime: &str) -> Vec<String> {
        let text = format!(
            "name: eight\nnodes: 2\ngpus_per_node: 4\ngpu_memory_gb: 1\nlinks:\n\
             - {{name: near, span: 2, all_reduce: {{alpha_us: 40.4, ring_gbps: 195}}, send_recv: {{alpha_us: 30, gbps: 195}}}}\n\
             - {{name: node, span: 4, all_reduce: {{alpha_us: 57.6, ring_gbps: 23.67}}, send_recv: {{alpha_us: 30, gbps: 23.67}}}}\n\
             - {{name: far, span: 8, all_reduce: {{alpha_us: 315, ring_gbps: 3.75}}, send_recv: {{alpha_us: 30, gbps: 2.35}}}}\n\
             runtime: {{threads: 1, {runtime}}}\n"
        );
        emulation_doubts(&serde_saphyr::from_str(&text).unwrap())
    }

    /// As measured: at NVLink's and PCIe's rates 128 KB came in time and 1 MB did not, at Ethernet's both did.
    #[test]
    fn classes_that_tcp_cannot_keep_up_with_are_told_with_a_size() {
        let said = found("transport: tcp, emulate: {time_scale: 20, bytes_per_value: 4}");
        let [near, node] = &said[..] else { panic!("expected two classes, found {said:?}") };
        assert!(near.contains("links.near asks an all-reduce for 9.8 GB/s"), "{near}");
        assert!(near.contains("those of more than 416 KB will be late"), "{near}");
        assert!(node.contains("links.node asks an all-reduce for 1.2 GB/s"), "{node}");
        assert!(node.contains("those of more than 649 KB will be late"), "{node}");
    }

    #[test]
    fn others_are_not_doubted() {
        for runtime in [
            "transport: tcp",
            "transport: shared_memory, emulate: {time_scale: 20, bytes_per_value: 4}",
            "transport: tcp, emulate: {time_scale: 20, bytes_per_value: 4, compute_scale: 8}",
            "transport: tcp, emulate: {time_scale: 400, bytes_per_value: 4}",
            "transport: tcp, emulate: {time_scale: 20, bytes_per_value: 80}",
        ] {
            assert_eq!(found(runtime), [] as [&str; 0], "{runtime}");
        }
    }
}
