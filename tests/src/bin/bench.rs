//! `cargo xtask bench` runs this, here or in the test VM.

use std::process::ExitCode;

use clap::Parser;
use overlay_tests::{
    bench,
    supervise::{self, Interrupt},
};

/// Measures, and prints a line of JSON for each measurement.
#[derive(Debug, Parser)]
enum Verb {
    /// Loads over every competitor
    Traffic(bench::Traffic),
}

fn main() -> ExitCode {
    let verb = Verb::parse();
    supervise::run("bench", Interrupt::Ends, || {
        match verb {
            Verb::Traffic(options) => bench::traffic(&options)?,
        }
        Ok(0)
    })
}
