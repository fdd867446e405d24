//! The kernel of this node, as the reconciler sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    addresses,
    bpf::{self, Bpf, BpfError, Pinned},
    endpoint_link, firewall, links, neighbours, routes, rtnl, sysctl, xfrm,
};
use crate::{
    dataplane::{
        desired::{DataPlane, Settings},
        key_id::KeyId,
        objects::{Features, Objects, UnderlayFacts},
        reconcile::Kernel,
        step::Step,
    },
    state::{StateError, original_sysctls::OriginalSysctls, used_keys::UsedKeys},
};

/// Where a node keeps what is not in the kernel, and its pins.
#[derive(Debug, Clone)]
pub struct Directories {
    pub pins: PathBuf,
    pub state: PathBuf,
    pub run: PathBuf,
}

/// An interface of the kernel that refused. Each error says what was attempted and what helps.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Rtnl(#[from] rtnl::Error),
    #[error(transparent)]
    Links(#[from] links::Error),
    #[error(transparent)]
    Addresses(#[from] addresses::Error),
    #[error(transparent)]
    Routes(#[from] routes::Error),
    #[error(transparent)]
    Neighbours(#[from] neighbours::Error),
    #[error(transparent)]
    Xfrm(#[from] xfrm::Error),
    #[error(transparent)]
    Firewall(#[from] firewall::Error),
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    #[error(transparent)]
    Endpoint(#[from] endpoint_link::Error),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("there is no device {0}: it went away meanwhile, or was never created")]
    NoDevice(String),
    #[error(
        "nothing was installed: the ledger of used keys was not written, for a key before this one"
    )]
    Unrecorded,
    #[error("the programs are not loaded: the step that loads them failed, or this is a look only")]
    NotLoaded,
    #[error(
        "read /proc/net/udp: {source}; mount /proc, or leave esp_in_udp_port out of the settings"
    )]
    UdpSockets { source: std::io::Error },
    #[error("sysctl {0} does not exist: its device or a kernel feature is missing")]
    NoSysctl(String),
}

/// The programs and maps, by what this process may do with them.
#[derive(Debug)]
pub(super) enum Programs {
    None,
    /// To look at.
    Pinned(Box<Pinned>),
    /// To change.
    Owned(Box<Bpf>),
}

impl Programs {
    pub(super) fn pinned(&self) -> Option<&Pinned> {
        match self {
            Self::None => None,
            Self::Pinned(pinned) => Some(pinned),
            Self::Owned(bpf) => Some(bpf),
        }
    }
}

/// The kernel of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Host {
    pub(super) directories: Directories,
    pub(super) rtnl: rtnl::Handle,
    pub(super) xfrm: xfrm::Handle,
    pub(super) firewall: firewall::View,
    /// By other settings of data planes applied before: its objects are ours.
    pub(super) xfrm_before: Vec<xfrm::Handle>,
    pub(super) programs: Programs,
    pub(super) ledger: UsedKeys,
    pub(super) originals: OriginalSysctls,
    pub(super) features: Option<Features>,
    /// Whether looking may load kernel modules.
    pub(super) load_modules: bool,
    pub(super) events_size: u32,
    /// Names by index at the last look: entries of devices that are gone are deleted by index.
    pub(super) devices: BTreeMap<u32, String>,
    /// Of a look that is not done at one go.
    pub(super) seen: endpoint_link::Seen,
}

impl Host {
    /// Opens the namespace of the calling thread to look only.
    ///
    /// `settings` tell which objects are ours; `before` those of data planes applied before.
    pub fn open(
        directories: Directories,
        settings: &Settings,
        before: &[Settings],
    ) -> Result<Self, HostError> {
        let programs = match Pinned::open(&directories.pins)? {
            Some(pinned) => Programs::Pinned(Box::new(pinned)),
            None => Programs::None,
        };
        let ours = xfrm::Ownership::of(settings);
        let xfrm_before = before
            .iter()
            .map(xfrm::Ownership::of)
            .filter(|before| *before != ours)
            .map(xfrm::Handle::open)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            rtnl: rtnl::Handle::open()?,
            xfrm: xfrm::Handle::open(ours)?,
            xfrm_before,
            firewall: firewall::View::default(),
            programs,
            ledger: UsedKeys::new(&directories.state),
            originals: OriginalSysctls::new(&directories.run),
            features: None,
            load_modules: false,
            events_size: settings.map_sizes.events,
            devices: BTreeMap::new(),
            seen: endpoint_link::Seen::default(),
            directories,
        })
    }

    /// Keys come from a cluster's epochs, and not from a file, from now on.
    pub const fn keys_are_of_epochs(&mut self) {
        self.ledger.are_of_epochs();
    }

    /// No SA of an epoch that was in use is wanted any longer.
    pub fn end_epoch(&self) -> Result<(), HostError> {
        Ok(self.ledger.end_epoch()?)
    }

    /// Takes over the programs that are there, so that this process alone may change them. There may
    /// be none: then a step loads them.
    pub fn take_over(&mut self) -> Result<(), HostError> {
        self.load_modules = true;
        if let Programs::Pinned(pinned) = &self.programs {
            let sizes = super::observe::map_sizes(pinned, self.events_size);
            self.programs = Programs::None;
            let bpf = Bpf::load(&self.directories.pins, &sizes)?;
            self.programs = Programs::Owned(Box::new(bpf));
        }
        Ok(())
    }

    /// The programs and maps, if they are loaded.
    pub fn pinned(&self) -> Option<&Pinned> {
        self.programs.pinned()
    }

    pub fn xfrm(&self) -> &xfrm::Handle {
        &self.xfrm
    }

    pub fn rtnl(&self) -> &rtnl::Handle {
        &self.rtnl
    }

    /// Removes pins that cannot be taken over, with what they attach.
    pub fn remove_pins(&mut self) -> Result<(), HostError> {
        self.programs = Programs::None;
        Ok(bpf::clear(&self.directories.pins)?)
    }
}

impl Kernel for Host {
    type Error = HostError;

    async fn facts(&mut self, desired: &DataPlane) -> Result<UnderlayFacts, HostError> {
        super::facts::gather(self, desired).await
    }

    async fn observe(&mut self) -> Result<Objects, HostError> {
        super::observe::observe(self, &Objects::default()).await
    }

    async fn observe_beside(&mut self, known: &Objects) -> Result<Objects, HostError> {
        super::observe::observe(self, known).await
    }

    fn used_keys(&mut self) -> Result<BTreeSet<KeyId>, HostError> {
        Ok(self.ledger.read()?)
    }

    async fn execute(&mut self, step: &Step) -> Result<(), HostError> {
        super::execute::execute(self, step).await
    }

    async fn execute_batch(&mut self, steps: &[Step]) -> Vec<Result<(), HostError>> {
        super::execute::execute_batch(self, steps).await
    }
}
