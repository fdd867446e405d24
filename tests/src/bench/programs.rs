//! What each program costs per packet, and whether that grows with what is in the maps.
//!
//! `BPF_PROG_TEST_RUN` on one packet at a time: the kernel measures the program alone. A program that
//! changes the packet cannot be repeated within one call, since it would meet its own result. In a VM
//! that counts instructions the times are instructions.

mod growth;
mod paths;

pub use self::growth::{Growth, growth};

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, ensure};
use overlay_agent::kernel::bpf::Bpf;
use serde_json::json;

use self::paths::{Path, paths};
use crate::testrun::{Harness, harness::Timed, place, row::Row};

/// How often each path runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Programs {
    /// Runs per path
    #[arg(long, default_value_t = 2000)]
    pub runs: u32,
}

/// Measures every path, and prints a line for each and for what the verifier counted.
pub fn programs(options: &Programs) -> Result<()> {
    let runs = options.runs;
    for verified in Bpf::verify().context("verify the programs")? {
        let report = verified.outcome?;
        let line = json!({
            "program": verified.program,
            "verified_insns": report.verified_insns,
            "jited_bytes": report.jited_bytes,
        });
        println!("{line}");
    }
    place::inside(move || {
        let mut harness = harness(&paths::sizes())?;
        let shim = shim_cost(&mut harness, runs)?;
        for path in paths() {
            let all = runs_of(
                &mut harness,
                std::slice::from_ref(&path.row),
                runs,
                path.with_shim,
            )?;
            let less = if path.with_shim { shim } else { 0 };
            let line = json!({
                "program": path.row.program,
                "path": path.name,
                "ns": median(&all).saturating_sub(less),
                "p99_ns": quantile(&all, 0.99).saturating_sub(less),
            });
            println!("{line}");
        }
        Ok(())
    })
}

fn harness(sizes: &overlay_agent::dataplane::desired::MapSizes) -> Result<Harness> {
    ensure!(
        Harness::missing().is_none(),
        "the programs cannot be loaded here"
    );
    Harness::load(sizes).map_err(|error| anyhow!("load the programs: {error}"))
}

/// What the shim, which sets what a test run cannot, adds: the difference it makes to the shortest
/// program.
fn shim_cost(harness: &mut Harness, runs: u32) -> Result<u32> {
    let Path { row, .. } = paths::shortest();
    let rows = [row];
    let with = median(&runs_of(harness, &rows, runs, true)?);
    let without = median(&runs_of(harness, &rows, runs, false)?);
    Ok(with.saturating_sub(without))
}

/// The sorted times of runs that take the rows in turn. All rows have the world of the first.
fn runs_of(harness: &mut Harness, rows: &[Row], runs: u32, with_shim: bool) -> Result<Vec<u32>> {
    let first = rows.first().context("a row to run")?;
    harness
        .fill(&first.world)
        .map_err(|error| anyhow!("fill the maps: {error}"))?;
    timed(harness, rows, runs, with_shim)
}

/// As [`runs_of`], in the maps as they are.
fn timed(harness: &mut Harness, rows: &[Row], runs: u32, with_shim: bool) -> Result<Vec<u32>> {
    let mut times = Vec::new();
    for row in rows.iter().cycle().take(runs as usize) {
        let Timed {
            verdict,
            nanoseconds,
        } = harness
            .time(row, with_shim)
            .with_context(|| format!("run {}: {}", row.program, row.name))?;
        // Another path would have another cost.
        let wanted = row.verdict.of(row.program);
        ensure!(
            verdict == wanted,
            "{}: {}: the verdict is {verdict:#x}, not {wanted:#x}",
            row.program,
            row.name
        );
        times.push(nanoseconds);
    }
    times.sort_unstable();
    Ok(times)
}

fn median(sorted: &[u32]) -> u32 {
    quantile(sorted, 0.5)
}

/// 0 of nothing.
fn quantile(sorted: &[u32], share: f64) -> u32 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(0)
}

/// The median cost of every path by name, for the test that watches them.
pub fn path_costs(runs: u32) -> Result<BTreeMap<String, u32>> {
    place::inside(move || {
        let mut harness = harness(&paths::sizes())?;
        paths()
            .into_iter()
            .map(|path| {
                let rows = [path.row];
                let all = runs_of(&mut harness, &rows, runs, path.with_shim)?;
                Ok((path.name.to_owned(), median(&all)))
            })
            .collect()
    })
}
