//! One series over another, a point a group: how near two ways to the same number come. Knows numbers and words; reads no file.

use crate::axis::{Ruler, tick_label};
use crate::chart::{self, Bar, Chart, FAINT, GREY, INK, LABEL, MARGIN, PANEL_TITLE, Panel, TICK};
use crate::font::Font;
use crate::svg::{Anchor, Svg};

/// Both axes are this long.
const SIDE: f64 = 280.0;
/// Left of a plot: the axis' name and its ticks.
const GUTTER: f64 = 66.0;
const DOT: f64 = 4.5;
/// Lines from the lowest to the highest of repeats.
const WHISKER: f64 = 1.4;
/// The thin lines are this far from equality.
const OFF: f64 = 0.1;

/// Draws the first series over the second as an SVG document.
pub fn draw(chart: &Chart, font: &Font) -> String {
    let each = GUTTER + SIDE + 16.0;
    let width = MARGIN + each * chart.panels.len() as f64;
    let mut svg = Svg::new(width);
    let y = chart::heading(&mut svg, chart, font, width);
    let top = chart::legend(&mut svg, &chart.groups, font, y, width) + 22.0;
    for (index, panel) in chart.panels.iter().enumerate() {
        let left = MARGIN + each * index as f64 + GUTTER;
        plot(&mut svg, chart, panel, (left, top));
    }
    let meaning = format!("Thick line: both equal; thin lines: {} % apart. {}", OFF * 100.0, chart.caption);
    let bottom = chart::caption(&mut svg, meaning.trim_end(), font, top + SIDE + 40.0, width);
    svg.finish(bottom + MARGIN, &format!("{} ({})", chart.title, chart.subtitle))
}

fn plot(svg: &mut Svg, chart: &Chart, panel: &Panel, (left, top): (f64, f64)) {
    let points = points(panel);
    let values: Vec<f64> = points.iter().flat_map(|(_, x, y)| [x.low, x.high, y.low, y.high]).collect();
    let ruler = Ruler::new(chart.axis, &values, 0.92);
    let (right, bottom) = (left + SIDE, top + SIDE);
    let at = |x: f64, y: f64| (left + ruler.share(x) * SIDE, bottom - ruler.share(y) * SIDE);
    for tick in &ruler.ticks {
        let (x, y) = at(*tick, *tick);
        svg.line((left, y), (right, y), FAINT, 0.8);
        svg.line((x, top), (x, bottom), FAINT, 0.8);
        svg.text((left - 6.0, y + 3.5), Anchor::End, TICK, false, &tick_label(*tick));
        svg.text((x, bottom + 15.0), Anchor::Middle, TICK, false, &tick_label(*tick));
    }
    let (from, to) = ruler.ends();
    svg.line(at(from, from), at(to, to), INK, 1.4);
    svg.line(at(from, from * (1.0 + OFF)), at(to / (1.0 + OFF), to), GREY, 0.7);
    svg.line(at(from / (1.0 - OFF), from), at(to, to * (1.0 - OFF)), GREY, 0.7);
    svg.line((left, top), (left, bottom), INK, 1.0);
    svg.line((left, bottom), (right, bottom), INK, 1.0);
    for (group, x, y) in points {
        let colour = chart::colour(group);
        let whiskers = [(at(x.low, y.value), at(x.high, y.value)), (at(x.value, y.low), at(x.value, y.high))];
        for (from, to) in whiskers.into_iter().filter(|(from, to)| from != to) {
            svg.line(from, to, colour, WHISKER);
        }
        svg.dot(at(x.value, y.value), DOT, colour);
    }
    let (across, down) = ((left + right) / 2.0, (top + bottom) / 2.0);
    let named = |series: usize| format!("{}: {}", chart.series[series], chart.y_label);
    svg.text((across, top - 8.0), Anchor::Middle, PANEL_TITLE, false, &panel.title);
    svg.text((left - GUTTER + 12.0, down), Anchor::Middle, LABEL, true, &named(0));
    svg.text((across, bottom + 34.0), Anchor::Middle, LABEL, false, &named(1));
}

/// Group, second series, first series; where both have a number.
fn points(panel: &Panel) -> Vec<(usize, &Bar, &Bar)> {
    let mut points = Vec::new();
    for (group, bars) in panel.bars.iter().enumerate() {
        if let [Some(y), Some(x)] = bars.as_slice() {
            points.push((group, x, y));
        }
    }
    points
}
