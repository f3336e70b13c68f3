//! The step kinds a target can have, as typed structs: what a pipeline may say, key by key. Knows no command line.
//!
//! The doc comments become the descriptions in `pipelines/schema.json`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use camino::Utf8PathBuf;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::decode::Spanned;
use crate::quantity::{Fraction, Positive, Predicate, Share, Statistic, Time};

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What a target does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Brings a platform up.
    Cluster(Cluster),
    /// Divides a model's weights over tensor-parallel ranks and pipeline stages.
    Shard(Shard),
    /// Runs one configuration at one load and summarises what was recorded.
    Trial(Box<Trial>),
    /// Searches for the highest rate at which an SLO holds.
    Capacity(Box<Capacity>),
    /// Draws a figure from trials or capacities.
    Figure(Figure),
    /// Compares published claims with what came out.
    Check(Check),
    /// Runs a command of your own.
    Command(Command),
}

impl Recipe {
    /// The name it has in a pipeline.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "cluster",
            Self::Shard(_) => "shard",
            Self::Trial(_) => "trial",
            Self::Capacity(_) => "capacity",
            Self::Figure(_) => "figure",
            Self::Check(_) => "check",
            Self::Command(_) => "command",
        }
    }
}

/// Brings a platform up.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// A preset of `platforms/`, or a path. Default: the pipeline's `platform`.
    pub platform: Option<Spanned<String>>,
}

/// Divides a model's weights over tensor-parallel ranks and pipeline stages.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// A target with `recipe: cluster`. Default: the only one there is.
    pub cluster: Option<Spanned<String>>,
    /// A preset of `models/`, or the path of a preset or of a Hugging Face `config.json`.
    pub model: Spanned<String>,
    /// Over how many ranks and stages.
    pub parallel: Parallel,
}

/// A hybrid of tensor and pipeline parallelism.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parallel {
    /// Ranks that share each layer.
    #[schemars(range(min = 1))]
    pub tp: Count,
    /// Stages that the layers are divided over.
    #[schemars(range(min = 1))]
    pub pp: Count,
}

/// A whole number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, transparent)]
pub struct Count(pub u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            0 => Err(de::Error::custom("expected a whole number from 1, found `0`")),
            count => Ok(Self(count)),
        }
    }
}

/// Defines a recipe that runs trials: its own keys and those that all such recipes have.
macro_rules! serving_recipe {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$own_meta:meta])* pub $own:ident: $own_type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// A target with `recipe: shard`; its cluster is the trial's.
            pub weights: Spanned<String>,
            /// The scheduling policy.
            pub scheduler: Scheduler,
            /// Running sequences, of all micro-batches together.
            #[schemars(range(min = 1))]
            pub batch_cap: Count,
            /// Requests sent.
            #[schemars(range(min = 1))]
            pub requests: Count,
            /// Prompt and output lengths of the requests.
            pub lengths: Lengths,
            /// Longest prompt and output together; longer requests are refused and counted apart.
            #[schemars(range(min = 1))]
            pub max_model_len: Count,
            /// Tokens in a block of the KV cache. Default: 16.
            pub block_size: Option<Count>,
            /// Share of GPU memory that weights and KV cache may take, 0 to 1. Default: 0.85.
            pub gpu_memory_utilization: Option<Fraction>,
            /// When a trial ends, whatever is still unfinished.
            pub time_limit: Time,
            /// `honest`, or `sarathi` for the quirks of the published artifact. Default: honest.
            pub compat: Option<Compat>,
            $($(#[$own_meta])* pub $own: $own_type,)*
        }

        impl $name {
            /// The keys that all recipes of trials have.
            pub fn serving(&self) -> Serving<'_> {
                Serving {
                    weights: &self.weights,
                    scheduler: &self.scheduler,
                    batch_cap: self.batch_cap,
                    requests: self.requests,
                    lengths: &self.lengths,
                    max_model_len: self.max_model_len,
                    block_size: self.block_size.unwrap_or(Count(16)),
                    gpu_memory_utilization: self.gpu_memory_utilization.map_or(0.85, |share| share.0),
                    time_limit: self.time_limit,
                    compat: self.compat.unwrap_or(Compat::Honest),
                }
            }
        }
    };
}

