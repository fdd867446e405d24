//! The verb `bench`: the same loads over this project and over what it competes with, and what came
//! of it against the targets.
//!
//! The measuring is done by `overlay-bench` of the crate `tests`, on the running kernel and in the VM;
//! here its samples are collected, compared, and written down.

mod collect;
mod compare;
mod detail;
mod machine;
mod markdown;
mod plot;
mod record;
mod setting;
mod statistics;
mod targets;
mod terminal;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use self::collect::Collector;
use self::detail::Detail;
use self::record::Record;
use self::setting::Setting;
use crate::workspace::{Workspace, write_if_changed};
use crate::{build, command, say, setup, vm};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Within five minutes: one turn each, without WireGuard and the bare wire,
    /// the three loads that tell most
    #[arg(long)]
    quick: bool,
    /// Write the result below docs/benchmarks, under this name; without it, to
    /// the target directory
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only these; all by default
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SETTING")]
    only: Vec<Setting>,
    /// What is measured besides; all by default, nothing with --only or --quick
    #[arg(long, value_enum, value_delimiter = ',', value_name = "DETAIL")]
    details: Vec<Detail>,
    /// Only these loads, by the names in the table
    #[arg(long, value_delimiter = ',', value_name = "LOAD")]
    loads: Vec<String>,
    /// Only these competitors, by the names in the table
    #[arg(long, value_delimiter = ',', value_name = "COMPETITOR")]
    competitors: Vec<String>,
    /// Turns of everyone in wall time [default: 5]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// How long each load runs in wall time
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000)]
    duration: u64,
    /// Skip the second run of what counts instructions, by which it is seen that
    /// its ratios repeat
    #[arg(long)]
    once: bool,
    /// Kernel of the VM
    #[arg(long, value_enum, default_value_t = vm::Kernel::V6_12, value_name = "VERSION")]
    kernel: vm::Kernel,
    #[command(flatten)]
    build: build::Options,
}

/// Loads of `--quick`.
const QUICK: [&str; 3] = ["tcp-1", "udp-64", "udp-round-trip"];
/// Competitors of `--quick`.
const QUICK_COMPETITORS: [&str; 3] = ["ours", "docker", "kernel"];

/// Runs all, prints the table, writes the files.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if !setup::is_root() {
        bail!(
            "the benchmark's network namespaces need root: run `sudo -E env PATH=\"$PATH\" cargo \
             xtask bench`"
        );
    }
    setup::ensure(workspace, setup::NETWORK)?;
    setup::ensure(workspace, setup::BENCH)?;
    let overlay = build::run(workspace, arguments.build)?;
    let bench = build_bench(workspace, arguments.build.release)?;

    let plan = Plan::of(arguments);
    let machine = machine::describe(workspace)?;
    let mut record = Record::new(machine, this_command());
    let collector = Collector {
        workspace,
        bench: &bench,
        overlay: &overlay,
        plan: &plan,
    };
    collector.run(&mut record);

    print!("{}", terminal::render(&record));
    let (directory, name) = match &arguments.name {
        Some(name) => (workspace.root.join("docs/benchmarks"), name.as_str()),
        None => (workspace.cache().join("bench"), "latest"),
    };
    if !record.runs.is_empty() || !record.reports.is_empty() {
        save(&record, &directory, name)?;
    }
    if !record.failures.is_empty() {
        bail!("not all was measured:\n{}", record.failures.join("\n"));
    }
    Ok(())
}

/// What is run of what could be.
#[derive(Debug)]
pub struct Plan {
    settings: Vec<Setting>,
    details: Vec<Detail>,
    loads: Vec<String>,
    competitors: Vec<String>,
    rounds: u32,
    duration: u64,
    /// Turns and length of what counts instructions, which hardly varies.
    counted_rounds: u32,
    counted_duration: u64,
    repeat: bool,
    kernel: vm::Kernel,
}

impl Plan {
    fn of(arguments: &Arguments) -> Self {
        let Arguments {
            quick,
            name: _,
            only,
            details,
            loads,
            competitors,
            rounds,
            duration,
            once,
            kernel,
            build: _,
        } = arguments;
        let mut loads = loads.clone();
        if *quick && loads.is_empty() {
            loads = QUICK.map(str::to_owned).into();
        }
        Self {
            details: if details.is_empty() && only.is_empty() && !quick {
                Detail::ALL.into()
            } else {
                details.clone()
            },
            settings: if !details.is_empty() && only.is_empty() {
                Vec::new()
            } else if only.is_empty() {
                let all = Setting::ALL.into_iter();
                all.filter(|setting| !quick || *setting != Setting::AesGcmWall)
                    .collect()
            } else {
                only.clone()
            },
            loads,
            competitors: if *quick && competitors.is_empty() {
                QUICK_COMPETITORS.map(str::to_owned).into()
            } else {
                competitors.clone()
            },
            rounds: rounds.unwrap_or(if *quick { 1 } else { 5 }),
            duration: *duration,
            counted_rounds: 1,
            counted_duration: if *quick { 30 } else { 100 },
            repeat: !quick && !once,
            kernel: *kernel,
        }
    }
}

/// Builds the program that measures.
fn build_bench(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    say::step("building the benchmark");
    let mut cargo = command::cargo();
    cargo
        .args(["build", "--package=overlay-tests", "--bin=overlay-bench"])
        // As the tests do, so that the library is built once for both.
        .arg("--features=kernel")
        .current_dir(&workspace.root);
    if release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    Ok(workspace.overlay(release).with_file_name("overlay-bench"))
}

/// As it was typed, for the page.
fn this_command() -> String {
    let words = std::env::args().skip(1);
    let words: Vec<String> = words.map(|word| command::quote(&word)).collect();
    format!("cargo xtask {}", words.join(" "))
}

/// Writes JSON, page and plots.
fn save(record: &Record, directory: &std::path::Path, name: &str) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let write = |file: String, text: String| {
        let path = directory.join(file);
        write_if_changed(&path, text.as_bytes()).map(|_| say::note(path.display()))
    };
    say::step("writing");
    let mut json = serde_json::to_string_pretty(record).context("write the record as JSON")?;
    json.push('\n');
    write(format!("{name}.json"), json)?;
    let mut plots = Vec::new();
    for setting in record.settings() {
        if let Some(svg) = plot::ratios(record, setting) {
            let file = format!("{name}-{}.svg", setting.name());
            write(file.clone(), svg)?;
            plots.push((setting, file));
        }
    }
    write(format!("{name}.md"), markdown::page(record, name, &plots))
}
