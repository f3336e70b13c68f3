//! Grouped bars laid out on a page: panels, axes, legend, error bars, value labels. Knows numbers and words; reads no file.

use crate::axis::{Ruler, tick_label};
use crate::font::Font;
use crate::spec::Axis;
use crate::svg::{Anchor, Svg, TextStyle};

/// What to draw.
#[derive(Debug, Clone)]
pub struct Chart {
    /// In bold at the top.
    pub title: String,
    /// Under the title; says "simulated" or "measured".
    pub subtitle: String,
    /// At the bottom: what the error bars are.
    pub caption: String,
    /// Under each panel.
    pub x_label: String,
    /// Beside each panel, with its unit.
    pub y_label: String,
    /// The y axes.
    pub axis: Axis,
    /// Names of the bars of a group.
    pub series: Vec<String>,
    /// Names of the groups.
    pub groups: Vec<String>,
    /// Side by side.
    pub panels: Vec<Panel>,
}

/// One pair of axes.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Above it; may be empty.
    pub title: String,
    /// By group, then by series; what has no number leaves a gap that says so.
    pub bars: Vec<Vec<Option<Bar>>>,
}

/// One bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Its height.
    pub value: f64,
    /// Lower end of the error bar.
    pub low: f64,
    /// Upper end of the error bar.
    pub high: f64,
    /// How its label reads.
    pub mark: Mark,
}

/// What a bar's label says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The value.
    Value,
    /// At least the value.
    AtLeast,
    /// That there is none.
    None,
}

/// Dark and light in turn, apart in hue for the colour-blind and in lightness for a grey print. The second half is for
/// figures with more series than a reader should be asked to tell apart; then the colours repeat.
const PALETTE: [&str; 12] = [
    "#12436d", "#f5b041", "#2a9d8f", "#801650", "#c3b1e1", "#6b6b6b", "#4fa3e0", "#8a5a00", "#9be3b5",
    "#e8743b", "#5b2a86", "#d0d0d0",
];
pub(crate) const INK: &str = "#222222";
pub(crate) const FAINT: &str = "#e3e3e3";
pub(crate) const GREY: &str = "#555555";

const TITLE: TextStyle = TextStyle { size: 14.0, colour: INK, bold: true };
const SUBTITLE: TextStyle = TextStyle { size: 11.0, colour: GREY, bold: false };
pub(crate) const PANEL_TITLE: TextStyle = TextStyle { size: 11.5, colour: INK, bold: true };
pub(crate) const LABEL: TextStyle = TextStyle { size: 11.0, colour: INK, bold: false };
pub(crate) const TICK: TextStyle = TextStyle { size: 10.0, colour: INK, bold: false };
const VALUE: TextStyle = TextStyle { size: 8.5, colour: INK, bold: false };
const ABSENT: TextStyle = TextStyle { size: 8.5, colour: GREY, bold: false };
const CAPTION: TextStyle = TextStyle { size: 9.5, colour: GREY, bold: false };

const NO_VALUE: &str = "no value";
pub(crate) const MARGIN: f64 = 14.0;
const PLOT_HEIGHT: f64 = 220.0;
/// From one line of a group's name to the next.
const LINE: f64 = 12.0;
const SWATCH: f64 = 11.0;

/// A panel's place on the page.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn y(&self, ruler: &Ruler, value: f64) -> f64 {
        self.bottom - ruler.share(value) * (self.bottom - self.top)
    }
}

/// Draws the chart as an SVG document.
pub fn draw(chart: &Chart, font: &Font) -> String {
    let width = page_width(chart);
    let mut svg = Svg::new(width);
    let y = heading(&mut svg, chart, font, width);
    let y = legend(&mut svg, &chart.series, font, y, width);
    let titled = chart.panels.iter().any(|panel| !panel.title.is_empty());
    let top = y + if titled { 22.0 } else { 10.0 };
    let each = (width - MARGIN) / chart.panels.len() as f64;
    let groups = group_names(chart, font, each);
    let lower = LINE * (groups.iter().map(Vec::len).max().unwrap_or(1).max(1) - 1) as f64;
    for (index, panel) in chart.panels.iter().enumerate() {
        let left = MARGIN + each * index as f64;
        let ruler = ruler(chart, panel, font, each);
        let gutter = 24.0 + ruler.ticks.iter().map(|t| font.width(TICK, &tick_label(*t))).fold(0.0, f64::max);
        let frame = Frame { left: left + gutter, right: left + each - 12.0, top, bottom: top + PLOT_HEIGHT };
        axes(&mut svg, chart, panel, &ruler, &frame, left);
        x_axis(&mut svg, chart, &groups, &frame, lower);
        bars(&mut svg, chart, panel, &ruler, &frame, font);
    }
    let bottom = caption(&mut svg, &chart.caption, font, top + PLOT_HEIGHT + 40.0 + lower, width);
    svg.finish(bottom + MARGIN, &format!("{} ({})", chart.title, chart.subtitle))
}

