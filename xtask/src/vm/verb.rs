//! The verb `vm`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use super::terminal::Terminal;
use super::{Guest, Job, Kernel, Options, to_our_output};
use crate::command;
use crate::workspace::Workspace;

/// Arguments of `vm`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Kernel to boot; `all` runs the command on one after the other
    #[arg(long, value_enum, default_value_t = Choice::V6_12, value_name = "VERSION")]
    kernel: Choice,
    /// Virtual CPUs; QEMU 7.2 crashes guests that have several, when it emulates
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    /// Guest time counts instructions (one CPU, emulated): for measuring ratios
    #[arg(long)]
    icount: bool,
    /// Memory
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    memory: u32,
    /// Directory that the guest may write, at the same path (the target
    /// directory always is); may be given several times
    #[arg(long, value_name = "DIR")]
    share: Vec<PathBuf>,
    /// Kill the VM when the command takes longer
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// Show the kernel's console
    #[arg(long)]
    console: bool,
    /// Command to run, and its arguments; a single word is a line for bash.
    /// Without a command: an interactive shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Which kernels a verb runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12 backports, Debian 13
    #[value(name = "6.12")]
    V6_12,
    /// Both
    All,
}

impl Choice {
    /// The kernels meant, oldest first.
    pub fn kernels(self) -> &'static [Kernel] {
        match self {
            Self::V6_1 => &[Kernel::V6_1],
            Self::V6_12 => &[Kernel::V6_12],
            Self::All => &Kernel::ALL,
        }
    }
}

/// Runs the command in a guest, or a shell; returns the exit status.
pub fn run(workspace: &Workspace, arguments: Arguments) -> Result<i32> {
    let Arguments {
        kernel,
        cpus,
        icount,
        memory,
        share,
        timeout,
        console,
        command,
    } = arguments;
    let mut status = 0;
    for &kernel in kernel.kernels() {
        let options = Options {
            kernel,
            cpus,
            icount,
            memory,
            shares: share.clone(),
            timeout: Duration::from_secs(timeout),
            console,
        };
        let this = match command.as_slice() {
            [] => shell(workspace, &options)?,
            [line] => {
                Guest::boot(workspace, &options)?.run(&Job::script(line), &mut to_our_output)?
            }
            words => Guest::boot(workspace, &options)?.run(&Job::new(words), &mut to_our_output)?,
        };
        if status == 0 {
            status = this;
        }
    }
    Ok(status)
}

/// An interactive shell on our terminal, without time limit.
fn shell(workspace: &Workspace, options: &Options) -> Result<i32> {
    if !std::io::stdin().is_terminal() {
        bail!(
            "an interactive shell needs a terminal; or give a command: `cargo xtask vm -- COMMAND`"
        );
    }
    interactive(workspace, options, "exec bash -l")
}

/// A line of shell on our terminal, without time limit.
pub fn interactive(workspace: &Workspace, options: &Options, line: &str) -> Result<i32> {
    if !std::io::stdin().is_terminal() {
        bail!("the VM ends with its command: to look around in it takes a terminal");
    }
    let size = Terminal::size();
    let _restored = Terminal::save();
    let mut guest = Guest::boot_with(workspace, options, true)?;
    let size = size.map_or(String::new(), |(rows, columns)| {
        format!("stty rows {rows} columns {columns} < /dev/hvc0; ")
    });
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let job = Job::script(&format!(
        "{size}exec setsid --ctty --wait bash -c {} < /dev/hvc0 > /dev/hvc0 2>&1",
        command::quote(line)
    ))
    .env("TERM", term)
    .timeout(Duration::from_secs(u64::from(u32::MAX)));
    guest.run(&job, &mut to_our_output)
}
