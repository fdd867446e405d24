//! Everything around the product: set-up, build, load, the test VM, tests.

mod bench;
mod bpf;
mod bpf_linker;
mod build;
mod command;
mod demo;
mod load;
mod previous;
mod say;
mod setup;
mod sim;
mod table;
mod test;
mod toolchain;
mod verify;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Builds, loads and tests the overlay network. Each verb does the set-up it
/// needs by itself: on Debian as root missing packages are installed, elsewhere
/// what is missing is printed.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Get all that any verb needs: packages, BPF toolchain, VM kernels
    Setup,
    /// Build the BPF programs, and the agent with them inside
    Build(build::Options),
    /// Build, then load the data plane on an interface of this machine
    Load(load::Arguments),
    /// Remove what `load` loaded
    Unload,
    /// Load every program on the running kernel and in the VM kernels, and
    /// print what the verifier counted
    Verify(verify::Arguments),
    /// Bring up an encrypted three-node cluster and show what is on the wire
    Demo(demo::Arguments),
    /// Measure this project against Docker's data path, the kernel's best case,
    /// WireGuard and the bare wire
    Bench(bench::Arguments),
    /// Run all tests: host tests, then kernel tests on the running kernel and in
    /// the VM kernels
    Test(test::Arguments),
    /// Simulate gossip with up to a thousand nodes: print the figures and plot them
    Sim(sim::Arguments),
    /// Boot the test VM, and run a command in it or give a shell
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.verb) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<i32> {
    let workspace = Workspace::find()?;
    match verb {
        Verb::Setup => setup::run(&workspace).map(|()| 0),
        Verb::Build(options) => build::run(&workspace, options).map(|_overlay| 0),
        Verb::Load(arguments) => load::load(&workspace, &arguments).map(|()| 0),
        Verb::Unload => load::unload(&workspace).map(|()| 0),
        Verb::Verify(arguments) => verify::run(&workspace, &arguments).map(|()| 0),
        Verb::Demo(arguments) => demo::run(&workspace, &arguments),
        Verb::Bench(arguments) => bench::run(&workspace, &arguments).map(|()| 0),
        Verb::Test(arguments) => test::run(&workspace, &arguments),
        Verb::Sim(arguments) => sim::run(&workspace, &arguments).map(|()| 0),
        Verb::Vm(arguments) => vm::run(&workspace, arguments),
    }
}
