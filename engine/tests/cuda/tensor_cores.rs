//! What a card of each kind gets of the flash kernel's products: in PTX, and in the cubin that ptxas makes of it.

use chariot_engine::backend::cuda::compile::{Element, FLASH, SOURCES, Source, Target, compile};

/// An instruction's bytes, from sm_70 to sm_90.
const INSTRUCTION: usize = 16;
/// Lowest 12 bits of an instruction: a product by tensor cores (HMMA), a load of tiles for one (LDSM).
const PRODUCT: u16 = 0x23c;
const LOAD: u16 = 0x83b;

/// A number of so many bytes, the lowest first.
fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The section of a cubin, an ELF file of 64 bits, that has a kernel's instructions.
fn instructions<'a>(cubin: &'a [u8], kernel: &str) -> &'a [u8] {
    let (table, size, count) = (number(cubin, 40, 8), number(cubin, 58, 2), number(cubin, 60, 2));
    let header = |index: usize| &cubin[table + index * size..][..size];
    let content = |header: &[u8]| &cubin[number(header, 24, 8)..][..number(header, 32, 8)];
    let names = content(header(number(cubin, 62, 2)));
    let name = |header: &[u8]| {
        let text = &names[number(header, 0, 4)..];
        text.split(|byte| *byte == 0).next().unwrap().to_owned()
    };
    let wanted = format!(".text.{kernel}").into_bytes();
    let found = (0..count).map(header).find(|header| name(header) == wanted);
    content(found.unwrap_or_else(|| panic!("no instructions of {kernel}")))
}

/// How many instructions of a kernel do this.
fn count(cubin: &[u8], kernel: &str, operation: u16) -> usize {
    let all = instructions(cubin, kernel).chunks_exact(INSTRUCTION);
    all.filter(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]) & 0xfff == operation).count()
}

fn code(source: Source, element: Element, target: Target) -> Vec<u8> {
    compile(source, element, target).unwrap().code
}

/// Instructions are told by their bits, without a disassembler: that there are as many in both texts shows that these are the right bits.
#[test]
fn every_card_multiplies_by_tensor_cores() {
    if !crate::nvrtc() {
        return;
    }
    for element in [Element::Bf16, Element::F16] {
        for card in crate::CARDS {
            let ptx = String::from_utf8(code(FLASH, element, Target::Ptx(card))).unwrap();
            let cubin = code(FLASH, element, Target::Cubin(card));
            for (dim, kernel) in [(64, "flash_prefill_64"), (128, "flash_prefill_128")] {
                let (_, entry) = ptx.split_once(&format!(".entry {kernel}(")).unwrap();
                let (entry, _) = entry.split_once("\n}").unwrap();
                let written =
                    ["mma.sync.aligned.m16n8k16.", "ldmatrix."].map(|what| entry.matches(what).count());
                let made = [PRODUCT, LOAD].map(|operation| count(&cubin, kernel, operation));
                assert_eq!((written, made), ([dim, dim / 2], written), "{kernel} in {element:?} on {card}");
            }
        }
    }
    // And no kernel has them that is not written with them.
    let cubin = code(SOURCES[0], Element::Bf16, Target::Cubin(80));
    assert_eq!(SOURCES[0].name, "attention");
    assert!(instructions(&cubin, "causal_softmax").len() > 100 * INSTRUCTION);
    assert_eq!([PRODUCT, LOAD].map(|operation| count(&cubin, "causal_softmax", operation)), [0, 0]);
}
