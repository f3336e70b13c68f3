//! The recipes that show results: `figure` and `check`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decode::Spanned;
use crate::quantity::{Positive, Share, Statistic};
use crate::value::{Names, Text};

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
    /// The sweep's variable that tells repeats of a trial apart: bars are their medians, error bars reach from the lowest to the highest.
    pub repeats: Option<Spanned<String>>,
    /// The vertical axis. Default: seconds, or the capacity.
    pub y: Option<Vertical>,
    /// What is plotted of trials, such as `p99(tbt)`: one panel each. Capacities have one number and no metrics.
    #[serde(default)]
    pub metrics: Vec<Spanned<Statistic>>,
    /// Further numbers of trials for the table, the CSV and the JSON, not drawn.
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
    /// One point a group: the first of two series over the second, beside the line on which they would agree.
    Parity,
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
    /// With `each`: every one of the ratios must be as published, not their median. Default: false.
    pub all: Option<Spanned<bool>>,
    /// The median of the ratios of single repeats, of a figure that has `repeats`, instead of the ratio of their medians: where a repeat of one side was made beside one
    /// of the other. Default: false.
    pub paired: Option<Spanned<bool>>,
    /// The published ratio.
    pub published: Positive,
    /// The claim's own tolerance.
    pub tolerance: Option<Share>,
}
