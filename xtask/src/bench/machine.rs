//! What it was measured on.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::command;
use crate::workspace::Workspace;

/// The machine and the sources.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cpus: usize,
    pub memory_gib: u64,
    /// `uname -r`.
    pub kernel: String,
    pub qemu: String,
    /// The commit, with `+` if the sources differ from it.
    pub commit: String,
    /// Load average of the last minute at the start: above zero, others were at work too.
    pub load_average: f64,
    /// UTC.
    pub date: String,
}

/// Asks the system; what it does not say stays empty.
pub fn describe(workspace: &Workspace) -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let said = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&workspace.root);
        let text = command::capture(&mut command).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: u64 = memory
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let changed = if said("git", &["status", "--porcelain"]).is_empty() {
        ""
    } else {
        "+"
    };
    Ok(Machine {
        processor: field(&read("/proc/cpuinfo"), "model name"),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: kib.div_ceil(1 << 20),
        kernel: said("uname", &["-r"]),
        qemu: said("qemu-system-x86_64", &["--version"]),
        commit: format!(
            "{}{changed}",
            said("git", &["rev-parse", "--short=12", "HEAD"])
        ),
        load_average: read("/proc/loadavg")
            .split_whitespace()
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0.0),
        date: said("date", &["--utc", "+%Y-%m-%d %H:%M"]),
    })
}
