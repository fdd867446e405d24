//! A verb of `overlay` that stays, such as `watch`, in the background, and what it says with the
//! time.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::command::display;

/// To apply at first, and to end.
const LIMIT: Duration = Duration::from_secs(60);

type Lines = Arc<Mutex<Vec<(Instant, String)>>>;

/// The running command; killed when dropped.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    lines: Lines,
}

impl Watcher {
    /// Returns once it has said `ready`.
    pub fn start(command: &mut Command, ready: &str) -> Result<Self> {
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `{}`", display(command)))?;
        let lines = Lines::default();
        if let Some(from) = child.stdout.take() {
            collect(from, &lines);
        }
        if let Some(from) = child.stderr.take() {
            collect(from, &lines);
        }
        let watcher = Self { child, lines };
        watcher.heard(started, &[ready], LIMIT)?;
        Ok(watcher)
    }

    /// The time from `since` to the first line with all these parts.
    pub fn heard(&self, since: Instant, parts: &[&str], limit: Duration) -> Result<Duration> {
        loop {
            let found = self
                .lines()
                .iter()
                .find(|(at, line)| *at >= since && parts.iter().all(|part| line.contains(part)))
                .map(|(at, _)| *at - since);
            match found {
                Some(time) => return Ok(time),
                None if since.elapsed() > limit => {
                    bail!("did not say {parts:?}, but:\n{}", self.said(since))
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// What it said since then.
    pub fn said(&self, since: Instant) -> String {
        let lines = self.lines();
        let since = lines.iter().filter(|(at, _)| *at >= since);
        since.map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).context("signal the watch")
    }

    /// Ends it with SIGTERM, which must end it well.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the watch")? {
                ensure!(status.success(), "the watch ended with {status}");
                return Ok(());
            }
            ensure!(started.elapsed() < LIMIT, "the watch does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, String)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

fn collect(from: impl Read + Send + 'static, lines: &Lines) {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push((Instant::now(), line));
        }
    });
}
