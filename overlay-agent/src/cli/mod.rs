//! The `overlay` command.

mod apply;
mod clear;
mod doctor;
mod events;
mod kernel_drops;
mod keygen;
mod load;
#[cfg_attr(not(feature = "aya-log"), path = "no_log.rs")]
mod log;
mod report;
mod show;
mod stop;
mod table;
mod verify;
mod watch;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::anyhow;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{
    daemon,
    kernel::{
        bpf::{DEFAULT_PIN_ROOT, Pinned},
        host::Directories,
    },
    pages,
    state::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR},
};

/// Encrypted overlay network in eBPF.
#[derive(Debug, Parser)]
#[command(name = "overlay", version)]
struct Arguments {
    /// Directory of the pins, on a BPF file system
    #[arg(long, global = true, env = "OVERLAY_PIN_DIR", default_value = DEFAULT_PIN_ROOT)]
    pin_dir: PathBuf,
    /// Directory of what must survive a reboot: the ledger of used keys
    #[arg(long, global = true, env = "OVERLAY_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Directory of what ends with a reboot
    #[arg(long, global = true, env = "OVERLAY_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// Say more on standard error; twice for every step (RUST_LOG overrides)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The data plane of this node
    #[command(subcommand)]
    Dataplane(Dataplane),
    /// Check what this host can do, with a remedy for what it cannot
    Doctor(doctor::Arguments),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages of `overlay` and `overlay-agent`, for packages
    #[command(hide = true)]
    Man {
        /// Directory of the pages, such as /usr/share/man/man1
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Dataplane {
    /// Make the kernel equal to a file
    Apply(apply::Arguments),
    /// Apply a file, then stay and repair what others change
    ///
    /// SIGHUP reads the file again; SIGINT and SIGTERM end it and leave the data path in place.
    Watch(watch::Arguments),
    /// Show what is in the kernel against what was applied
    Show(show::Arguments),
    /// Print sampled drops (one in `event_sample`)
    Events(events::Arguments),
    /// Print a line for every drop, where the programs were built to log
    /// (`cargo xtask build --log`), until interrupted
    Log,
    /// Remove everything of the overlay from the kernel
    Clear(clear::Arguments),
    /// Make random keys for all pairs of nodes
    Keygen(keygen::Arguments),
    /// Load, pin and attach the underlay programs with an empty configuration
    Load(load::Arguments),
    /// Undo `load`: the same as `clear --yes`
    Unload,
    /// Load every program into the kernel once and say what the verifier found
    Verify(verify::Arguments),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// How a command ended, as its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// 0: everything is as it was asked for.
    Good,
    /// 1: something is reported; what it concerns stays closed.
    Problem,
}

/// A command that did not run.
#[derive(Debug)]
enum Failure {
    /// 2: what was asked for makes no sense.
    Input(anyhow::Error),
    /// 1: it makes sense, and this host could not.
    Host(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Host(error.into())
    }
}

impl Failure {
    fn input(error: impl Into<anyhow::Error>) -> Self {
        Self::Input(error.into())
    }
}

/// The error and its causes, each said once: many errors carry their cause in their own text.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.contains(cause.trim()) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(cause.trim());
    }
    text
}

/// Parses the arguments, runs the command, and returns the exit status.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log(arguments.verbose);
    // One thread: network namespaces belong to threads.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("overlay: cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Problem) => ExitCode::from(1),
        Err(Failure::Host(error)) => {
            eprintln!("overlay: {}", sentence(&error));
            ExitCode::from(1)
        }
        Err(Failure::Input(error)) => {
            eprintln!("overlay: {}", sentence(&error));
            ExitCode::from(2)
        }
    }
}

/// The definition of the command, for its manual page and completions.
pub fn definition() -> clap::Command {
    Arguments::command()
}

async fn run(arguments: Arguments) -> Result<Outcome, Failure> {
    let directories = Directories {
        pins: arguments.pin_dir,
        state: arguments.state_dir,
        run: arguments.run_dir,
    };
    match arguments.command {
        Command::Dataplane(Dataplane::Apply(arguments)) => {
            apply::run(directories, &arguments).await
        }
        Command::Dataplane(Dataplane::Watch(arguments)) => {
            watch::run(directories, &arguments).await
        }
        Command::Dataplane(Dataplane::Events(arguments)) => {
            events::run(&directories, &arguments).await
        }
        Command::Dataplane(Dataplane::Log) => log::run(&directories).await,
        Command::Dataplane(Dataplane::Show(arguments)) => show::run(directories, &arguments).await,
        Command::Dataplane(Dataplane::Clear(arguments)) => {
            clear::run(directories, &arguments).await
        }
        Command::Dataplane(Dataplane::Unload) => clear::run(directories, &clear::YES).await,
        Command::Dataplane(Dataplane::Keygen(arguments)) => keygen::run(&arguments),
        Command::Dataplane(Dataplane::Load(arguments)) => load::run(&directories, &arguments).await,
        Command::Dataplane(Dataplane::Verify(arguments)) => verify::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&directories, &arguments).await,
        Command::Completions { shell } => {
            print!("{}", pages::completions(definition(), shell));
            Ok(Outcome::Good)
        }
        Command::Man { out } => {
            pages::manual([definition(), daemon::command::definition()], &out)?;
            Ok(Outcome::Good)
        }
    }
}

/// The loaded data plane, to look at.
fn loaded(directories: &Directories) -> Result<Pinned, Failure> {
    Pinned::open(&directories.pins)?.ok_or_else(|| {
        Failure::Host(anyhow!(
            "no programs are loaded below {}: `overlay dataplane apply` loads them",
            directories.pins.display()
        ))
    })
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "overlay_agent=info,warn",
        2 => "overlay_agent=debug,warn",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