/// The keys that all recipes of trials have, defaults filled in.
#[expect(missing_docs, reason = "the fields are those of the recipes")]
#[derive(Debug, Clone, Copy)]
pub struct Serving<'a> {
    pub weights: &'a Spanned<String>,
    pub scheduler: &'a Scheduler,
    pub batch_cap: Count,
    pub requests: Count,
    pub lengths: &'a Lengths,
    pub max_model_len: Count,
    pub block_size: Count,
    pub gpu_memory_utilization: f64,
    pub time_limit: Time,
    pub compat: Compat,
}

serving_recipe! {
    /// Runs one configuration at one load and summarises what was recorded.
    pub struct Trial {
        /// When requests arrive.
        pub arrivals: Arrivals,
        /// Seed of arrivals and lengths.
        pub seed: u32,
        /// Tells repeats with the same seed apart. Default: 0.
        pub repetition: Option<u32>,
        /// At which ends of the platform's uncertain coefficients. Default: central.
        pub band: Option<Band>,
        /// Also write a timeline, `trace.json`, that Chrome and Perfetto open. Default: false.
        pub trace: Option<bool>,
    }
}

serving_recipe! {
    /// Searches for the highest rate at which an SLO holds.
    pub struct Capacity {
        /// The arrival process whose rate is searched. Default: poisson.
        pub arrivals: Option<Process>,
        /// Where to look and how finely.
        pub rate: Rate,
        /// One search for each.
        #[schemars(length(min = 1))]
        pub seeds: Spanned<Vec<u32>>,
        /// `ends`: two more searches with the first seed, one at each end of the platform's band. Default: central.
        pub band: Option<SearchBand>,
        /// What must hold, such as `p99(tbt) <= 1 s`; all of them.
        #[schemars(length(min = 1))]
        pub slo: Spanned<Vec<Predicate>>,
        /// End a probe as soon as the SLO can no longer hold. Such a probe answers for this SLO only. Default: false.
        pub early_stop: Option<bool>,
    }
}

/// A scheduling policy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "policy")]
pub enum Scheduler {
    /// Chunked prefill, decodes first.
    Sarathi {
        /// Tokens a batch may have: a number, or a schedule over a prompt.
        chunk: Chunk,
        /// Share of blocks kept free at admission.
        watermark: Option<Fraction>,
    },
    /// Whole prompts first.
    Vllm {
        /// Prompt tokens a batch may have. Default: max_model_len.
        max_batched_tokens: Option<Count>,
        /// Share of blocks kept free at admission.
        watermark: Option<Fraction>,
    },
    /// Whole prompts and decodes mixed, memory reserved at admission.
    Orca {},
    /// Request-level batching.
    FasterTransformer {},
    /// Chunks and decodes in turn.
    SimpleChunking {
        /// Prompt tokens a batch may have.
        chunk: Count,
        /// Share of blocks kept free at admission.
        watermark: Option<Fraction>,
    },
}

/// A chunk size, fixed or by how much of the prompt is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Chunk {
    /// Always the same.
    Fixed(Count),
    /// From high to low.
    Schedule(ChunkSchedule),
}

/// Chunk sizes in evenly spaced stages from high to low as a prompt is worked off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChunkSchedule {
    /// The last chunk size.
    pub low: Count,
    /// The first chunk size.
    pub high: Count,
    /// How many sizes.
    pub stages: Count,
    /// Prompt tokens that the stages are spread over.
    pub max_tokens: Count,
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChunkVisitor)
    }
}

struct ChunkVisitor;

impl<'de> Visitor<'de> for ChunkVisitor {
    type Value = Chunk;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of tokens from 1, or `{low, high, stages, max_tokens}`")
    }

    fn visit_u64<E: de::Error>(self, tokens: u64) -> Result<Chunk, E> {
        let count = u32::try_from(tokens).ok().filter(|count| *count > 0);
        let fixed = count.map(|count| Chunk::Fixed(Count(count)));
        fixed.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(tokens), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Chunk, A::Error> {
        ChunkSchedule::deserialize(MapAccessDeserializer::new(map)).map(Chunk::Schedule)
    }
}

impl JsonSchema for Chunk {
    fn schema_name() -> Cow<'static, str> {
        "Chunk".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let schedule = generator.subschema_for::<ChunkSchedule>();
        json_schema!({"anyOf": [{"type": "integer", "minimum": 1}, schedule]})
    }
}