/// Title and subtitle; gives the y of what comes under them.
pub(crate) fn heading(svg: &mut Svg, chart: &Chart, font: &Font, width: f64) -> f64 {
    let mut y = MARGIN - 3.0;
    for (style, text) in [(TITLE, &chart.title), (SUBTITLE, &chart.subtitle)] {
        for line in wrap(font, style, text, width - 2.0 * MARGIN) {
            y += 17.0;
            svg.text((MARGIN, y), Anchor::Start, style, false, &line);
        }
    }
    y + 13.0
}

/// What the marks mean; gives the y of its last line.
pub(crate) fn caption(svg: &mut Svg, text: &str, font: &Font, top: f64, width: f64) -> f64 {
    let mut bottom = top;
    for line in wrap(font, CAPTION, text, width - 2.0 * MARGIN) {
        bottom += 14.0;
        svg.text((MARGIN, bottom), Anchor::Start, CAPTION, false, &line);
    }
    bottom
}

/// Wide enough for the bars, within what a page takes.
fn page_width(chart: &Chart) -> f64 {
    let bars = (chart.groups.len() * chart.series.len()) as f64;
    let panel = (110.0 + 26.0 * bars + 14.0 * chart.groups.len() as f64).clamp(360.0, 560.0);
    MARGIN + panel * chart.panels.len() as f64
}

/// Draws the legend in centred rows; gives the y under it.
pub(crate) fn legend(svg: &mut Svg, names: &[String], font: &Font, top: f64, width: f64) -> f64 {
    let entry = |name: &String| SWATCH + 5.0 + font.width(LABEL, name);
    let mut rows: Vec<Vec<usize>> = vec![Vec::new()];
    let mut used = 0.0;
    for (index, name) in names.iter().enumerate() {
        let wide = entry(name) + 18.0;
        if used + wide > width - 2.0 * MARGIN && used > 0.0 {
            rows.push(Vec::new());
            used = 0.0;
        }
        used += wide;
        rows.last_mut().expect("there is a first row").push(index);
    }
    let mut y = top;
    for row in rows {
        let total: f64 = row.iter().map(|i| entry(&names[*i])).sum::<f64>() + 18.0 * (row.len() - 1) as f64;
        let mut x = (width - total) / 2.0;
        for index in row {
            svg.rect(x, y, SWATCH, SWATCH, colour(index));
            svg.text((x + SWATCH + 5.0, y + 9.5), Anchor::Start, LABEL, false, &names[index]);
            x += entry(&names[index]) + 18.0;
        }
        y += 17.0;
    }
    y
}

/// Of a series, or of a group where groups are told apart.
pub(crate) fn colour(series: usize) -> &'static str {
    PALETTE[series % PALETTE.len()]
}

fn present(panel: &Panel) -> impl Iterator<Item = &Bar> {
    panel.bars.iter().flatten().flatten()
}

/// The y axis of a panel, with room above the highest bar for its label.
fn ruler(chart: &Chart, panel: &Panel, font: &Font, each: f64) -> Ruler {
    let values: Vec<f64> = present(panel).flat_map(|bar| [bar.value, bar.low, bar.high]).collect();
    let narrow = bar_width(chart, each - 60.0);
    let widest = present(panel).map(|bar| font.width(VALUE, &value_label(bar))).fold(0.0, f64::max);
    let label = if fits(widest, narrow) { VALUE.size } else { widest };
    Ruler::new(chart.axis, &values, 1.0 - (label + 8.0) / PLOT_HEIGHT)
}

fn group_width(chart: &Chart, plot_width: f64) -> f64 {
    plot_width / chart.groups.len() as f64
}

/// A group takes four fifths of its place; its bars share that.
fn bar_width(chart: &Chart, plot_width: f64) -> f64 {
    (group_width(chart, plot_width) * 0.8 / chart.series.len() as f64).min(46.0)
}

fn fits(label: f64, bar: f64) -> bool {
    label <= bar - 1.0
}

fn value_label(bar: &Bar) -> String {
    match bar.mark {
        Mark::Value => tick_label(bar.value),
        Mark::AtLeast => format!("≥ {}", tick_label(bar.value)),
        Mark::None => "none".to_owned(),
    }
}

