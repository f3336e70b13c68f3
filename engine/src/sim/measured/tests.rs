use super::*;
use crate::sched::batch::Chunk;
use crate::shard::Division;
use crate::sim::coefficient::{Band, Coefficient};
use crate::sim::cost::CostModel;
use crate::sim::platform::{PerSequence, Platform, PlatformError, StageCosts};
use crate::sim::spread::SpreadBand;
use crate::units::{BatchId, Nanos, SeqId};

fn read(path: &str) -> String {
    fs_err::read_to_string(format!("{}/../pipelines/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn model() -> ModelShape {
    ModelShape::parse(&read("models/falcon-60m.yaml"), "").unwrap()
}

fn table() -> StageTable {
    StageTable {
        rows_us: Curve(vec![[1.0, 100.0], [8.0, 170.0], [64.0, 1000.0]]),
        chunk_us: 3.0,
        pair_us: Curve(vec![[1.0, 0.5], [64.0, 0.1]]),
        sampled_us: Curve(vec![[1.0, 20.0], [8.0, 90.0]]),
        slowdown: Curve::default(),
    }
}

fn layout(stages: Vec<StageTable>) -> Layout {
    let ms = |value| Coefficient::certain(value);
    let cost = |fixed, slope| PerSequence { ms: ms(fixed), per_sequence_ms: ms(slope) };
    Layout {
        model: model(),
        parallel: Parallel { tp: 2, pp: stages.len() as u32 },
        cpu: CpuCosts {
            schedule: cost(0.1, 0.01),
            prepare: cost(0.0, 0.0),
            sampler: cost(0.0, 0.0),
            process: cost(0.0, 0.0),
            driver_round_trip_ms: ms(0.2),
        },
        sends_us: vec![Curve(vec![[1.0, 10.0], [101.0, 110.0]]); stages.len() - 1],
        stages,
        spread: Spread::default(),
        fit: Fit {
            points: 1,
            rounds: 1,
            disturbed: 0.0,
            core_check_us: vec![],
            error_median: 0.0,
            error_max: 0.0,
        },
        operations: None,
    }
}

#[test]
fn operations_of_older_files_lack_some() {
    let older = "{products: [{k: 64, n: 96, rows_us: [[1, 2.5]]}], all_reduces_us: []}";
    let operations: Operations = serde_saphyr::from_str(older).unwrap();
    assert_eq!((operations.products.len(), operations.attention.len()), (1, 0));
    assert!(operations.elementwise.is_empty() && operations.all_gathers_us.is_empty());
    let text = serde_json::to_string(&operations).unwrap();
    assert!(!["attention", "elementwise", "gathers"].iter().any(|what| text.contains(what)), "{text}");
}

fn platform(layouts: Vec<Layout>) -> Platform {
    let mut platform: Platform = serde_saphyr::from_str(&read("platforms/cpu-2x4.yaml")).unwrap();
    platform.stage = Some(StageCosts::Measured(Measured { dtype: Dtype::Bfloat16, layouts }));
    platform
}

fn chunk(context: u32, tokens: u32, emits_token: bool) -> Chunk {
    Chunk { seq: SeqId(0), context, tokens, is_prefill: tokens > 1, emits_token }
}

fn batch(number: u32, chunks: &[Chunk]) -> Batch {
    Batch { id: BatchId(number), chunks: chunks.to_vec(), preempted: vec![] }
}

fn check(chunks: &[Chunk], expected_us: f64) {
    let found = table().seconds(&batch(0, chunks)) * 1e6;
    assert!((found - expected_us).abs() < 1e-9 * expected_us, "expected {expected_us} us, found {found}");
}

#[test]
fn a_stage_is_the_sum_of_its_terms() {
    // One decode that reads 100 entries and its own.
    check(&[chunk(100, 1, true)], 100.0 + 3.0 + 101.0 * 0.5 + 20.0);
    // Three of them: rows at 3 are 100 + 2 x 10, and three drawn take 20 + 2 x 10.
    check(&[chunk(9, 1, true); 3], 120.0 + 9.0 + 30.0 * 0.5 + 40.0);
    // A prompt of 64 that goes on after 10: 640 + 2080 pairs, nothing drawn.
    check(&[chunk(10, 64, false)], 1000.0 + 3.0 + 2720.0 * 0.1);
    // Both in one batch: 65 rows are beyond the table, whose last piece rises by 830 / 56 a row.
    check(&[chunk(100, 1, true), chunk(10, 64, false)], 1000.0 + 830.0 / 56.0 + 6.0 + 50.5 + 272.0 + 20.0);
}

#[test]
fn a_measured_layout_needs_no_other_costs() {
    let platform = platform(vec![layout(vec![table(); 2])]);
    assert_eq!(platform.validate(), Ok(()));
    let division = Division::new(&model(), Parallel { tp: 2, pp: 2 }).unwrap();
    let mut costs = CostModel::new(&platform, &model(), &division, Band::Central);
    let mut stages = Vec::new();
    let cost = costs.cost(&batch(0, &[chunk(100, 1, true)]), &mut stages);
    assert_eq!(stages, [Nanos(173_500); 2]);
    assert_eq!((cost.schedule, cost.process, cost.one_way), (Nanos(110_000), Nanos(0), Nanos(100_000)));
    assert_eq!(costs.send(0, &cost), Nanos(10_000));
    assert!(!costs.is_contended());
}

#[test]
fn stages_slow_each_other_down_by_their_own_factors() {
    let slowed = StageTable { slowdown: Curve(vec![[1.0, 1.5], [101.0, 2.5]]), ..table() };
    let platform = platform(vec![layout(vec![slowed, table()])]);
    let division = Division::new(&model(), Parallel { tp: 2, pp: 2 }).unwrap();
    let mut costs = CostModel::new(&platform, &model(), &division, Band::Central);
    let cost = costs.cost(&batch(0, &[chunk(0, 51, true)]), &mut Vec::new());
    assert!(costs.is_contended());
    assert_eq!((costs.slowdown(0, &cost), costs.slowdown(1, &cost)), (2.0, 1.0));
}

#[test]
fn a_spread_keeps_the_median_and_is_the_same_every_time() {
    let mut spread = layout(vec![table()]);
    let band = |up_to_ms, points: [f64; 3]| SpreadBand {
        up_to_ms,
        factors: Curve(vec![[0.0, points[0]], [0.5, points[1]], [1.0, points[2]]]),
    };
    spread.spread = Spread(vec![band(0.1, [0.1, 0.2, 0.3]), band(0.2, [0.9, 1.0, 1.4])]);
    let platform = platform(vec![spread]);
    let division = Division::new(&model(), Parallel { tp: 2, pp: 1 }).unwrap();
    let times = || -> Vec<u64> {
        let mut costs = CostModel::new(&platform, &model(), &division, Band::Central);
        let mut stages = Vec::new();
        let mut time = |number| {
            costs.cost(&batch(number, &[chunk(100, 1, true)]), &mut stages);
            stages[0].0
        };
        (0..2001).map(&mut time).collect()
    };
    let mut found = times();
    assert_eq!(found, times());
    found.sort_unstable();
    let near = |found: u64, expected: f64| (found as f64 / expected - 1.0).abs() < 0.01;
    assert!(near(found[1000], 173_500.0) && near(found[0], 156_150.0) && near(found[2000], 242_900.0));
}

#[test]
fn what_was_not_measured_is_named_with_what_was() {
    let platform = platform(vec![layout(vec![table()]), layout(vec![table(); 2])]);
    assert_eq!(platform.covers(&model(), Parallel { tp: 2, pp: 1 }), Ok(()));
    let other = ModelShape { layers: 9, ..model() };
    for (shape, parallel) in [(&model(), Parallel { tp: 4, pp: 2 }), (&other, Parallel { tp: 2, pp: 1 })] {
        let found = platform.covers(shape, parallel).unwrap_err();
        assert!(matches!(found, PlatformError::NotMeasured { .. }));
        let found = found.to_string();
        assert!(
            found.contains("found falcon-60m at tp2 x pp1, falcon-60m at tp2 x pp2; measure it"),
            "{found}"
        );
    }
}

fn refuses(change: impl Fn(&mut Layout), expected: &str) {
    let mut layout = layout(vec![table(); 2]);
    change(&mut layout);
    let found = platform(vec![layout]).validate().unwrap_err().to_string();
    assert!(found.contains(expected), "expected `{expected}` in: {found}");
}

#[test]
fn broken_tables_are_refused_by_name() {
    refuses(|layout| drop(layout.stages.pop()), "layouts[0].stages: expected one for each stage");
    refuses(|layout| layout.sends_us.clear(), "layouts[0].sends_us: expected one from each stage");
    refuses(
        |layout| layout.stages[1].rows_us.0.clear(),
        "layouts[0].stages[1].rows_us: expected at least one",
    );
    refuses(|layout| layout.stages[0].rows_us.0.reverse(), "layouts[0].stages[0].rows_us: expected points");
    refuses(|layout| layout.stages[0].chunk_us = -1.0, "layouts[0].stages[0].chunk_us: expected a time");
    refuses(|layout| layout.stages[0].slowdown.0 = vec![[1.0, 0.5]], "stages[0].slowdown: expected factors");
    let spread = |up_to_ms: &[f64], points: &[[f64; 2]]| {
        let band = |&up_to_ms| SpreadBand { up_to_ms, factors: Curve(points.to_vec()) };
        Spread(up_to_ms.iter().map(band).collect())
    };
    refuses(|layout| layout.spread = spread(&[4.0, 2.0], &[[0.5, 1.0]]), "layouts[0].spread: expected bands");
    refuses(
        |layout| layout.spread = spread(&[4.0], &[]),
        "layouts[0].spread[0].factors: expected at least one",
    );
    refuses(|layout| layout.cpu.schedule.ms = Coefficient::certain(-1.0), "layouts[0].cpu.schedule.ms");
}
