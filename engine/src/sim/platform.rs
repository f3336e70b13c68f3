//! A platform: nodes, devices, links, the coefficients of the cost model and how real ranks run, as its YAML preset says them.
//! Knows nothing of models, batches or time.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::coefficient::{Coefficient, Direction};
use super::measured::Measured;
use super::place::{self, NodePlace};
use crate::shape::ModelShape;
use crate::shard::Parallel;

/// Nodes of equal devices, the links between them, and what work costs there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// Names the platform in every result.
    pub name: String,
    /// Machines.
    pub nodes: u32,
    /// Devices of each machine, numbered through: device d sits in node d / gpus_per_node.
    pub gpus_per_node: u32,
    /// Memory of one device.
    pub gpu_memory_gb: f64,
    /// Link classes from the nearest to the farthest.
    pub links: Vec<Link>,
    /// What a stage's work costs on a device; what a simulation needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageCosts>,
    /// What each batch costs on the CPU, beside its stages; what a simulation needs, but for measured stages, which say it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuCosts>,
    /// How ranks run where the platform is brought up for real; absent: the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// How ranks run as processes, of one host or of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// What ranks compute on: `cpu`, the default, or `cuda`, a GPU each.
    #[serde(default, skip_serializing_if = "Backend::is_cpu")]
    pub backend: Backend,
    /// Whether a GPU's steps of decoding are recorded as CUDA graphs and replayed; default: they are.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub graphs: bool,
    /// Whether a GPU's prompts go to the flash attention kernel where there is one; default: they do.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub flash: bool,
    /// Compute threads of a rank.
    pub threads: u32,
    /// How ranks talk.
    pub transport: Transport,
    /// For each rank, the core of each of its threads; absent: wherever the operating system puts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<Vec<u32>>,
    /// A trial is invalid in which others slowed the core of a rank in more than this share of checks. Absent: it is told, and not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowed_max: Option<f64>,
    /// Whether messages take the time that `links` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulate: Option<Emulation>,
    /// Where the driver listens for workers that do not run beside it; goes with `places`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<IpAddr>,
    /// Where each node's ranks run; absent: all on the driver's host, and driver and ranks listen on loopback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<NodePlace>,
}

fn yes() -> bool {
    true
}

/// As serde asks it.
fn is_yes(value: &bool) -> bool {
    *value
}

/// What ranks compute on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Threads of their host.
    #[default]
    Cpu,
    /// An NVIDIA GPU each.
    Cuda,
}

impl Backend {
    fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }
}

/// How ranks of one host talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Through a shared file in memory.
    SharedMemory,
    /// Over TCP.
    Tcp,
}

/// Links slower than the host's own memory: each message takes `time_scale * (alpha + bytes / bandwidth)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emulation {
    /// Factor of all times: how much slower this host computes than the devices whose links are emulated.
    pub time_scale: f64,
    /// Bytes that each value of a message counts for: those of the emulated device's type, times how much wider its model is.
    pub bytes_per_value: f64,
    /// How many times slower than a core of this host an emulated device computes, by the processor time that its rank uses. With fewer cores
    /// than ranks it must be at least ranks / cores, or the ranks make each other late. Absent: devices compute as fast as the host lets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_scale: Option<f64>,
    /// A trial whose messages were late by more than this share of their planned time is invalid. Default: 0.05.
    #[serde(default = "late_max")]
    pub late_max: f64,
}

fn late_max() -> f64 {
    0.05
}

impl Default for Runtime {
    /// One thread a rank, on any core, shared memory, no emulation.
    fn default() -> Self {
        let (threads, transport) = (1, Transport::SharedMemory);
        let backend = Backend::Cpu;
        Self {
            backend,
            graphs: true,
            flash: true,
            threads,
            transport,
            cores: Vec::new(),
            slowed_max: None,
            emulate: None,
            driver: None,
            places: Vec::new(),
        }
    }
}

