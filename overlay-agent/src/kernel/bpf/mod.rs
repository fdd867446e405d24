//! The BPF side of the data plane: loading, pinning, taking over, attaching, map access, counters
//! and events.
//!
//! Everything is pinned below one directory, `ROOT/v{ABI}/{maps,progs,links,object}`, so traffic goes on
//! when the agent ends, and the next agent takes it over: maps stay, programs change atomically
//! where they are attached. [`Bpf`] holds a lock on the directory; [`Pinned`] only looks.
//!
//! All calls are synchronous and act on the network namespace of the calling thread.
//!
//! Minimum kernel version: 6.1.

mod attach;
mod clear;
mod clsact;
mod counters;
mod error;
mod events;
mod grace;
mod hook;
mod loader;
mod lock;
#[cfg(feature = "aya-log")]
mod logs;
mod map_spec;
mod maps;
mod netlink;
mod pin_root;
mod pinned;
mod probe;
mod sys;
mod table;
mod verify;

use std::{
    ops::{Deref, DerefMut},
    path::Path,
};

use self::lock::Lock;
#[cfg(feature = "aya-log")]
pub use self::logs::Logs;
pub use self::{
    attach::TcHook,
    clear::clear,
    error::{BpfError, ForeignProgram},
    events::Events,
    grace::settle_soon,
    loader::Loader,
    maps::{ConfigMap, Maps, MapsDigest, ObservedMaps, PeerMap},
    netlink::NetlinkError,
    pin_root::DEFAULT_PIN_ROOT,
    pinned::Pinned,
    probe::{return_to_peer, supports_decap_l3, supports_tcx},
    table::Table,
    verify::{ProgramReport, Verified},
};
use crate::dataplane::desired::MapSizes;

/// A loaded data plane that this process alone may change. It stays when the value is dropped.
#[derive(Debug)]
pub struct Bpf {
    pinned: Pinned,
    /// TCX, or clsact.
    tcx: bool,
    lock: Lock,
}

impl Bpf {
    /// Loads the data plane to a pin directory, usually [`DEFAULT_PIN_ROOT`], or takes over the one
    /// that is there. See [`Loader::load`].
    pub fn load(root: &Path, sizes: &MapSizes) -> Result<Self, BpfError> {
        Loader::new(root).sizes(*sizes).load()
    }

    /// Loads every program of the embedded object into the kernel and unloads it again.
    pub fn verify() -> Result<Vec<Verified>, BpfError> {
        Self::verify_object(crate::bpf_object::BPF_OBJECT.ok_or(BpfError::NoObject)?)
    }

    /// As [`Self::verify`], for another object.
    pub fn verify_object(object: &[u8]) -> Result<Vec<Verified>, BpfError> {
        verify::verify(object)
    }

    /// The maps, to change.
    pub fn maps_mut(&mut self) -> &mut Maps {
        &mut self.pinned.maps
    }

    /// Whether TC programs are attached by TCX, and not by clsact.
    pub fn uses_tcx(&self) -> bool {
        self.tcx
    }

    /// Takes every program off its device and removes every pin.
    pub fn clear(self) -> Result<(), BpfError> {
        let Self { pinned, lock, .. } = self;
        let root = pinned.root().to_path_buf();
        drop(pinned);
        clear::clear_locked(&root, lock)
    }
}

impl Deref for Bpf {
    type Target = Pinned;

    fn deref(&self) -> &Pinned {
        &self.pinned
    }
}

impl DerefMut for Bpf {
    fn deref_mut(&mut self) -> &mut Pinned {
        &mut self.pinned
    }
}
