//! A network namespace under `/run/netns`, removed when dropped.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::{self, QUICK};

/// A named network namespace with `lo` up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one of this name.
    pub fn new(name: &str) -> Result<Self> {
        command::shell("ip", &format!("netns add {name}"))?;
        let netns = Self {
            name: name.to_owned(),
        };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A program to be run in it. `ip netns exec` would hide the BPF file system.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg(program);
        command
    }

    /// Runs a program with arguments as one string; its standard output.
    pub fn run(&self, program: &str, arguments: &str) -> Result<String> {
        command::capture(
            self.command(program).args(arguments.split_whitespace()),
            QUICK,
        )
    }

    /// `ip` with arguments as one string; its standard output.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command::shell("ip", &format!("-n {} {arguments}", self.name))
    }

    /// Writes a sysctl, named as below `/proc/sys`.
    pub fn set_sysctl(&self, path: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(path);
        self.enter(|| {
            fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
        })?
    }

    /// Reads a sysctl.
    pub fn sysctl(&self, path: &str) -> Result<String> {
        let path = Path::new("/proc/sys").join(path);
        self.enter(|| {
            fs::read_to_string(&path)
                .map(|text| text.trim().to_owned())
                .with_context(|| format!("read {}", path.display()))
        })?
    }

    /// Does something inside, on a thread of its own; threads that it starts stay inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            scope
                .spawn(|| move_into(&file).map(|()| work()))
                .join()
                .map_err(|_| anyhow!("the thread in {} panicked", self.name))?
        })
    }

    /// As [`Netns::enter`], in the background.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let file = self.open()?;
        Ok(thread::spawn(move || move_into(&file).map(|()| work())))
    }

    fn open(&self) -> Result<File> {
        let path = self.path();
        File::open(&path).with_context(|| format!("open {}", path.display()))
    }
}

fn move_into(file: &File) -> Result<()> {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .context("enter a network namespace (root is needed)")
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes one by name; it may be gone.
pub(super) fn remove(name: &str) {
    let _gone = command::shell("ip", &format!("netns del {name}"));
}
