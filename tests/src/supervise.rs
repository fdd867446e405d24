//! A program that makes labs runs in a child, so that what a signal leaves behind can be removed.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::lab;

/// Set for the child that does the work.
const WORKER: &str = "OVERLAY_LAB_WORKER";

/// What the parent does at Ctrl-C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Ends the child and removes what it had made.
    Ends,
    /// Leaves it to the child, which has a shell.
    IsTheChilds,
}

/// Runs `work` in a child with our arguments; SIGTERM ends it. `work` returns the exit status.
pub fn in_child(name: &str, interrupt: Interrupt, work: impl FnOnce() -> Result<u8>) -> ExitCode {
    let status = if std::env::var_os(WORKER).is_some() {
        work()
    } else {
        supervise(name, interrupt)
    };
    match status {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn supervise(name: &str, interrupt: Interrupt) -> Result<u8> {
    let mut interrupted = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let own = std::env::current_exe().with_context(|| format!("find the file of {name}"))?;
    let mut command = Command::new(own);
    command.args(std::env::args_os().skip(1)).env(WORKER, "1");
    // SAFETY: a system call without pointers, after which the child only executes.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut worker = command.spawn().with_context(|| format!("start {name}"))?;
    let signal = loop {
        tokio::select! {
            status = worker.wait() => {
                let code = status.with_context(|| format!("wait for {name}"))?.code();
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
            }
            _ = interrupted.recv() => if interrupt == Interrupt::Ends {
                break SignalKind::interrupt()
            },
            _ = terminated.recv() => break SignalKind::terminate(),
        }
    };
    worker.kill().await.with_context(|| format!("end {name}"))?;
    lab::remove_leftovers();
    eprintln!("{name}: interrupted, and what it had made was removed");
    Ok(u8::try_from(128 + signal.as_raw_value()).unwrap_or(1))
}
