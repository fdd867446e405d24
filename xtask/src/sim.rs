//! `cargo xtask sim`: the figures of gossip at each size, as a table and as a plot.

use std::{fmt::Write as _, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;

use crate::{command, say, workspace::Workspace};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Numbers of nodes; a thousand take some minutes
    #[arg(long, value_delimiter = ',', default_value = "3,25,100,500,1000")]
    sizes: Vec<usize>,
    /// One seed is one run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of datagrams that are lost
    #[arg(long, default_value_t = 0.01)]
    loss: f64,
    /// Where the plot goes: by default gossip.svg in cargo's target directory
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// What the simulation prints of one size.
#[derive(Debug, Deserialize)]
struct Report {
    nodes: f64,
    cold_start: f64,
    idle_datagram_bytes: f64,
    idle_sync_bytes: f64,
    change_median: f64,
    change_worst: f64,
    crash_all: f64,
    heal_records: f64,
    heal_members: f64,
}

/// One panel of the plot.
struct Panel {
    title: &'static str,
    goal: Option<f64>,
    lines: &'static [Line],
}

/// A name and what it plots.
type Line = (&'static str, fn(&Report) -> f64);

const PANELS: [Panel; 4] = [
    Panel {
        title: "idle, bytes per node and second",
        goal: Some(1000.0),
        lines: &[
            ("all", |report| {
                report.idle_datagram_bytes + report.idle_sync_bytes
            }),
            ("anti-entropy", |report| report.idle_sync_bytes),
        ],
    },
    Panel {
        title: "one change to all nodes, seconds",
        goal: Some(3.0),
        lines: &[
            ("worst", |report| report.change_worst),
            ("median", |report| report.change_median),
        ],
    },
    Panel {
        title: "cold start, and a crash known by all, seconds",
        goal: None,
        lines: &[
            ("cold start", |report| report.cold_start),
            ("crash", |report| report.crash_all),
        ],
    },
    Panel {
        title: "healing after a partition of 120 s, seconds",
        goal: None,
        lines: &[
            ("members", |report| report.heal_members),
            ("records", |report| report.heal_records),
        ],
    },
];

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const MARGIN: f64 = 36.0;
const COLOURS: [&str; 2] = ["#1f5fa8", "#c2571a"];

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    say::step("simulating gossip");
    let sizes: Vec<_> = arguments.sizes.iter().map(usize::to_string).collect();
    let mut simulation = Command::new("cargo");
    simulation
        .current_dir(&workspace.root)
        .args([
            "run",
            "--quiet",
            "--release",
            "-p",
            "overlay-cluster",
            "--example",
            "sim",
            "--",
        ])
        .args(["--sizes", &sizes.join(",")])
        .args(["--seed", &arguments.seed.to_string()])
        .args(["--loss", &arguments.loss.to_string()])
        .args(["--format", "json"]);
    let printed = command::capture(&mut simulation)?;
    let reports: Vec<Report> =
        serde_json::from_str(&printed).context("read what the simulation printed")?;
    print!("{}", table(&reports));
    let path = match &arguments.plot {
        Some(path) => path.clone(),
        None => workspace.target.join("gossip.svg"),
    };
    fs::write(&path, plot(&reports)).with_context(|| format!("write `{}`", path.display()))?;
    say::note(format!("plot: {}", path.display()));
    Ok(())
}

fn table(reports: &[Report]) -> String {
    let mut text = format!("{:<60}", "nodes");
    let lines = || {
        PANELS
            .iter()
            .flat_map(|panel| panel.lines.iter().map(move |line| (panel, line)))
    };
    for report in reports {
        let _infallible = write!(text, "{:>10.0}", report.nodes);
    }
    text.push('\n');
    for (panel, (name, value)) in lines() {
        let _infallible = write!(text, "{:<60}", format!("{}: {name}", panel.title));
        for report in reports {
            let _infallible = write!(text, "{:>10.2}", value(report));
        }
        text.push('\n');
    }
    text
}

/// Four panels, the number of nodes on a logarithmic axis.
fn plot(reports: &[Report]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        2.0 * WIDTH,
        2.0 * HEIGHT
    );
    for (index, panel) in PANELS.iter().enumerate() {
        let (x, y) = ((index % 2) as f64 * WIDTH, (index / 2) as f64 * HEIGHT);
        let _infallible = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        draw(&mut svg, panel, reports);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, panel: &Panel, reports: &[Report]) {
    let values = || {
        panel
            .lines
            .iter()
            .flat_map(|(_, value)| reports.iter().map(value))
    };
    let top = values().chain(panel.goal).fold(1e-9, f64::max) * 1.1;
    let logs = || reports.iter().map(|report| report.nodes.log10());
    let (first, last) = (logs().fold(9.0, f64::min), logs().fold(0.0, f64::max));
    let span = (last - first).max(0.1);
    let across = |nodes: f64| LEFT + (nodes.log10() - first) / span * (WIDTH - LEFT - MARGIN);
    let up = |value: f64| HEIGHT - MARGIN - value / top * (HEIGHT - 2.0 * MARGIN);
    let mut out = |line: String| {
        svg.push_str(&line);
        svg.push('\n');
    };
    let (right, bottom) = (WIDTH - MARGIN, HEIGHT - MARGIN);
    out(format!(
        "<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{}</text>",
        panel.title
    ));
    out(format!(
        "<path d=\"M{LEFT} {MARGIN}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>"
    ));
    for share in [0.0, 0.5, 1.0] {
        let value = top / 1.1 * share;
        let y = up(value) + 4.0;
        let label = if top < 20.0 {
            format!("{value:.2}")
        } else {
            format!("{value:.0}")
        };
        out(format!(
            "<text x=\"{}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6.0
        ));
    }
    for report in reports {
        let x = across(report.nodes);
        let y = bottom + 16.0;
        out(format!(
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
            report.nodes
        ));
    }
    if let Some(goal) = panel.goal {
        let y = up(goal);
        out(format!(
            "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#a00\" stroke-dasharray=\"4 4\"/>\
             <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#a00\">goal</text>",
            y - 4.0
        ));
    }
    for ((name, value), colour) in panel.lines.iter().zip(COLOURS) {
        let point =
            |report: &Report| format!("{:.1},{:.1}", across(report.nodes), up(value(report)));
        let points: Vec<_> = reports.iter().map(point).collect();
        out(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        if let Some(report) = reports.last() {
            let y = up(value(report)) - 5.0;
            out(format!(
                "<text x=\"{right}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>"
            ));
        }
    }
}
