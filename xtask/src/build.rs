//! The verb `build`: the BPF object, then the agent with the object inside.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::workspace::Workspace;
use crate::{bpf, command, say};

/// Arguments of `build`.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Options {
    /// Build the agent optimised, without debug assertions
    #[arg(long)]
    pub release: bool,
    /// Let the BPF programs log what they do to each packet (feature aya-log;
    /// bpftool cannot load such an object)
    #[arg(long)]
    pub log: bool,
}

/// Builds both and returns the path of the `overlay` command.
pub fn run(workspace: &Workspace, options: Options) -> Result<PathBuf> {
    bpf::build(workspace, options.log)?;
    agent(workspace, options)
}

/// Builds the agent alone, with whatever BPF object there is.
pub fn agent(workspace: &Workspace, options: Options) -> Result<PathBuf> {
    say::step("building the agent");
    let mut cargo = command::cargo();
    cargo
        .current_dir(&workspace.root)
        .args(["build", "--package=overlay-agent", "--bins"]);
    if options.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo).context("build the agent")?;
    let overlay = workspace.overlay(options.release);
    say::note(overlay.display());
    Ok(overlay)
}
