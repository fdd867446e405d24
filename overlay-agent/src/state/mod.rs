//! What the agent keeps on disk: used keys for good, the rest until a reboot.

mod atomic_file;
pub mod backup;
pub mod endpoints;
pub mod key_file;
pub mod last_desired;
pub mod manager;
pub mod membership;
pub mod original_sysctls;
mod private_file;
pub mod used_keys;

use std::{io, path::PathBuf};

/// Survives a reboot.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/overlay";
/// Ends with a reboot, as the kernel's objects do.
pub const DEFAULT_RUN_DIR: &str = "/run/overlay";

/// A file of the agent's that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {attempt} {}: {source}", path.display())]
    Io {
        attempt: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{}: {reason}; {remedy}", path.display())]
    Content {
        path: PathBuf,
        reason: String,
        remedy: &'static str,
    },
    #[error(
        "{} holds secrets and others may use it (owner {owner}, mode {mode:04o}): `chown root:root` and `chmod 600` it, and consider the secrets known", path.display()
    )]
    Exposed {
        path: PathBuf,
        owner: u32,
        mode: u32,
    },
}

impl StateError {
    fn io(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            attempt,
            path,
            source,
        }
    }
}
