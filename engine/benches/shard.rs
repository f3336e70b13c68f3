//! How fast `chariot-engine shard` divides a Hugging Face folder, beside a plain copy of the same bytes; both end on the disk. Rounds are
//! interleaved, so that a busy disk meets all alike. Prints Markdown.
//!
//! `cargo bench -p chariot-engine --bench shard -- [ROUNDS] [LAYERS]`: five rounds of twelve layers unless told. Takes 3 GB in `TMPDIR`, or
//! 0.5 GB and 0.2 GB a layer.
#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::io::{BufWriter, Write};
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use fs_err::File;
use serde_json::{Map, Value, json};

const HIDDEN: usize = 2048;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const FFN: usize = 5632;
const VOCAB: usize = 32_000;
/// Files that the model stands in.
const FILES: usize = 4;
/// Bytes of a value: bf16.
const VALUE: usize = 2;
const LAYOUTS: [(u32, u32); 2] = [(1, 1), (4, 2)];
const PLATFORM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/platforms/azure-nc96ads-a100-v4-x2.yaml");

fn main() -> anyhow::Result<()> {
    // Cargo passes `--bench` too.
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u32>().ok());
    let (rounds, layers) = (numbers.next().unwrap_or(5), numbers.next().unwrap_or(12));
    let room = tempfile::tempdir()?;
    let room = Utf8Path::from_path(room.path()).context("expected a path in UTF-8")?;
    let bytes = write_model(&room.join("model"), layers)?;
    succeeds(
        Command::new(engine()).args([
            "cluster",
            "--platform",
            PLATFORM,
            "--on",
            "cpu",
            "--out",
            "cluster.json",
        ]),
        room,
    )?;
    let gigabytes = bytes as f64 / 1e9;
    let mut speeds = vec![Vec::new(); 1 + LAYOUTS.len()];
    for _ in 0..rounds {
        speeds[0].push(gigabytes / timed(room, || copy(room))?);
        for (speeds, layout) in speeds[1..].iter_mut().zip(LAYOUTS) {
            speeds.push(gigabytes / timed(room, || shard(room, layout))?);
        }
    }
    println!("{gigabytes:.2} GB of bf16 in {FILES} files, {rounds} interleaved rounds\n");
    println!("| | GB/s, median (least, most) | of the copy, median of the rounds |");
    println!("|---|---|---|");
    let names = LAYOUTS.map(|(tp, pp)| format!("shard, TP{tp} x PP{pp}"));
    for (name, of_one) in std::iter::once("copy and sync".to_owned()).chain(names).zip(&speeds) {
        let ratios = of_one.iter().zip(&speeds[0]).map(|(speed, copy)| speed / copy).collect();
        let [least, middle, most] = spread(of_one.clone());
        println!("| {name} | {middle:.2} ({least:.2}, {most:.2}) | {:.0} % |", spread(ratios)[1] * 100.0);
    }
    Ok(())
}

/// Least, median, most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn engine() -> &'static str {
    env!("CARGO_BIN_EXE_chariot-engine")
}

/// Seconds that an action takes which fills `out`, from a quiet disk on.
fn timed(room: &Utf8Path, action: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let out = room.join("out");
    fs_err::create_dir(&out)?;
    rustix::fs::syncfs(File::open(&out)?.file())?;
    let start = Instant::now();
    action()?;
    let seconds = start.elapsed().as_secs_f64();
    fs_err::remove_dir_all(&out)?;
    Ok(seconds)
}

/// All files, then each to the disk.
fn copy(room: &Utf8Path) -> anyhow::Result<()> {
    let copies: Vec<Utf8PathBuf> = (0..FILES).map(|file| room.join("out").join(file_name(file))).collect();
    for (file, copy) in copies.iter().enumerate() {
        fs_err::copy(room.join("model").join(file_name(file)), copy)?;
    }
    for copy in &copies {
        File::open(copy)?.sync_all()?;
    }
    Ok(File::open(room.join("out"))?.sync_all()?)
}

fn shard(room: &Utf8Path, (tp, pp): (u32, u32)) -> anyhow::Result<()> {
    let model = ["shard", "--cluster", "cluster.json", "--model", "model/config.json", "--weights", "model"];
    let mut command = Command::new(engine());
    command.args(model).args(["--tp", &tp.to_string(), "--pp", &pp.to_string(), "--out", "out/weights.json"]);
    succeeds(&mut command, room)
}

fn succeeds(command: &mut Command, room: &Utf8Path) -> anyhow::Result<()> {
    let output = command.current_dir(room).output()?;
    anyhow::ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn file_name(file: usize) -> String {
    format!("model-{}-of-{FILES}.safetensors", file + 1)
}

/// A Llama of random bits; its size.
fn write_model(folder: &Utf8Path, layers: u32) -> anyhow::Result<u64> {
    fs_err::create_dir(folder)?;
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": layers, "intermediate_size": FFN, "vocab_size": VOCAB, "tie_word_embeddings": false,
    });
    fs_err::write(folder.join("config.json"), config.to_string())?;
    let tensors = tensors(layers);
    let mut weight_map = Map::new();
    let mut bytes = 0;
    for (file, tensors) in tensors.chunks(tensors.len().div_ceil(FILES)).enumerate() {
        let name = file_name(file);
        bytes += write_file(&folder.join(&name), tensors)?;
        for (tensor, _) in tensors {
            weight_map.insert(tensor.clone(), name.clone().into());
        }
    }
    fs_err::write(
        folder.join("model.safetensors.index.json"),
        json!({"weight_map": weight_map}).to_string(),
    )?;
    Ok(bytes)
}

/// Name and shape of all, in the order of the layers.
fn tensors(layers: u32) -> Vec<(String, Vec<usize>)> {
    let matrix = |name: &str, rows, columns| (format!("model.{name}.weight"), vec![rows, columns]);
    let norm = |name: &str| (format!("model.{name}.weight"), vec![HIDDEN]);
    let mut all = vec![matrix("embed_tokens", VOCAB, HIDDEN)];
    for layer in 0..layers {
        let of = |name: &str| format!("layers.{layer}.{name}");
        all.push(norm(&of("input_layernorm")));
        for (name, heads) in [("q_proj", HEADS), ("k_proj", KV_HEADS), ("v_proj", KV_HEADS)] {
            all.push(matrix(&of(&format!("self_attn.{name}")), heads * HEAD_DIM, HIDDEN));
        }
        all.push(matrix(&of("self_attn.o_proj"), HIDDEN, HEADS * HEAD_DIM));
        all.push(norm(&of("post_attention_layernorm")));
        all.push(matrix(&of("mlp.gate_proj"), FFN, HIDDEN));
        all.push(matrix(&of("mlp.up_proj"), FFN, HIDDEN));
        all.push(matrix(&of("mlp.down_proj"), HIDDEN, FFN));
    }
    all.push(norm("norm"));
    all.push(("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]));
    all
}

fn write_file(path: &Utf8Path, tensors: &[(String, Vec<usize>)]) -> anyhow::Result<u64> {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * VALUE;
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = path.as_str().len() as u64 + end as u64;
    for _ in 0..end / size_of::<u64>() {
        // Weyl steps, mixed: nothing that a disk could store in less.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        file.write_all(&(state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes())?;
    }
    file.flush()?;
    Ok((size_of::<u64>() + header.len() + end) as u64)
}
