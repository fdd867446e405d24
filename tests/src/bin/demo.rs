//! `cargo xtask demo` runs this, here or in the test VM.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use overlay_tests::{demo, lab};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

/// Set for the process that makes the cluster.
const WORKER: &str = "OVERLAY_DEMO_WORKER";

fn main() -> ExitCode {
    let (mut keep, mut without_ipsec) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            "--without-ipsec" => without_ipsec = true,
            other => {
                eprintln!(
                    "demo: unknown argument {other}; only --keep and --without-ipsec are known"
                );
                return ExitCode::from(2);
            }
        }
    }
    let status = if std::env::var_os(WORKER).is_some() {
        demo::run(keep, without_ipsec).map(|good| u8::from(!good))
    } else {
        supervise()
    };
    match status {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo in a child, and removes what it leaves when a signal ends it.
#[tokio::main(flavor = "current_thread")]
async fn supervise() -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut command = Command::new(std::env::current_exe().context("find the demo's own file")?);
    command.args(std::env::args_os().skip(1)).env(WORKER, "1");
    // SAFETY: a system call without pointers, after which the child only executes.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut worker = command.spawn().context("start the demo")?;
    // In the shell of `--keep` Ctrl-C is the shell's affair.
    let keep = std::env::args().any(|argument| argument == "--keep");
    let signal = loop {
        tokio::select! {
            status = worker.wait() => {
                let code = status.context("wait for the demo")?.code();
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
            }
            _ = interrupt.recv() => if !keep { break SignalKind::interrupt() },
            _ = terminate.recv() => break SignalKind::terminate(),
        }
    };
    worker.kill().await.context("end the demo")?;
    lab::remove_leftovers();
    eprintln!("demo: interrupted, and what it had made was removed");
    Ok(u8::try_from(128 + signal.as_raw_value()).unwrap_or(1))
}
