//! Whether guests run on the processor or are emulated. `/dev/kvm` can exist and
//! yet be unable to run a stock guest, so it is tried, with a time limit.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Options;
use super::kernel::Image;
use super::machine::{Machine, Parts};
use crate::command;
use crate::say;
use crate::workspace::write_if_changed;

/// How long a guest on KVM may take to say that it runs; it takes about one
/// second where KVM works.
const PROBE_LIMIT: Duration = Duration::from_secs(8);

/// QEMU 7.2 emulates cmpxchg16b wrongly with several CPUs: the guest's allocator
/// crashes. And it translates `rep stosb` byte by byte, which a guest that is told
/// of fast string instructions clears every page with: without, forks and page
/// faults take half the time.
const EMULATED_CPU: &str = "max,-cx16,-erms,-fsrm";

/// How the guest's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By QEMU's translator.
    Tcg,
}

impl Accel {
    /// Chooses for this machine. The result of the trial is kept in `dir` until
    /// the machine is booted anew or QEMU changes.
    pub fn choose(options: &Options, image: &Image, initramfs: &Path, dir: &Path) -> Result<Self> {
        if options.icount || fs::File::options().write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let qemu = command::capture(Command::new("qemu-system-x86_64").arg("--version"))
            .context("ask QEMU for its version")?;
        let key = format!("{}\n{qemu}", boot.trim());
        let memo = dir.join("accelerator");
        if let Ok(text) = fs::read_to_string(&memo)
            && let Some(verdict) = text.strip_suffix(&key)
        {
            return Ok(if verdict == "kvm\n" {
                Self::Kvm
            } else {
                Self::Tcg
            });
        }
        say::note("trying whether /dev/kvm runs a guest");
        let (accel, verdict) = if probe(options, image, initramfs)? {
            (Self::Kvm, "kvm\n")
        } else {
            say::note("it does not: guests are emulated");
            (Self::Tcg, "tcg\n")
        };
        write_if_changed(&memo, format!("{verdict}{key}").as_bytes())?;
        Ok(accel)
    }

    /// QEMU's arguments.
    pub fn arguments(self, options: &Options) -> Vec<String> {
        let smp = options.cpus.to_string();
        let arguments: &[&str] = match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host", "-smp", &smp],
            Self::Tcg if options.icount => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,align=off,sleep=off",
                "-cpu",
                EMULATED_CPU,
                "-smp",
                "1",
            ],
            Self::Tcg => &[
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                EMULATED_CPU,
                "-smp",
                &smp,
            ],
        };
        arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect()
    }
}

fn probe(options: &Options, image: &Image, initramfs: &Path) -> Result<bool> {
    let mut machine = Machine::start(
        options,
        &Parts {
            image,
            initramfs,
            accel: Accel::Kvm,
            kernel_arguments: "xtask.probe",
            shares: &[],
            ports: &[],
            terminal: false,
        },
    )?;
    machine.wait(PROBE_LIMIT);
    Ok(machine.last_words().contains("xtask: probe ok"))
}
