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
    /// Every program on a packet at a time
    Programs(bench::Programs),
    /// The same where the maps hold more and more
    Growth(bench::Growth),
    /// How fast the agent fills the kernel
    Control(bench::Control),
}

fn main() -> ExitCode {
    let verb = Verb::parse();
    supervise::in_child("bench", Interrupt::Ends, || {
        match verb {
            Verb::Traffic(options) => bench::traffic(&options)?,
            Verb::Programs(options) => bench::programs(&options)?,
            Verb::Growth(options) => bench::growth(&options)?,
            Verb::Control(options) => bench::control(&options)?,
        }
        Ok(0)
    })
}