/// How the devices of one aligned block of `span` neighbours reach one another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Names the class.
    pub name: String,
    /// Devices k*span .. (k+1)*span reach one another over it.
    pub span: u32,
    /// All-reduce of a group whose farthest members it joins.
    pub all_reduce: Ring,
    /// One transfer between two devices that it joins.
    pub send_recv: Transfer,
}

/// Ring all-reduce of k ranks: `alpha + 2 (k-1)/k * bytes / ring`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Time of an empty all-reduce.
    pub alpha_us: Coefficient,
    /// Bandwidth of the ring ("bus bandwidth").
    pub ring_gbps: Coefficient,
}

/// One transfer: `alpha + bytes / gbps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Time of an empty transfer.
    pub alpha_us: Coefficient,
    /// Bandwidth.
    pub gbps: Coefficient,
}

/// How the time of a stage is found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageCosts {
    /// From the kernels a transformer layer runs.
    Kernels(Kernels),
    /// A straight line, whatever the model: for measured stage times, and for checks against closed forms.
    Affine(Affine),
    /// From tables of what stages took there: `chariot-engine profile` writes them.
    Measured(Measured),
}

/// `fixed + prefill tokens * a + decode tokens * b`, for each stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affine {
    /// Of every batch.
    pub fixed_ms: Coefficient,
    /// Of each prompt token.
    pub prefill_token_us: Coefficient,
    /// Of each decode token.
    pub decode_token_us: Coefficient,
}

/// Coefficients of a device's kernels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernels {
    /// Matrix products.
    pub gemm: Gemm,
    /// Attention of decode tokens.
    pub attention_decode: DecodeAttention,
    /// Attention of prompt chunks.
    pub attention_prefill: PrefillAttention,
    /// Norms, activations, rotary embedding, additions, KV writes.
    pub elementwise: Elementwise,
    /// A layer never takes less: its kernels must be launched.
    pub launch_floor_ms_per_layer: Coefficient,
}

/// `t0 + sqrt(compute^2 + memory^2)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// Time of an empty product.
    pub t0_us: Coefficient,
    /// Arithmetic rate in float16.
    pub peak_tflops: Coefficient,
    /// Memory bandwidth.
    pub hbm_gbps: Coefficient,
}

/// `overhead + KV bytes read / bandwidth`, once a layer for all decodes of the batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeAttention {
    /// Of each layer with a decode.
    pub overhead_us: Coefficient,
    /// Rate of reading the KV cache.
    pub kv_read_gbps: Coefficient,
}

/// `overhead + flops / rate`, once a layer for each prompt chunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefillAttention {
    /// Of each chunk.
    pub overhead_us: Coefficient,
    /// Rate over the causal half alone.
    pub causal_tflops: Coefficient,
}

/// `per kernel + bytes / bandwidth`; a kernel reads and writes one hidden state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elementwise {
    /// Of each kernel.
    pub per_kernel_us: Coefficient,
    /// Memory bandwidth of such kernels.
    pub gbps: Coefficient,
}

/// CPU time of one batch of n sequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuCosts {
    /// Forming the batch, on the driver.
    pub schedule: PerSequence,
    /// Preparing inputs, in each stage before its kernels.
    pub prepare: PerSequence,
    /// Sampling, in the last stage.
    pub sampler: PerSequence,
    /// Taking in the outputs, on the driver.
    pub process: PerSequence,
    /// From the driver to the first stage and back from the last, half of it each way.
    pub driver_round_trip_ms: Coefficient,
}

/// `ms + n * per_sequence_ms`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerSequence {
    /// Of every batch.
    pub ms: Coefficient,
    /// Of each sequence in it.
    pub per_sequence_ms: Coefficient,
}