/// When requests arrive.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "kind")]
pub enum Arrivals {
    /// Exponential gaps.
    Poisson {
        /// Requests per second.
        qps: Positive,
    },
    /// Gamma-distributed gaps.
    Gamma {
        /// Requests per second.
        qps: Positive,
        /// Coefficient of variation of the gaps.
        cv: Positive,
    },
    /// Equal gaps.
    Static {
        /// Requests per second.
        qps: Positive,
    },
    /// As recorded.
    Trace {
        /// A CSV with a column `arrival_s`.
        file: Spanned<String>,
        /// Times the recorded gaps.
        scale: Option<Positive>,
    },
}

/// An arrival process whose rate is searched for.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "kind")]
pub enum Process {
    /// Exponential gaps.
    Poisson {},
    /// Gamma-distributed gaps.
    Gamma {
        /// Coefficient of variation of the gaps.
        cv: Positive,
    },
    /// Equal gaps.
    Static {},
}

/// Prompt and output lengths.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(tag = "kind")]
pub enum Lengths {
    /// Drawn from a table of quantiles.
    Quantiles {
        /// A preset of `lengths/`, or a path.
        table: Spanned<String>,
        /// Longest prompt and output together.
        total_max: Option<Count>,
    },
    /// As recorded.
    Trace {
        /// A CSV with columns `num_prefill_tokens`, `num_decode_tokens`.
        file: Spanned<String>,
    },
    /// All alike.
    Fixed {
        /// Prompt tokens.
        prompt: Count,
        /// Output tokens.
        output: Count,
    },
    /// Totals uniform between two ends.
    Uniform {
        /// Shortest prompt and output together.
        total_min: Count,
        /// Longest prompt and output together.
        total_max: Count,
        /// Prompt tokens for each output token.
        prompt_to_output: Positive,
    },
    /// Totals by Zipf's law between two ends.
    Zipf {
        /// Shortest prompt and output together.
        total_min: Count,
        /// Longest prompt and output together.
        total_max: Count,
        /// The exponent.
        theta: Positive,
        /// Prompt tokens for each output token.
        prompt_to_output: Positive,
    },
}

/// Where the platform's uncertain coefficients are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    /// In the middle.
    Central,
    /// At the fast end.
    Low,
    /// At the slow end.
    High,
    /// At each of the three.
    All,
}

/// Where a search takes the platform's uncertain coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchBand {
    /// In the middle.
    Central,
    /// At the fast end.
    Low,
    /// At the slow end.
    High,
    /// In the middle for every seed, and at both ends for the first.
    Ends,
}

/// Whose request life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// Every request counts from its planned arrival.
    Honest,
    /// As the published artifact does it.
    Sarathi,
}

/// Which rates a search may ask for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// First guess, requests per second.
    pub start: Positive,
    /// Relative width of the bracket at which the search ends, such as `2.5 %`.
    pub granularity: Spanned<Share>,
    /// Never below this, requests per second. Default: a thousandth of `start`.
    pub min: Option<Positive>,
    /// Never above this, requests per second. Default: a thousand times `start`.
    pub max: Option<Positive>,
}

/// Draws a figure from trials or capacities.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// How it is drawn. Default: grouped_bars.
    pub kind: Option<FigureKind>,
    /// Trials or capacities: a target, one of its instances, a glob, or a list of these.
    pub from: Names,
    /// Above the figure.
    pub title: String,
    /// The sweep's variable whose values make the groups.
    pub x: Variable,
    /// The sweep's variable whose values make the bars in a group.
    pub series: Variable,
    /// The vertical axis. Default: seconds, or the capacity.
    pub y: Option<Vertical>,
    /// What is plotted of trials, such as `p99(tbt)`: one panel each. Capacities have one number and no metrics.
    #[serde(default)]
    pub metrics: Vec<Spanned<Statistic>>,
    /// What else goes into the table and the CSV.
    #[serde(default)]
    pub table: Vec<Spanned<Statistic>>,
}

/// A variable of a sweep in a figure.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name in the sweep.
    pub variable: Spanned<String>,
    /// What the figure calls it. Default: its name.
    pub label: Option<String>,
    /// What the figure calls its values. Default: as in the sweep.
    #[serde(default)]
    pub names: BTreeMap<String, Text>,
}

/// A figure's vertical axis.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vertical {
    /// Beside the axis; the unit is added. Default: time, or capacity.
    pub label: Option<String>,
    /// Unit of times. Default: s.
    pub unit: Option<TimeUnit>,
    /// Default: linear.
    pub axis: Option<Axis>,
}

