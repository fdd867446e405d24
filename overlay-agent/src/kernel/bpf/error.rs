use std::{fmt, io, path::PathBuf, time::Duration};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use super::netlink::NetlinkError;

/// What went wrong with the BPF side of the data plane.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// `build.rs` found no object to embed.
    #[error("this agent was built without the BPF programs: run `cargo xtask build`")]
    NoObject,

    /// The embedded bytes are no BPF object.
    #[error("the BPF object cannot be read: {0}")]
    Object(String),

    /// The object and the agent are of different builds.
    #[error(
        "the BPF object has no {kind} `{name}`: build agent and object from one source with `cargo xtask build`"
    )]
    Missing {
        /// "map" or "program".
        kind: &'static str,
        name: &'static str,
    },

    /// The object's idea of a map differs from the agent's.
    #[error(
        "map `{map}` of the BPF object has {property} {found}, this agent's ABI has {wanted}: build \
         agent and object from one source with `cargo xtask build`"
    )]
    ObjectMap {
        map: &'static str,
        property: &'static str,
        found: String,
        wanted: String,
    },

    /// Another process works on the same pins.
    #[error(
        "the data plane at {} is managed by another process{}: waited {waited:?} for {}; stop that \
         process or wait for it",
        root.display(), holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), lock.display()
    )]
    Locked {
        root: PathBuf,
        lock: PathBuf,
        holder: Option<u32>,
        waited: Duration,
    },

    /// A file or directory operation failed.
    #[error("{attempt} {}: {source}", path.display())]
    Io {
        attempt: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    /// Pins can live on a BPF file system only.
    #[error(
        "{} is not on a BPF file system: choose a directory below /sys/fs/bpf, or mount one there \
         (`mount -t bpf bpf DIRECTORY`)",
        .0.display()
    )]
    NotBpffs(PathBuf),

    /// Somebody else could change the pins.
    #[error("{} belongs to user {uid} with mode {mode:o}: pins must be writable by this user alone; remove it or change its owner and mode", path.display())]
    UnsafeOwner { path: PathBuf, uid: u32, mode: u32 },

    /// An agent of another map ABI left its pins.
    #[error(
        "{} holds the data plane of ABI version {found}, this agent speaks version {wanted}: run the \
         agent of that version, or remove that data plane with `overlay dataplane clear` (its traffic \
         stops)",
        root.display()
    )]
    OtherAbi {
        root: PathBuf,
        found: String,
        wanted: u32,
    },

    /// The data plane is not there, or an agent was interrupted while it was loading it.
    #[error("no pinned {kind} `{name}` at {}: load the data plane with `overlay dataplane apply`", path.display())]
    NotPinned {
        kind: &'static str,
        name: &'static str,
        path: PathBuf,
    },

    /// A pinned map cannot be taken over.
    #[error(
        "pinned map `{map}` has {property} {found}, wanted is {wanted}: {remedy}, or remove the data \
         plane with `overlay dataplane clear` and apply again (its traffic stops meanwhile)"
    )]
    MapMismatch {
        map: &'static str,
        property: &'static str,
        found: String,
        wanted: String,
        remedy: String,
    },

    /// The object could not be loaded, before any program was verified.
    #[error("load the BPF object: {}", chain(.0))]
    Load(#[source] EbpfError),

    /// The verifier refused a program.
    #[error("the kernel refused program `{program}`: {source}; end of the verifier's log:\n{log}")]
    Verifier {
        program: &'static str,
        source: io::Error,
        /// The last lines of the log.
        log: String,
    },

    /// An operation on a program failed.
    #[error("{attempt} program `{program}`: {}", chain(source))]
    Program {
        attempt: &'static str,
        program: &'static str,
        source: ProgramError,
    },

    /// An operation on a pinned object failed.
    #[error("{attempt} {}: {source}", path.display())]
    Pin {
        attempt: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    /// A program could not be put on a device.
    #[error("{attempt} `{program}` on {device} (ifindex {ifindex}, {hook}): {source}{}", hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Attach {
        /// "attach", "replace", "detach".
        attempt: &'static str,
        program: &'static str,
        device: String,
        ifindex: u32,
        hook: &'static str,
        source: io::Error,
        hint: Option<&'static str>,
    },

    /// The device runs somebody else's XDP program.
    #[error(
        "{device} already runs XDP program {program} in {mode} mode: detach it with `ip link set dev \
         {device} xdp off` (or stop what attached it), or set `xdp = off`"
    )]
    ForeignXdp {
        device: String,
        program: ForeignProgram,
        mode: &'static str,
    },

    /// The pin of the device's link is of a device with the same index elsewhere.
    #[error(
        "the link at {} belongs to a device of another network namespace: one data plane per namespace \
         and pin directory",
        pin.display()
    )]
    OtherNamespace { pin: PathBuf },

    /// rtnetlink answered with an error.
    #[error("{attempt}: {source}")]
    Netlink {
        attempt: String,
        source: NetlinkError,
    },

    /// The map has no room.
    #[error(
        "map `{map}` is full: it has {capacity} entries; raise `map_sizes.{setting}`, then `overlay \
         dataplane clear` and apply again"
    )]
    MapFull {
        map: &'static str,
        capacity: u32,
        setting: &'static str,
    },

    /// A map operation failed.
    #[error("{attempt} map `{map}`: {}", chain(source))]
    Map {
        attempt: &'static str,
        map: &'static str,
        source: MapError,
    },

    /// An entry holds bytes that are no value of its type.
    #[error(
        "map `{map}` holds an invalid {part} ({reason}) at key {key}: something else wrote to it; \
         delete the entry with bpftool or run `overlay dataplane clear`"
    )]
    InvalidEntry {
        map: &'static str,
        /// "key" or "value".
        part: &'static str,
        /// The key's bytes in hexadecimal.
        key: String,
        reason: String,
    },

    /// The map was written to faster than it could be read.
    #[error("map `{0}` changed all the time while it was read: try again")]
    Unsteady(&'static str),

    /// Feature `aya-log` of `overlay-ebpf` was off.
    #[error(
        "the programs below {} were built without logging: build with `cargo xtask build --log` and \
         apply again with that `overlay` (sampled drops are in `overlay dataplane events`)",
        .0.display()
    )]
    NoLogs(PathBuf),

    /// A record of `events` is no drop event.
    #[error("`events` holds a record that is no drop event ({0})")]
    InvalidEvent(String),

    /// A feature could not be probed.
    #[error("probe for {feature}: {source}")]
    Probe {
        feature: &'static str,
        source: io::Error,
    },
}

impl BpfError {
    pub(super) fn io(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            attempt,
            path,
            source,
        }
    }

    pub(super) fn netlink(attempt: impl Into<String>) -> impl FnOnce(NetlinkError) -> Self {
        let attempt = attempt.into();
        move |source| Self::Netlink { attempt, source }
    }

    pub(super) fn pin(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Pin {
            attempt,
            path,
            source,
        }
    }
}

/// A program that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignProgram {
    /// The kernel's id, as `bpftool prog show id` takes it.
    pub id: u32,
    /// At most 15 characters; empty if its loader gave none.
    pub name: String,
}

impl fmt::Display for ForeignProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "with id {}", self.id)
        } else {
            write!(f, "`{}` (id {})", self.name, self.id)
        }
    }
}

/// aya's errors name their cause in `source` only.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