/// What is wrong with a platform.
#[derive(Debug, Error, PartialEq)]
pub enum PlatformError {
    /// A count or quantity outside its range.
    #[error("{field}: expected {expected}, found {found}")]
    Range {
        /// Path of the field.
        field: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Links that do not widen.
    #[error("links.{name}.span: expected more than the {narrower} of the class before it, found {found}")]
    Narrow {
        /// Link class.
        name: String,
        /// Span of the class before.
        narrower: u32,
        /// Its own.
        found: u32,
    },
    /// Nothing to simulate with.
    #[error(
        "{0}: expected the costs to simulate with, found none; it can be brought up with `--on cpu` or `--on cuda` only"
    )]
    NoCosts(&'static str),
    /// A layout that nobody measured.
    #[error(
        "stage.measured: expected {model} at tp{} x pp{}, found {known}; measure it with `chariot-engine profile --model MODEL --parallel {}x{}`",
        parallel.tp, parallel.pp, parallel.tp, parallel.pp
    )]
    NotMeasured {
        /// Name of the model that was asked for.
        model: String,
        /// How it was to be divided.
        parallel: Parallel,
        /// What was measured.
        known: String,
    },
    /// Devices that no link joins.
    #[error("links: expected the last class to span all {devices} devices, found {found}")]
    Unjoined {
        /// Devices of the platform.
        devices: u32,
        /// Span of the last class.
        found: u32,
    },
}

impl Platform {
    /// All devices.
    pub fn devices(&self) -> u32 {
        self.nodes * self.gpus_per_node
    }

    /// Memory of one device in bytes.
    pub fn gpu_memory_bytes(&self) -> u64 {
        (self.gpu_memory_gb * 1e9).round() as u64
    }

    /// The class that joins a group of devices: the nearest one with a block that holds them all.
    pub fn link(&self, devices: &[u32]) -> &Link {
        let within = |link: &&Link| devices.windows(2).all(|pair| pair[0] / link.span == pair[1] / link.span);
        self.links.iter().find(within).expect("validate() checked that the last class spans all devices")
    }

    /// What a simulation needs of stages; what it needs of the CPU is there too.
    pub fn costs(&self) -> Result<&StageCosts, PlatformError> {
        let stage = self.stage.as_ref().ok_or(PlatformError::NoCosts("stage"))?;
        match (stage, &self.cpu) {
            (StageCosts::Kernels(_) | StageCosts::Affine(_), None) => Err(PlatformError::NoCosts("cpu")),
            _ => Ok(stage),
        }
    }

    /// Refuses a model and layout that it has no costs of.
    pub fn covers(&self, shape: &ModelShape, parallel: Parallel) -> Result<(), PlatformError> {
        match self.costs()? {
            StageCosts::Measured(measured) if measured.layout(shape, parallel).is_none() => {
                let (model, known) = (shape.name.clone(), measured.known());
                Err(PlatformError::NotMeasured { model, parallel, known })
            }
            _ => Ok(()),
        }
    }

    /// Refuses what no platform can be.
    pub fn validate(&self) -> Result<(), PlatformError> {
        let counts = [("nodes", self.nodes), ("gpus_per_node", self.gpus_per_node)];
        for (field, count) in counts {
            if !(1..=65_536).contains(&count) {
                return Err(range(field, "a count from 1 to 65536", count));
            }
        }
        if !(self.gpu_memory_gb.is_finite() && self.gpu_memory_gb > 0.0) {
            return Err(range("gpu_memory_gb", "a size above 0", self.gpu_memory_gb));
        }
        self.validate_links()?;
        self.runtime.as_ref().map_or(Ok(()), |runtime| runtime.validate(self.nodes, self.devices()))?;
        if let Some(StageCosts::Measured(measured)) = &self.stage {
            let wrong = |(field, expected): (String, _)| {
                range(&format!("stage.measured.{field}"), expected, "something else")
            };
            measured.check().map_err(wrong)?;
        }
        self.coefficients().into_iter().try_for_each(|(field, coefficient, direction)| {
            coefficient.check(direction).map_err(|expected| range(&field, expected, coefficient))
        })
    }

