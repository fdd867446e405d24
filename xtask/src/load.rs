//! The verbs `load` and `unload`: the data plane of the built agent on an
//! interface of this machine.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use crate::{build, command, setup};

/// Arguments of `load`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Interface that carries the underlay
    #[arg(long, value_name = "IF")]
    iface: String,
    /// Where the XDP program runs: in the driver, in the generic path, or not
    /// at all
    #[arg(long, value_enum, default_value_t = Mode::Native)]
    mode: Mode,
    #[command(flatten)]
    build: build::Options,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Mode {
    Native,
    Generic,
    Off,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }
}

/// Builds, then loads, attaches and pins.
pub fn load(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let Arguments { iface, mode, build } = arguments;
    need_root("loading BPF programs")?;
    let overlay = build::run(workspace, *build)?;
    let mut load = Command::new(overlay);
    load.args(["dataplane", "load", "--iface", iface])
        .args(["--mode", mode.word()]);
    command::run(&mut load).with_context(|| format!("load the data plane on {iface}"))
}

/// Detaches and unpins what `load` left.
pub fn unload(workspace: &Workspace) -> Result<()> {
    need_root("unloading BPF programs")?;
    // Whatever profile loaded it: the newest binary knows its own pins.
    let newest = [true, false]
        .map(|release| workspace.overlay(release))
        .into_iter()
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max();
    let overlay = match newest {
        Some((_, path)) => path,
        None => build::run(workspace, build::Options::default())?,
    };
    command::run(Command::new(overlay).args(["dataplane", "unload"]))
        .context("unload the data plane")
}

fn need_root(what: &str) -> Result<()> {
    if !setup::is_root() {
        bail!("{what} needs root: run this as root, or try it with `cargo xtask vm`");
    }
    Ok(())
}