fn axes(svg: &mut Svg, chart: &Chart, panel: &Panel, ruler: &Ruler, frame: &Frame, left: f64) {
    for tick in &ruler.ticks {
        let y = frame.y(ruler, *tick);
        svg.line((frame.left, y), (frame.right, y), FAINT, 0.8);
        svg.line((frame.left - 4.0, y), (frame.left, y), INK, 0.8);
        svg.text((frame.left - 6.0, y + 3.5), Anchor::End, TICK, false, &tick_label(*tick));
    }
    let middle = (frame.left + frame.right) / 2.0;
    svg.text((middle, frame.top - 8.0), Anchor::Middle, PANEL_TITLE, false, &panel.title);
    svg.text((left + 10.0, (frame.top + frame.bottom) / 2.0), Anchor::Middle, LABEL, true, &chart.y_label);
    svg.line((frame.left, frame.top), (frame.left, frame.bottom), INK, 1.0);
}

/// The groups' names, broken into lines so that neighbours stay apart.
fn group_names(chart: &Chart, font: &Font, each: f64) -> Vec<Vec<String>> {
    let room = group_width(chart, each - 60.0) - 4.0;
    chart.groups.iter().map(|name| wrap(font, TICK, name, room)).collect()
}

/// Names of the groups and of the axis; `lower`: how much more than one line the names take.
fn x_axis(svg: &mut Svg, chart: &Chart, groups: &[Vec<String>], frame: &Frame, lower: f64) {
    let each = group_width(chart, frame.right - frame.left);
    for (index, lines) in groups.iter().enumerate() {
        let x = frame.left + each * (index as f64 + 0.5);
        for (row, line) in lines.iter().enumerate() {
            svg.text((x, frame.bottom + 15.0 + LINE * row as f64), Anchor::Middle, TICK, false, line);
        }
    }
    let middle = (frame.left + frame.right) / 2.0;
    svg.text((middle, frame.bottom + 34.0 + lower), Anchor::Middle, LABEL, false, &chart.x_label);
}

fn bars(svg: &mut Svg, chart: &Chart, panel: &Panel, ruler: &Ruler, frame: &Frame, font: &Font) {
    let plot_width = frame.right - frame.left;
    let (each, wide) = (group_width(chart, plot_width), bar_width(chart, plot_width));
    let upright = present(panel).any(|bar| !fits(font.width(VALUE, &value_label(bar)), wide));
    for (g, group) in panel.bars.iter().enumerate() {
        let first = frame.left + each * (g as f64 + 0.5) - wide * group.len() as f64 / 2.0;
        for (s, bar) in group.iter().enumerate() {
            let x = first + wide * s as f64;
            let Some(bar) = bar else {
                absent(svg, x + wide / 2.0, frame.bottom, wide, font);
                continue;
            };
            let top = frame.y(ruler, bar.value);
            svg.rect(x + 0.75, top, wide - 1.5, frame.bottom - top, colour(s));
            let middle = x + wide / 2.0;
            error_bar(svg, bar, ruler, frame, middle, wide);
            let clear = frame.y(ruler, bar.value.max(bar.high)) - 3.5;
            if upright && wide >= VALUE.size {
                svg.text((middle + VALUE.size * 0.36, clear), Anchor::Start, VALUE, true, &value_label(bar));
            } else if !upright {
                svg.text((middle, clear), Anchor::Middle, VALUE, false, &value_label(bar));
            }
        }
    }
    svg.line((frame.left, frame.bottom), (frame.right, frame.bottom), INK, 1.0);
}

/// Says on the axis that a bar is not zero but absent, if that fits beside or along its place.
fn absent(svg: &mut Svg, x: f64, bottom: f64, wide: f64, font: &Font) {
    if fits(font.width(ABSENT, NO_VALUE), wide) {
        svg.text((x, bottom - 3.5), Anchor::Middle, ABSENT, false, NO_VALUE);
    } else if wide >= ABSENT.size {
        svg.text((x + ABSENT.size * 0.36, bottom - 3.5), Anchor::Start, ABSENT, true, NO_VALUE);
    }
}

/// A thin line with caps, edged in white so that it shows on a dark bar.
fn error_bar(svg: &mut Svg, bar: &Bar, ruler: &Ruler, frame: &Frame, x: f64, wide: f64) {
    let (low, high) = (frame.y(ruler, bar.low), frame.y(ruler, bar.high));
    if low - high < 0.5 {
        return;
    }
    let cap = (wide * 0.22).min(5.0);
    for (stroke, edge) in [("#ffffff", 1.0), (INK, 0.0)] {
        let thick = 1.1 + 2.0 * edge;
        svg.line((x, low), (x, high), stroke, thick);
        for y in [low, high] {
            svg.line((x - cap - edge, y), (x + cap + edge, y), stroke, thick);
        }
    }
}

/// Breaks text into lines no wider than `width`.
fn wrap(font: &Font, style: TextStyle, text: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let longer =
            lines.last().map(|line| format!("{line} {word}")).filter(|line| font.width(style, line) <= width);
        match (longer, lines.last_mut()) {
            (Some(longer), Some(line)) => *line = longer,
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
