//! The verb `test`: host tests, then the kernel tests wherever they must hold.

mod binaries;
mod clock;
mod guests;
mod here;
mod outcome;
mod places;
mod summary;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::binaries::Binary;
use self::clock::Clock;
use self::places::{Breadth, Machine, Place};
use crate::vm;
use crate::workspace::Workspace;
use crate::{bpf, build, command, previous, say, setup};

/// The test binary that loads the programs with logging.
const LOG_TESTS: &str = "plain_log";

/// The test binary that does nothing without the release before this one.
const RELEASES: &str = "plain_releases";
/// Those that run it where it is there.
const WITH_PREVIOUS: [&str; 2] = [RELEASES, "encrypted_cluster"];

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Run only tests whose name contains this; if it is part of the name of
    /// test binaries of the crate `tests`, run those whole
    filter: Option<String>,
    /// VM kernels to test on
    #[arg(long, value_enum, default_value_t = vm::Choice::All, value_name = "VERSION")]
    kernel: vm::Choice,
    /// Run each kernel test in one place only: the running kernel where it can,
    /// else the newest VM kernel
    #[arg(long)]
    quick: bool,
    /// Run each of the long VM tests on one kernel, in turn, and all others on every
    /// one
    #[arg(long, conflicts_with = "quick")]
    spread: bool,
    /// Time limit for each test binary
    #[arg(long, default_value_t = 2400, value_name = "SECONDS")]
    timeout: u64,
}

/// Names the `overlay` of the release before this one to tests.
const PREVIOUS: &str = "OVERLAY_PREVIOUS_BIN";

/// What every test binary is run with.
struct Run<'a> {
    workspace: &'a Workspace,
    overlay: &'a std::path::Path,
    /// The `overlay` of the release before this one.
    previous: Option<&'a std::path::Path>,
    /// Arguments for libtest.
    arguments: Vec<String>,
    timeout: Duration,
}

/// Runs everything and prints the summary; returns the exit status.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<i32> {
    let Arguments {
        filter,
        kernel,
        quick,
        spread,
        timeout,
    } = arguments;
    let breadth = match (quick, spread) {
        (true, _) => Breadth::Quick,
        (_, true) => Breadth::Spread,
        _ => Breadth::Whole,
    };
    let mut clock = Clock::start();
    let root = setup::is_root();
    for tools in [setup::NETWORK, setup::VM] {
        match setup::ensure(workspace, tools) {
            // What needs the tools needs root too.
            Err(error) if !root => say::warn(format_args!("{error:#}")),
            done => done?,
        }
    }
    let mut left_out = Vec::new();
    let overlay = match build::run(workspace, build::Options::default()) {
        // Host tests need no BPF programs, and without root nothing else runs.
        Err(error) if !root => {
            say::warn(format_args!("{error:#}"));
            left_out.push("the build of the BPF programs".to_owned());
            build::agent(workspace, build::Options::default())?
        }
        built => built?,
    };

    say::step("building the kernel tests");
    let all = binaries::build(workspace)?;
    let (binaries, test_filter) = binaries::select(all, filter.as_deref());
    if root && binaries.iter().any(|binary| binary.name == LOG_TESTS) {
        bpf::build_log_object(workspace)?;
    }
    let machine = Machine::look(root);
    let with_previous = |binary: &Binary| WITH_PREVIOUS.contains(&binary.name.as_str());
    let previous = match root && binaries.iter().any(with_previous) {
        true => previous::build(workspace)?,
        false => None,
    };
    let run = Run {
        workspace,
        overlay: &overlay,
        previous: previous.as_deref(),
        arguments: std::iter::once("--test-threads=1")
            .chain(test_filter)
            .map(str::to_owned)
            .collect(),
        timeout: Duration::from_secs(*timeout),
    };
    clock.lap("building");
    let mut outcomes = Vec::new();
    // A filter that names binaries means those alone.
    if filter.is_none() || test_filter.is_some() {
        say::step("host tests");
        outcomes.push(here::cargo_test(&run, test_filter));
        clock.lap("host tests");
    }
    let mut wanted: Vec<(Place, &Binary)> = Vec::new();
    for binary in &binaries {
        let mut places = places::of(&binary.name, &machine, kernel.kernels(), breadth);
        if binary.name == RELEASES && previous.is_none() {
            places.clear();
        }
        if places.is_empty() {
            left_out.push(binary.name.clone());
        }
        wanted.extend(places.into_iter().map(|place| (place, binary)));
    }
    for (_, binary) in wanted.iter().filter(|(place, _)| *place == Place::Here) {
        say::step(format_args!(
            "{} on the running kernel ({})",
            binary.name, machine.release
        ));
        outcomes.push(here::binary(&run, binary));
    }
    let mut tasks: Vec<guests::Task<'_>> = wanted
        .iter()
        .filter_map(|&(place, binary)| match place {
            Place::Vm(kernel) => Some((kernel, binary)),
            Place::Here => None,
        })
        .collect();
    // Stable: the binaries of a kernel stay in order.
    tasks.sort_by_key(|(kernel, _)| *kernel);
    clock.lap("running kernel");
    outcomes.extend(guests::run(&run, &tasks));
    clock.lap("VMs");
    let status = summary::print(&outcomes, &left_out, test_filter.is_some());
    println!("{clock}");
    Ok(status)
}

/// The running kernel's release.
fn release() -> Result<String> {
    command::capture(std::process::Command::new("uname").arg("-r"))
        .map(|release| release.trim().to_owned())
        .context("ask for the running kernel's release")
}