/// How a figure is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FigureKind {
    /// Groups of bars.
    GroupedBars,
}

/// A vertical axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// From zero.
    Linear,
    /// By powers of ten.
    Log,
}

/// A unit that a figure's times are shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Nanoseconds.
    Ns,
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
    /// Seconds.
    S,
}

/// One reference, or a list of them.
#[derive(Debug)]
pub struct Names(pub Vec<Spanned<String>>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The place of a lone name is known before its kind is, hence the value within.
        let spanned = Spanned::<OneOrMany>::deserialize(deserializer)?;
        Ok(Self(match spanned.value {
            OneOrMany::One(value) => vec![Spanned { value, span: spanned.span }],
            OneOrMany::Many(names) => names,
        }))
    }
}

enum OneOrMany {
    One(String),
    Many(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

struct OneOrManyVisitor;

impl<'de> Visitor<'de> for OneOrManyVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a target, or a list of targets")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(name.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = seq.next_element()? {
            names.push(name);
        }
        Ok(OneOrMany::Many(names))
    }
}

impl JsonSchema for Names {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]})
    }
}

/// Compares published claims with what came out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Where the claims are published.
    pub source: String,
    /// Relative deviation that still counts as reproduced, such as `20 %`.
    pub tolerance: Share,
    /// What is claimed.
    #[schemars(length(min = 1))]
    pub claims: Spanned<Vec<Claim>>,
}

/// A published ratio of two numbers of a figure.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The claim in words. Default: the ratio written out.
    pub name: Option<String>,
    /// Where it is published, if not where the others are.
    pub source: Option<String>,
    /// The figure whose CSV holds the numbers.
    pub figure: Spanned<String>,
    /// Which of the figure's statistics; a figure of capacities has one number and needs none.
    pub metric: Option<Spanned<Statistic>>,
    /// A variable and the two values whose numbers are divided, such as `{parallel: [tp8, tp4-pp2]}`.
    pub ratio: Spanned<BTreeMap<String, Spanned<Vec<Spanned<Text>>>>>,
    /// The values of other variables, such as `{slo: strict}`.
    #[serde(rename = "where", default)]
    pub given: BTreeMap<String, Spanned<Text>>,
    /// A variable over whose values the ratio is taken one by one.
    pub each: Option<Spanned<String>>,
    /// The published ratio.
    pub published: Positive,
    /// The claim's own tolerance.
    pub tolerance: Option<Share>,
}

/// Runs a command of your own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The command and its arguments. The command is looked up in `PATH`, or is a path in the project.
    #[schemars(length(min = 1))]
    pub argv: Spanned<Vec<Text>>,
    /// Files laid in the command's directory: path there -> a file of the project, or `TARGET:OUTPUT`.
    #[serde(default)]
    pub inputs: BTreeMap<LocalPath, Spanned<String>>,
    /// Files it leaves in its directory.
    #[schemars(length(min = 1))]
    pub outputs: Spanned<Vec<Spanned<LocalPath>>>,
    /// Its environment, beside `PATH`.
    #[serde(default)]
    pub env: BTreeMap<String, Text>,
    /// What it occupies. Default: one CPU slot.
    pub resources: Option<Occupies>,
    /// Killed after this long. Default: never.
    pub timeout: Option<Time>,
    /// Further tries after a failure. Default: 0.
    pub retries: Option<u32>,
    /// Facts about the host that the result depends on, such as `hostname`.
    #[serde(default)]
    pub facts: Vec<String>,
    /// Text outputs printed at the end of a run.
    #[serde(default)]
    pub show: Vec<Spanned<LocalPath>>,
}

/// What a command occupies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Occupies {
    /// CPU slots. Default: 1.
    pub cpu: Option<Count>,
    /// GPUs. Default: 0.
    pub gpu: Option<u32>,
    /// Nothing else may run beside it. Default: false.
    pub exclusive: Option<bool>,
}

/// A path within a command's directory: relative, and going down only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalPath(pub Utf8PathBuf);

impl<'de> Deserialize<'de> for LocalPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        if text.split('/').all(plain) && !text.contains(['\\', '\0']) {
            return Ok(Self(text.into()));
        }
        Err(de::Error::custom(format!("expected a path within the command's directory, found `{text}`")))
    }
}

impl JsonSchema for LocalPath {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Path".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

/// Text that may be written as a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(crate::decode::TEXT, TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }
}

impl JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean"]})
    }
}
