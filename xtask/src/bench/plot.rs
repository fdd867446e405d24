//! Bar plots, as SVG.

use std::fmt::Write as _;

use super::record::Record;
use super::setting::Setting;

/// What the bars are compared with.
const BASE: &str = "kernel";
const COLORS: [&str; 6] = [
    "#2f6fab", "#c2632c", "#8a8f98", "#4f9152", "#9b6bb0", "#c9a227",
];
const BAR: f64 = 14.0;
const GAP: f64 = 22.0;
const LEFT: f64 = 46.0;
const TOP: f64 = 44.0;
const HEIGHT: f64 = 220.0;

/// A group of bars per load, a bar per competitor: its rate as a multiple of the kernel's best case.
pub fn ratios(record: &Record, setting: Setting) -> Option<String> {
    let run = record.first(setting)?;
    let competitors = run.competitors();
    let groups: Vec<(&str, Vec<Option<f64>>)> = run
        .loads()
        .into_iter()
        .filter_map(|load| {
            let base = run.summary(load, BASE)?.median;
            let ratio = |competitor: &&str| {
                let median = run.summary(load, competitor)?.median;
                (base > 0.0).then_some(median / base)
            };
            Some((load, competitors.iter().map(ratio).collect()))
        })
        .collect();
    if groups.is_empty() {
        return None;
    }
    let largest = groups.iter().flat_map(|(_, bars)| bars.iter().flatten());
    let largest = largest.copied().fold(1.0, f64::max);
    let step = if largest > 4.0 { 1.0 } else { 0.5 };
    let top = (largest / step).ceil() * step;
    let group = BAR * competitors.len() as f64 + GAP;
    // Wide enough for the legend too.
    let width =
        (LEFT + group * groups.len() as f64 + 10.0).max(LEFT + 110.0 * competitors.len() as f64);
    let y = |ratio: f64| TOP + HEIGHT * (1.0 - ratio / top);

    let mut svg = String::new();
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(svg, "{text}");
    };
    line(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">",
        TOP + HEIGHT + 30.0
    ));
    line("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>".to_owned());
    line(format!(
        "<text x=\"{LEFT}\" y=\"16\" font-size=\"13\">{}: rate, {BASE} = 1</text>",
        setting.title()
    ));
    for (number, competitor) in competitors.iter().enumerate() {
        let (x, color) = (LEFT + 110.0 * number as f64, color(number));
        line(format!(
            "<rect x=\"{x:.0}\" y=\"24\" width=\"10\" height=\"10\" fill=\"{color}\"/>\
             <text x=\"{:.0}\" y=\"33\">{competitor}</text>",
            x + 14.0
        ));
    }
    for tick in 0..=(top / step).round() as u32 {
        let ratio = f64::from(tick) * step;
        let (y, stroke) = (y(ratio), if ratio == 1.0 { "#333" } else { "#ddd" });
        line(format!(
            "<line x1=\"{LEFT}\" x2=\"{width:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{stroke}\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{ratio:.1}</text>",
            LEFT - 6.0,
            y + 4.0
        ));
    }
    for (place, (load, bars)) in groups.iter().enumerate() {
        let left = LEFT + GAP / 2.0 + group * place as f64;
        for (number, ratio) in bars.iter().enumerate() {
            let Some(ratio) = ratio else { continue };
            let (x, y) = (left + BAR * number as f64, y(*ratio));
            line(format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.0}\" height=\"{:.1}\" fill=\"{}\">\
                 <title>{} {load}: {ratio:.2}</title></rect>",
                BAR - 2.0,
                TOP + HEIGHT - y,
                color(number),
                competitors[number],
            ));
        }
        line(format!(
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{load}</text>",
            left + (group - GAP) / 2.0,
            TOP + HEIGHT + 16.0
        ));
    }
    line("</svg>".to_owned());
    Some(svg)
}

fn color(number: usize) -> &'static str {
    COLORS[number % COLORS.len()]
}