    fn validate_links(&self) -> Result<(), PlatformError> {
        let mut narrower = 0;
        for link in &self.links {
            if link.span <= narrower {
                return Err(PlatformError::Narrow { name: link.name.clone(), narrower, found: link.span });
            }
            narrower = link.span;
        }
        match narrower >= self.devices() {
            true => Ok(()),
            false => Err(PlatformError::Unjoined { devices: self.devices(), found: narrower }),
        }
    }

    /// Every coefficient with its path, and whether a larger one costs more or less.
    fn coefficients(&self) -> Vec<(String, Coefficient, Direction)> {
        use Direction::{Cost, Rate};
        let mut all = Vec::new();
        for Link { name, all_reduce, send_recv, .. } in &self.links {
            all.push((format!("links.{name}.all_reduce.alpha_us"), all_reduce.alpha_us, Cost));
            all.push((format!("links.{name}.all_reduce.ring_gbps"), all_reduce.ring_gbps, Rate));
            all.push((format!("links.{name}.send_recv.alpha_us"), send_recv.alpha_us, Cost));
            all.push((format!("links.{name}.send_recv.gbps"), send_recv.gbps, Rate));
        }
        for (field, coefficient, direction) in self.stage.iter().flat_map(StageCosts::coefficients) {
            all.push((format!("stage.{field}"), coefficient, direction));
        }
        let named = |at: String| move |(field, coefficient)| (format!("{at}{field}"), coefficient, Cost);
        all.extend(self.cpu.iter().flat_map(|cpu| cpu.coefficients().map(named("cpu.".to_owned()))));
        if let Some(StageCosts::Measured(measured)) = &self.stage {
            for (index, layout) in measured.layouts.iter().enumerate() {
                let at = format!("stage.measured.layouts[{index}].cpu.");
                all.extend(layout.cpu.coefficients().map(named(at)));
            }
        }
        all
    }
}

impl Runtime {
    fn validate(&self, nodes: u32, devices: u32) -> Result<(), PlatformError> {
        if !(1..=1024).contains(&self.threads) {
            return Err(range("runtime.threads", "a count from 1 to 1024", self.threads));
        }
        self.validate_cores(devices)?;
        self.validate_places(nodes)?;
        self.validate_slowed()?;
        let Some(emulation) = self.emulate else { return Ok(()) };
        if self.backend == Backend::Cuda {
            let expected = "none with backend cuda, whose messages take the time that they take";
            return Err(range("runtime.emulate", expected, "emulated links"));
        }
        let Emulation { time_scale, bytes_per_value, compute_scale, late_max } = emulation;
        if compute_scale.is_some() && self.threads > 1 {
            let expected = "1 with emulate.compute_scale, which goes by the processor time of one thread";
            return Err(range("runtime.threads", expected, self.threads));
        }
        let factors = [
            ("time_scale", time_scale),
            ("bytes_per_value", bytes_per_value),
            ("compute_scale", compute_scale.unwrap_or(1.0)),
            ("late_max", late_max),
        ];
        for (field, factor) in factors {
            if !(factor.is_finite() && factor > 0.0) {
                return Err(range(&format!("runtime.emulate.{field}"), "a number above 0", factor));
            }
        }
        Ok(())
    }
}

impl Runtime {
    fn validate_places(&self, nodes: u32) -> Result<(), PlatformError> {
        place::check(&self.places, self.driver, nodes)
            .map_err(|(field, expected, found)| range(&format!("runtime.{field}"), expected, found))?;
        if self.places.is_empty() {
            return Ok(());
        }
        if self.transport == Transport::SharedMemory {
            let expected = "tcp with runtime.places, whose nodes may share no memory";
            return Err(range("runtime.transport", expected, "shared_memory"));
        }
        match self.emulate {
            None => Ok(()),
            Some(_) => {
                let expected =
                    "none with runtime.places: emulated links go by one clock, which hosts do not share";
                Err(range("runtime.emulate", expected, "emulated links"))
            }
        }
    }

