//! One setting of the whole simulator, run on any requests; what came out, column by column.

use std::collections::BTreeMap;

use bytes::Bytes;
use camino::Utf8Path;
use chariot_engine::engine::{Ending, Trial};
use chariot_engine::executor::StageStay;
use chariot_engine::record::{Recorder, Watch};
use chariot_engine::sched::{ChunkSchedule, Compat, Policy, Scheduler, SchedulerConfig};
use chariot_engine::shape::ModelShape;
use chariot_engine::shard::{Division, Parallel};
use chariot_engine::sim::SimExecutor;
use chariot_engine::sim::coefficient::Band;
use chariot_engine::sim::cost::CostModel;
use chariot_engine::sim::platform::Platform;
use chariot_engine::timeline::Timeline;
use chariot_engine::units::Nanos;
use chariot_engine::workload::{Arrivals, Lengths, Request, Workload};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines");

pub(crate) fn platform(name: &str) -> Platform {
    let path = format!("{PIPELINES}/platforms/{name}.yaml");
    serde_saphyr::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

/// Two nodes of four A100: the platform of the experiment.
pub(crate) fn azure() -> Platform {
    platform("azure-nc96ads-a100-v4-x2")
}

/// Stages of 10 ms and nothing else.
pub(crate) fn constant() -> Platform {
    platform("constant-x8")
}

pub(crate) fn sarathi(chunk: u32) -> Policy {
    Policy::Sarathi { chunk: ChunkSchedule::Fixed(chunk) }
}

/// A model, Falcon-180B where not said, under one policy on one layout.
pub(crate) struct Setting {
    pub(crate) shape: ModelShape,
    pub(crate) platform: Platform,
    pub(crate) parallel: Parallel,
    pub(crate) policy: Policy,
    pub(crate) batch_cap: u32,
    pub(crate) blocks: u32,
    pub(crate) compat: Compat,
    pub(crate) time_limit: Nanos,
}

impl Setting {
    pub(crate) fn new(platform: Platform, tp: u32, pp: u32) -> Self {
        let text = fs_err::read_to_string(format!("{PIPELINES}/models/falcon-180b.yaml")).unwrap();
        Self {
            shape: ModelShape::parse(&text, "").unwrap(),
            platform,
            parallel: Parallel { tp, pp },
            policy: sarathi(512),
            batch_cap: 128,
            blocks: 1 << 20,
            compat: Compat::Honest,
            time_limit: Nanos::MAX,
        }
    }

    fn costs(&self) -> CostModel {
        let division = Division::new(&self.shape, self.parallel).unwrap();
        CostModel::new(&self.platform, &self.shape, &division, Band::Central)
    }

    pub(crate) fn run(&self, requests: &[Request]) -> Run {
        let scheduler = SchedulerConfig {
            policy: self.policy,
            batch_cap: self.batch_cap,
            max_model_len: 8192,
            block_size: 16,
            blocks: self.blocks,
            stages: self.parallel.pp,
            watermark: None,
            compat: self.compat,
        };
        let watch = Watch::new(Vec::new(), requests.iter().map(|request| request.output_tokens));
        let mut recorder = Recorder::new(Vec::new(), Some(Vec::new()), watch).unwrap();
        let mut executor = SimExecutor::new(self.costs()).keep_stays();
        let mut timeline = Timeline::default();
        let trial = Trial::new(requests, Scheduler::new(scheduler).unwrap(), &mut executor, &mut recorder)
            .with_timeline(Some(&mut timeline));
        let ending = trial.run(self.time_limit).unwrap();
        let (records, batches) = recorder.finish(ending.end).unwrap();
        let [records, batches] = [records, batches.unwrap()].map(Bytes::from);
        Run { records, batches, timeline, stays: executor.into_stays(), ending }
    }
}

/// What a trial left.
pub(crate) struct Run {
    pub(crate) records: Bytes,
    pub(crate) batches: Bytes,
    timeline: Timeline,
    pub(crate) stays: Vec<StageStay>,
    pub(crate) ending: Ending,
}

impl Run {
    /// The Chrome trace, an event a line.
    pub(crate) fn trace(&self) -> String {
        let mut trace = Vec::new();
        self.timeline.write("test", &self.stays, &[], &mut trace).unwrap();
        String::from_utf8(trace).unwrap()
    }
}

pub(crate) type Row = BTreeMap<String, Field>;

/// Rows of a Parquet file.
pub(crate) fn rows(file: &Bytes) -> Vec<Row> {
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    reader.get_row_iter(None).unwrap().map(|row| row.unwrap().into_columns().into_iter().collect()).collect()
}

pub(crate) fn int(row: &Row, column: &str) -> i64 {
    match &row[column] {
        Field::Int(value) => i64::from(*value),
        Field::Long(value) => *value,
        other => panic!("expected a number in {column}, found {other}"),
    }
}

pub(crate) fn sum(rows: &[Row], column: &str) -> i64 {
    rows.iter().map(|row| int(row, column)).sum()
}

/// One column of a Parquet file: a value a row, or for a list one an element.
pub(crate) fn column(file: &Bytes, name: &str) -> Vec<Option<i64>> {
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let index = schema.columns().iter().position(|column| column.path().parts()[0] == name).unwrap();
    let max_level = schema.column(index).max_def_level();
    let group = |group| match reader.get_row_group(group).unwrap().get_column_reader(index).unwrap() {
        ColumnReader::Int32ColumnReader(reader) => levelled(reader, max_level),
        ColumnReader::Int64ColumnReader(reader) => levelled(reader, max_level),
        _ => panic!("expected integers in {name}"),
    };
    (0..reader.num_row_groups()).flat_map(group).collect()
}

fn levelled<T: DataType>(mut reader: ColumnReaderImpl<T>, max_level: i16) -> Vec<Option<i64>>
where
    i64: From<T::T>,
{
    let (mut levels, mut lists, mut values) = (Vec::new(), Vec::new(), Vec::new());
    reader.read_records(usize::MAX, Some(&mut levels), Some(&mut lists), &mut values).unwrap();
    let mut values = values.into_iter().map(i64::from);
    if max_level == 0 {
        return values.map(Some).collect();
    }
    levels.into_iter().map(|level| (level == max_level).then(|| values.next().unwrap())).collect()
}

pub(crate) fn poisson(count: u32, qps: f64, lengths: Lengths, seed: u64) -> Vec<Request> {
    let workload = Workload { requests: count, arrivals: Arrivals::Poisson { qps }, lengths };
    workload.generate(&Utf8Path::new(PIPELINES).join("lengths"), seed, false).unwrap()
}

/// The experiment's requests: lengths of openchat_sharegpt4.
pub(crate) fn openchat(qps: f64) -> Vec<Request> {
    let lengths = Lengths::Quantiles { file: "openchat_sharegpt4.yaml".to_owned(), total_max: None };
    poisson(2048, qps, lengths, 42)
}

pub(crate) fn at_once(count: usize, prompt_tokens: u32, output_tokens: u32) -> Vec<Request> {
    vec![Request { arrival: Nanos::ZERO, prompt_tokens, output_tokens }; count]
}
