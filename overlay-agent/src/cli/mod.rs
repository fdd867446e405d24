//! The `overlay` command.

mod apply;
mod backup;
mod clear;
mod cluster_events;
mod doctor;
mod endpoint;
mod events;
mod human;
mod keygen;
mod keys;
mod listing;
mod load;
mod lock;
#[cfg_attr(not(feature = "aya-log"), path = "no_log.rs")]
mod log;
mod membership;
mod network;
mod node;
mod peers;
mod report;
mod secret_file;
mod show;
mod status;
mod stop;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod token;
mod values;
mod verify;
mod watch;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::anyhow;
use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use self::terminal::Terminal;
use crate::{
    api::{
        SOCKET_NAME,
        client::{Client, ClientError},
    },
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
    /// Socket of the agent [default: agent.sock in the run directory]
    #[arg(long, global = true, env = "OVERLAY_SOCKET", value_name = "FILE")]
    socket: Option<PathBuf>,
    /// Say more on standard error; twice for every step (RUST_LOG overrides)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new cluster with this node as its first manager
    Init(membership::InitArguments),
    /// Join a cluster as a worker or manager, by the token
    Join(membership::JoinArguments),
    /// Leave the cluster
    Leave(membership::LeaveArguments),
    /// Networks of the cluster
    #[command(subcommand)]
    Network(network::Command),
    /// Endpoints of this node
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Nodes of the cluster
    #[command(subcommand)]
    Node(node::Command),
    /// Join tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Show whether all is encrypted, and what is wrong
    Status(status::Arguments),
    /// List the nodes that this one has tunnels with
    Peers(peers::Arguments),
    /// Print what happens in the cluster and on this node
    Events(cluster_events::Arguments),
    /// Key epochs
    #[command(subcommand)]
    Keys(keys::Command),
    /// The authority behind the nodes' certificates
    #[command(subcommand)]
    Ca(backup::Ca),
    /// Unlock the managers' state on this node
    Unlock(lock::UnlockArguments),
    /// Show or change the key that unlocks managers
    UnlockKey(lock::KeyArguments),
    /// Say whether managers must be unlocked after a restart
    Autolock(lock::AutolockArguments),
    /// Save the managers' state, sealed
    Backup(backup::BackupArguments),
    /// Make this node the manager of a cluster from a backup
    Restore(backup::RestoreArguments),
    /// The data plane of this node, without a cluster
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
        let error = error.into();
        match error.downcast_ref::<ClientError>() {
            Some(refused) if refused.is_input() => Self::Input(error),
            _ => Self::Host(error),
        }
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

/// What a command that asks the agent works with.
struct Context {
    client: Client,
    terminal: Terminal,
}

/// The definition of the command line, for completions and manual pages.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
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
        // Who reads the output has read enough.
        Err(Failure::Host(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn run(arguments: Arguments) -> Result<Outcome, Failure> {
    let socket = arguments
        .socket
        .unwrap_or_else(|| arguments.run_dir.join(SOCKET_NAME));
    let context = Context {
        client: Client::new(socket),
        terminal: Terminal::standard(),
    };
    let directories = Directories {
        pins: arguments.pin_dir,
        state: arguments.state_dir,
        run: arguments.run_dir,
    };
    match arguments.command {
        Command::Dataplane(command) => dataplane(directories, command).await,
        Command::Doctor(arguments) => doctor::run(&directories, &arguments).await,
        Command::Completions { shell } => {
            print!("{}", pages::completions(self::command(), shell));
            Ok(Outcome::Good)
        }
        Command::Man { out } => {
            pages::manual([self::command(), daemon::command::definition()], &out)?;
            Ok(Outcome::Good)
        }
        command => ask(context, command).await,
    }
}

/// The commands that the agent answers.
async fn ask(mut context: Context, command: Command) -> Result<Outcome, Failure> {
    let context = &mut context;
    match command {
        Command::Init(arguments) => membership::init(context, arguments).await,
        Command::Join(arguments) => membership::join(context, arguments).await,
        Command::Leave(arguments) => membership::leave(context, &arguments).await,
        Command::Network(command) => network::run(context, command).await,
        Command::Endpoint(command) => endpoint::run(context, command).await,
        Command::Node(command) => node::run(context, command).await,
        Command::Token(command) => token::run(context, &command).await,
        Command::Status(arguments) => status::run(context, &arguments).await,
        Command::Peers(arguments) => peers::run(context, &arguments).await,
        Command::Events(arguments) => cluster_events::run(context, &arguments).await,
        Command::Keys(command) => keys::run(context, &command).await,
        Command::Ca(command) => backup::ca(context, &command).await,
        Command::Unlock(arguments) => lock::unlock(context, &arguments).await,
        Command::UnlockKey(arguments) => lock::key(context, &arguments).await,
        Command::Autolock(arguments) => lock::autolock(context, &arguments).await,
        Command::Backup(arguments) => backup::backup(context, &arguments).await,
        Command::Restore(arguments) => backup::restore(context, arguments).await,
        Command::Dataplane(_)
        | Command::Doctor(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Err(Failure::Host(anyhow!(
            "the agent does not answer this command"
        ))),
    }
}

async fn dataplane(directories: Directories, command: Dataplane) -> Result<Outcome, Failure> {
    match command {
        Dataplane::Apply(arguments) => apply::run(directories, &arguments).await,
        Dataplane::Watch(arguments) => watch::run(directories, &arguments).await,
        Dataplane::Events(arguments) => events::run(&directories, &arguments).await,
        Dataplane::Log => log::run(&directories).await,
        Dataplane::Show(arguments) => show::run(directories, &arguments).await,
        Dataplane::Clear(arguments) => clear::run(directories, &arguments).await,
        Dataplane::Unload => clear::run(directories, &clear::YES).await,
        Dataplane::Keygen(arguments) => keygen::run(&arguments),
        Dataplane::Load(arguments) => load::run(&directories, &arguments).await,
        Dataplane::Verify(arguments) => verify::run(&arguments),
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