    fn validate_slowed(&self) -> Result<(), PlatformError> {
        let Some(slowed_max) = self.slowed_max else { return Ok(()) };
        if self.backend == Backend::Cuda {
            return Err(range("runtime.slowed_max", "none with backend cuda", slowed_max));
        }
        match (0.0..1.0).contains(&slowed_max) {
            true => Ok(()),
            false => Err(range("runtime.slowed_max", "a share from 0 to below 1", slowed_max)),
        }
    }

    fn validate_cores(&self, devices: u32) -> Result<(), PlatformError> {
        if !self.cores.is_empty() && self.cores.len() != devices as usize {
            let found = format!("{} lists for {devices} devices", self.cores.len());
            return Err(range("runtime.cores", "one list of cores a device", found));
        }
        for (rank, cores) in self.cores.iter().enumerate() {
            let is_repeated = (1..cores.len()).any(|i| cores[..i].contains(&cores[i]));
            if cores.len() != self.threads as usize || is_repeated {
                let field = format!("runtime.cores[{rank}]");
                return Err(range(&field, "a core of its own for each thread", format!("{cores:?}")));
            }
        }
        Ok(())
    }
}

impl StageCosts {
    fn coefficients(&self) -> Vec<(&'static str, Coefficient, Direction)> {
        use Direction::{Cost, Rate};
        match self {
            Self::Kernels(k) => vec![
                ("kernels.gemm.t0_us", k.gemm.t0_us, Cost),
                ("kernels.gemm.peak_tflops", k.gemm.peak_tflops, Rate),
                ("kernels.gemm.hbm_gbps", k.gemm.hbm_gbps, Rate),
                ("kernels.attention_decode.overhead_us", k.attention_decode.overhead_us, Cost),
                ("kernels.attention_decode.kv_read_gbps", k.attention_decode.kv_read_gbps, Rate),
                ("kernels.attention_prefill.overhead_us", k.attention_prefill.overhead_us, Cost),
                ("kernels.attention_prefill.causal_tflops", k.attention_prefill.causal_tflops, Rate),
                ("kernels.elementwise.per_kernel_us", k.elementwise.per_kernel_us, Cost),
                ("kernels.elementwise.gbps", k.elementwise.gbps, Rate),
                ("kernels.launch_floor_ms_per_layer", k.launch_floor_ms_per_layer, Cost),
            ],
            Self::Affine(a) => vec![
                ("affine.fixed_ms", a.fixed_ms, Cost),
                ("affine.prefill_token_us", a.prefill_token_us, Cost),
                ("affine.decode_token_us", a.decode_token_us, Cost),
            ],
            // Its tables are checked by themselves.
            Self::Measured(_) => Vec::new(),
        }
    }
}

impl CpuCosts {
    /// Every cost with its path.
    fn coefficients(&self) -> impl Iterator<Item = (String, Coefficient)> {
        let Self { schedule, prepare, sampler, process, driver_round_trip_ms } = self;
        let terms =
            [("schedule", schedule), ("prepare", prepare), ("sampler", sampler), ("process", process)];
        let both = |(field, cost): (&str, &PerSequence)| {
            [(format!("{field}.ms"), cost.ms), (format!("{field}.per_sequence_ms"), cost.per_sequence_ms)]
        };
        let round_trip = ("driver_round_trip_ms".to_owned(), *driver_round_trip_ms);
        terms.map(both).into_iter().flatten().chain([round_trip])
    }
}

fn range(field: &str, expected: &'static str, found: impl std::fmt::Display) -> PlatformError {
    PlatformError::Range { field: field.to_owned(), expected, found: found.to_string() }
}

#[cfg(test)]
mod tests;
