//! Everything around the product: set-up, build, load, the test VM, tests.

mod bpf;
mod bpf_linker;
mod build;
mod command;
mod say;
mod setup;
mod toolchain;
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
        Verb::Vm(arguments) => vm::run(&workspace, arguments),
    }
}
