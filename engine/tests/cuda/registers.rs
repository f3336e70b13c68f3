//! Every kernel compiles for every card, spills nothing, and keeps within its recorded registers.
//!
//! `UPDATE_EXPECT=1 cargo nextest run -p chariot-engine --test cuda registers` writes the table anew.

use std::collections::BTreeMap;

use chariot_engine::backend::cuda::compile::{Element, Target, compile, sources, text};

const TABLE: &str = include_str!("registers.csv");
const ELEMENTS: [Element; 3] = [Element::F32, Element::Bf16, Element::F16];
const HEADER: &str = "kernel,element,capability,registers";

/// (kernel, element, capability) -> registers.
type Table = BTreeMap<(String, String, u32), u32>;

/// Kernel, registers and bytes of spills and stack of each kernel that ptxas speaks of.
fn parse(log: &str) -> Vec<(String, u32, u32)> {
    let mut kernels = Vec::new();
    for line in log.lines() {
        let line = line.trim_start_matches("ptxas").trim_start_matches([' ', '.']).trim();
        if let Some(name) = line.strip_prefix("info    : Function properties for ") {
            kernels.push((name.to_owned(), 0, 0));
        } else if line.contains("bytes stack frame") {
            let bytes =
                line.split(',').map(|part| part.trim().split(' ').next().unwrap().parse::<u32>().unwrap());
            kernels.last_mut().unwrap().2 = bytes.sum();
        } else if let Some((_, rest)) = line.split_once("Used ") {
            kernels.last_mut().unwrap().1 = rest.split(' ').next().unwrap().parse().unwrap();
        }
    }
    kernels
}

fn compiled() -> Table {
    let mut table = Table::new();
    for element in ELEMENTS {
        for source in sources(element) {
            for capability in crate::CARDS {
                let compiled = compile(source, element, Target::Cubin(capability)).unwrap();
                assert!(compiled.code.starts_with(b"\x7fELF"), "{}: expected a cubin", source.name);
                for (kernel, registers, spilled) in parse(&compiled.log) {
                    assert_eq!(spilled, 0, "{kernel} for {element:?} and sm_{capability} spills");
                    assert!(registers > 0, "{kernel}: expected registers in the log");
                    table.insert((kernel, element.name().to_owned(), capability), registers);
                }
            }
        }
    }
    table
}

fn recorded() -> Table {
    let mut lines = TABLE.lines();
    assert_eq!(lines.next(), Some(HEADER));
    let row = |line: &str| {
        let cells: Vec<_> = line.split(',').map(str::to_owned).collect();
        ((cells[0].clone(), cells[1].clone(), cells[2].parse().unwrap()), cells[3].parse().unwrap())
    };
    lines.map(row).collect()
}

fn write(table: &Table) {
    let mut text = format!("{HEADER}\n");
    for ((kernel, element, capability), registers) in table {
        text += &format!("{kernel},{element},{capability},{registers}\n");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/registers.csv");
    fs_err::write(path, text).unwrap();
}

#[test]
fn no_kernel_spills_or_grows() {
    if !crate::nvrtc() {
        return;
    }
    let compiled = compiled();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return write(&compiled);
    }
    let recorded = recorded();
    let (found, expected): (Vec<_>, Vec<_>) = (compiled.keys().collect(), recorded.keys().collect());
    assert_eq!(found, expected, "kernels and rows of registers.csv differ");
    for (key, registers) in &compiled {
        assert!(
            *registers <= recorded[key],
            "{key:?}: expected at most {} registers, found {registers}",
            recorded[key]
        );
    }
}

#[test]
fn every_kernel_of_the_sources_is_in_the_table() {
    let kernels = |source| text(source).matches("__global__").count();
    let declared: usize = ELEMENTS.into_iter().flat_map(sources).map(kernels).sum();
    assert_eq!(recorded().len(), declared * crate::CARDS.len());
}

#[test]
fn a_spill_is_seen() {
    let log = "ptxas info    : Function properties for f\nptxas         .     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\nptxas info    : Used 255 registers, used 0 barriers\n";
    assert_eq!(parse(log), [("f".to_owned(), 255, 16)]);
}
