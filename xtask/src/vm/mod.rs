//! The test VM: QEMU with a Debian cloud kernel and this machine's own files.
//!
//! ```no_run
//! let mut guest = Guest::boot(&workspace, &Options::new(Kernel::V6_12))?;
//! let status = guest.run(&Job::new(["ip", "link"]), &mut vm::to_our_output)?;
//! ```
//!
//! The guest's root is this machine's root, read-only over virtiofs, with a
//! tmpfs above it for what the guest writes; so every tool of this machine is
//! there, and nothing the guest does stays. Only the target directory (and
//! `--share`) is writable. There is no network to the outside.

mod accel;
mod fstab;
mod guest;
mod initramfs;
mod job;
mod kernel;
mod machine;
mod mirror;
mod modules;
mod share;
mod stream;
mod terminal;
mod verb;

pub use guest::{Guest, Stream, to_our_output};
pub use job::Job;
pub use kernel::{Kernel, fetch};
pub use verb::{Arguments, Choice, interactive, run};

use std::path::PathBuf;
use std::time::Duration;

/// How a guest is booted.
#[derive(Debug, Clone)]
pub struct Options {
    /// The kernel it runs.
    pub kernel: Kernel,
    /// Virtual CPUs. One when `icount` is set.
    pub cpus: u32,
    /// Guest time counts instructions, one per nanosecond: ratios repeat to
    /// about 1 %. Always emulated, always one CPU.
    pub icount: bool,
    /// Memory in MiB.
    pub memory: u32,
    /// Further directories that the guest may write, at the same path.
    pub shares: Vec<PathBuf>,
    /// How long a job may take before the VM is killed.
    pub timeout: Duration,
    /// Whether the guest's console is shown as it comes; it is shown anyway
    /// when the guest dies.
    pub console: bool,
}

impl Options {
    /// One CPU, 2 GiB, ten minutes per job. QEMU 7.2 emulating several CPUs crashes the guest: in
    /// `cmpxchg16b`, and where the kernel patches its own code (static branches).
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            cpus: 1,
            icount: false,
            memory: 2048,
            shares: Vec::new(),
            timeout: Duration::from_secs(600),
            console: false,
        }
    }
}
