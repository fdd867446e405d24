//! A real agent in the namespace of a node.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, Node, overlay_binary};

/// For an agent to answer, and to end.
const LIMIT: Duration = Duration::from_secs(60);
/// Lines of its log that a message quotes, unless `OVERLAY_LOG_LINES` says how many.
const TAIL: usize = 40;

/// An agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    pub node: u32,
    /// The `overlay` of the release that it runs; `overlay-agent` is beside it.
    release: PathBuf,
    netns: PathBuf,
    files: PathBuf,
    pins: PathBuf,
    environment: Vec<(String, OsString)>,
    child: Option<Child>,
}

impl Agent {
    pub(super) fn new(lab: &Lab, node: &Node) -> Result<Self> {
        let files = lab.directory().join(format!("agent{}", node.index));
        fs::create_dir(&files).with_context(|| format!("create {}", files.display()))?;
        fs::set_permissions(&files, fs::Permissions::from_mode(0o700))?;
        let agent = Self {
            node: node.index,
            release: overlay_binary()?,
            netns: node.netns.path(),
            files,
            pins: node.pins().to_owned(),
            environment: Vec::new(),
            child: None,
        };
        fs::write(agent.config(), agent.configuration()).context("write a configuration")?;
        Ok(agent)
    }

    fn configuration(&self) -> String {
        format!(
            "name = \"{}\"\n\
             [directories]\nstate = \"{}\"\nrun = \"{}\"\npins = \"{}\"\n\
             [api]\nsocket = \"{}\"\n\
             [log]\nformat = \"text\"\nlevel = \"overlay_agent=debug,warn\"\n\
             [data_plane]\nxdp = \"off\"\nevent_sample = 1\n",
            super::name(self.node),
            self.state().display(),
            self.files.join("run").display(),
            self.pins.display(),
            self.socket().display(),
        )
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.files.join("overlay-agent.toml")
    }

    /// What survives a reboot.
    pub fn state(&self) -> PathBuf {
        self.files.join("state")
    }

    /// What does not.
    pub fn run(&self) -> PathBuf {
        self.files.join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.files.join("run/agent.sock")
    }

    fn log(&self) -> PathBuf {
        self.files.join("log")
    }

    /// A program in its network namespace.
    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display()));
        command.arg(program);
        command
    }

    /// The `overlay` command of its host.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.inside(&self.release);
        command
            .env("OVERLAY_SOCKET", self.socket())
            .env("OVERLAY_PIN_DIR", &self.pins)
            .env("OVERLAY_STATE_DIR", self.state())
            .env("OVERLAY_RUN_DIR", self.run())
            .args(arguments);
        Ok(command)
    }

    /// The agent of its release.
    fn program(&self) -> Result<PathBuf> {
        let path = self.release.with_file_name("overlay-agent");
        ensure!(
            path.is_file(),
            "there is no {}: run `cargo xtask build`",
            path.display()
        );
        Ok(path)
    }

    /// Lets it run another release, whose `overlay` this is, from its next start on.
    pub fn set_release(&mut self, overlay: PathBuf) {
        self.release = overlay;
    }

    /// The `overlay` of its release.
    pub fn release(&self) -> &Path {
        &self.release
    }

    /// Ends it and starts it as another release.
    pub fn update(&mut self, overlay: PathBuf) -> Result<()> {
        self.stop()?;
        self.set_release(overlay);
        self.start()
    }

    /// Sets a variable in the environment of its next starts.
    pub fn set_environment(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Starts it; returns when it answers.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "agent {} runs already", self.node);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .context("open a log")?;
        let child = self
            .inside(&self.program()?)
            .args(["run", "--config"])
            .arg(self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start an agent")?;
        self.child = Some(child);
        let started = Instant::now();
        while !self.answers() {
            ensure!(
                started.elapsed() < LIMIT && self.is_alive()?,
                "agent {} does not answer: {}",
                self.node,
                self.log_tail()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether it answers: its socket is there some time before.
    fn answers(&self) -> bool {
        let asked = || -> io::Result<usize> {
            let mut stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(b"GET /v1/version HTTP/1.1\r\nHost: agent\r\n\r\n")?;
            stream.read(&mut [0])
        };
        asked().is_ok_and(|length| length > 0)
    }

    pub const fn is_running(&self) -> bool {
        self.child.is_some()
    }

    fn is_alive(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    pub fn pid(&self) -> Result<u32> {
        let child = self.child.as_ref().context("the agent does not run")?;
        Ok(child.id())
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid()?);
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
            .map(|kilobytes: u64| kilobytes * 1024)
            .with_context(|| format!("no resident memory in {path}: {status}"))
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            bail!("agent {} does not run", self.node);
        };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends it with SIGTERM, which must end it well.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            bail!("agent {} does not run", self.node);
        };
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(
                    status.success(),
                    "agent {} ended with {status}: {}",
                    self.node,
                    self.log_tail()
                );
                return Ok(());
            }
            if started.elapsed() > LIMIT {
                let _gone = child.kill();
                let _reaped = child.wait();
                bail!("agent {} does not end: {}", self.node, self.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Freezes it, as a host that does not schedule it would.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.signal(if paused { Signal::STOP } else { Signal::CONT })
    }

    /// Tells it to read its configuration again.
    pub fn reload(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the agent does not run")?;
        kill_process(Pid::from_child(child), signal).context("signal an agent")
    }

    /// The whole log of all its starts.
    pub fn log_text(&self) -> String {
        let mut text = String::new();
        if let Ok(mut log) = File::open(self.log()) {
            let _partly = log.read_to_string(&mut text);
        }
        text
    }

    /// The last lines of its log, for messages.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let wanted = std::env::var("OVERLAY_LOG_LINES").ok();
        let wanted = wanted.and_then(|lines| lines.parse().ok()).unwrap_or(TAIL);
        let tail = &lines[lines.len().saturating_sub(wanted)..];
        format!("log of agent {}:\n{}\n", self.node, tail.join("\n"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}
