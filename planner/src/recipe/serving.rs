//! The recipes that run trials: `trial` and `capacity`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::decode::Spanned;
use crate::quantity::{Fraction, Positive, Predicate, Share, Time};
use crate::value::Count;

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
