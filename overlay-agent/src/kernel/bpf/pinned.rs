//! A loaded data plane, as its pins show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::{Program as AyaProgram, ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use overlay_ebpf::abi::{Direction, DropReason, PacketCount, PeerKey, PeerStats, program};

use super::{
    clsact,
    counters::DropCounters,
    error::{BpfError, ForeignProgram},
    events::Events,
    hook::{self, Hook, PROGRAMS, XdpMode},
    maps::{Maps, MapsDigest, ObservedMaps},
    netlink::Netlink,
    pin_root::{self, PinRoot},
    sys::{self, LinkInfo},
};
use crate::dataplane::objects::{Attachment, Program};

/// A loaded data plane, to look at. [`super::Bpf`] is one that may be changed.
#[derive(Debug)]
pub struct Pinned {
    pub(super) pins: PinRoot,
    pub(super) maps: Maps,
    pub(super) programs: BTreeMap<&'static str, Loaded>,
    drops: DropCounters,
}

/// A program in the kernel.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) program: AyaProgram,
    pub(super) id: u32,
}

/// A pinned link.
#[derive(Debug)]
pub(super) struct PinnedLink {
    pub(super) path: PathBuf,
    /// Name of the program it was made for; the link may run an older version.
    pub(super) program: &'static str,
    pub(super) fd: OwnedFd,
    pub(super) info: LinkInfo,
}

/// A look at what is attached, link by link.
struct Look {
    netlink: Netlink,
    names: BTreeMap<u32, String>,
    links: std::vec::IntoIter<PathBuf>,
    found: BTreeSet<Attachment>,
}

impl Look {
    fn insert(&mut self, program: Program, ifindex: u32) {
        if let Some(name) = self.names.get(&ifindex) {
            self.found.insert(Attachment {
                program,
                device: name.clone(),
            });
        }
    }

    /// Looks at so many more of the links; whether some are left.
    fn go_on(&mut self, pinned: &Pinned, at_most: usize) -> Result<bool, BpfError> {
        let paths: Vec<PathBuf> = self.links.by_ref().take(at_most).collect();
        for path in paths {
            let Some(link) = link_at(path)? else {
                continue;
            };
            let Some(program) = hook::tc_program(link.program) else {
                continue;
            };
            if link.info.program == pinned.id(link.program)?
                && self.names.contains_key(&link.info.ifindex)
                && in_chain(&link, hook::hook(program))?
            {
                self.insert(program, link.info.ifindex);
            }
        }
        Ok(self.links.len() > 0)
    }

    /// Those without links.
    fn end(mut self, pinned: &Pinned) -> Result<BTreeSet<Attachment>, BpfError> {
        for attached in clsact::list(&mut self.netlink)? {
            if attached.filter.program == pinned.id(hook::name(attached.program))? {
                self.insert(attached.program, attached.ifindex);
            }
        }
        Ok(self.found)
    }
}

impl Pinned {
    /// Opens the data plane at a pin directory without changing anything; `None` if there is none.
    pub fn open(root: &Path) -> Result<Option<Self>, BpfError> {
        let pins = PinRoot::new(root);
        pins.check_owner()?;
        pins.check_version()?;
        if !pins.maps().exists() {
            return Ok(None);
        }
        Self::from_pins(pins).map(Some)
    }

    pub(super) fn from_pins(pins: PinRoot) -> Result<Self, BpfError> {
        let programs = PROGRAMS
            .into_iter()
            .map(|name| Ok((name, open_program(&pins, name)?)))
            .collect::<Result<_, BpfError>>()?;
        Ok(Self {
            maps: Maps::open(&pins)?,
            drops: DropCounters::open(&pins)?,
            programs,
            pins,
        })
    }

    /// The pin directory.
    pub fn root(&self) -> &Path {
        self.pins.root()
    }

    /// The maps, to read.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Everything the maps hold but counters.
    pub fn observe_maps(&self) -> Result<ObservedMaps, BpfError> {
        self.maps.observe()
    }

    /// What stands for all entries of the maps.
    pub fn digest_maps(&self) -> Result<MapsDigest, BpfError> {
        self.maps.digest()
    }

    /// Packets and bytes dropped since the load, by reason and place.
    pub fn drops(&self) -> Result<BTreeMap<(DropReason, Direction), PacketCount>, BpfError> {
        self.drops.read()
    }

    /// Frames and bytes exchanged with each peer since it was added.
    pub fn peer_stats(&self) -> Result<BTreeMap<PeerKey, PeerStats>, BpfError> {
        self.maps.peers.stats()
    }

    /// Sampled drops as they happen; must be called within a tokio runtime.
    pub fn events(&self) -> Result<Events, BpfError> {
        Events::open(&self.pins)
    }

    /// A program, by its name in [`overlay_ebpf::abi::program`], for `BPF_PROG_TEST_RUN`.
    pub fn program_mut(&mut self, name: &str) -> Option<&mut AyaProgram> {
        self.programs
            .get_mut(name)
            .map(|loaded| &mut loaded.program)
    }

    /// The kernel's id of a program.
    pub fn program_id(&self, name: &str) -> Option<u32> {
        self.programs.get(name).map(|loaded| loaded.id)
    }

    /// What runs on the devices of the current network namespace. Only the current version of a
    /// program counts.
    pub fn observe_attachments(&self) -> Result<BTreeSet<Attachment>, BpfError> {
        let mut look = self.look()?;
        while look.go_on(self, usize::MAX)? {}
        look.end(self)
    }

    /// As [`Self::observe_attachments`]; lets other work of the thread in between every few
    /// milliseconds.
    pub async fn watch_attachments(&self) -> Result<BTreeSet<Attachment>, BpfError> {
        /// Some three system calls each.
        const LINKS: usize = 64;
        let mut look = self.look()?;
        while look.go_on(self, LINKS)? {
            tokio::task::yield_now().await;
        }
        look.end(self)
    }

    fn look(&self) -> Result<Look, BpfError> {
        let mut netlink = self.netlink()?;
        let devices = netlink
            .devices()
            .map_err(BpfError::netlink("list the devices"))?;
        let mut look = Look {
            netlink,
            names: devices
                .iter()
                .map(|device| (device.ifindex, device.name.clone()))
                .collect(),
            links: pin_root::entries(&self.pins.links())?.into_iter(),
            found: BTreeSet::new(),
        };
        let xdp = self.id(program::UNDERLAY_RX_XDP)?;
        for device in &devices {
            for (mode, _) in device.xdp.iter().filter(|(_, id)| *id == xdp) {
                let program = match mode {
                    XdpMode::Native => Program::UnderlayRxXdpNative,
                    XdpMode::Generic => Program::UnderlayRxXdpGeneric,
                };
                look.insert(program, device.ifindex);
            }
        }
        Ok(look)
    }

    /// Programs of others that run **before** ours at the same place under TCX. One that answers
    /// `TC_ACT_OK` ends the chain, and ours does not run.
    pub fn programs_before(
        &self,
        attachment: &Attachment,
        ifindex: u32,
    ) -> Result<Vec<ForeignProgram>, BpfError> {
        let hook = hook::hook(attachment.program);
        let ours = self.id(hook::name(attachment.program))?;
        if matches!(hook, Hook::Xdp(_)) {
            return Ok(Vec::new());
        }
        let chain = match sys::tcx_chain(ifindex, hook) {
            Ok(chain) => chain,
            // No TCX before 6.6.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Vec::new(),
            Err(source) => {
                return Err(BpfError::Attach {
                    attempt: "look for",
                    program: hook::name(attachment.program),
                    device: attachment.device.clone(),
                    ifindex,
                    hook: hook.name(),
                    source,
                    hint: None,
                });
            }
        };
        Ok(chain
            .into_iter()
            .take_while(|member| member.program != ours)
            .map(|member| foreign_program(member.program))
            .collect())
    }

    /// The pinned links, also those whose device is gone.
    pub(super) fn links(&self) -> Result<Vec<PinnedLink>, BpfError> {
        let mut links = Vec::new();
        for path in pin_root::entries(&self.pins.links())? {
            links.extend(link_at(path)?);
        }
        Ok(links)
    }

    pub(super) fn id(&self, name: &'static str) -> Result<u32, BpfError> {
        self.loaded(name).map(|loaded| loaded.id)
    }

    pub(super) fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, BpfError> {
        fd(&self.loaded(name)?.program)
            .map(ProgramFd::as_fd)
            .map_err(|source| BpfError::Program {
                attempt: "use",
                program: name,
                source,
            })
    }

    fn loaded(&self, name: &'static str) -> Result<&Loaded, BpfError> {
        self.programs.get(name).ok_or(BpfError::Missing {
            kind: "program",
            name,
        })
    }

    pub(super) fn netlink(&self) -> Result<Netlink, BpfError> {
        Netlink::open().map_err(BpfError::netlink("open an rtnetlink socket"))
    }
}

/// The descriptor of one of our programs.
pub(super) fn fd(program: &AyaProgram) -> Result<&ProgramFd, ProgramError> {
    match program {
        AyaProgram::SchedClassifier(program) => program.fd(),
        AyaProgram::Xdp(program) => program.fd(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn open_program(pins: &PinRoot, name: &'static str) -> Result<Loaded, BpfError> {
    let path = pins.program(name);
    if !path.exists() {
        return Err(BpfError::NotPinned {
            kind: "program",
            name,
            path,
        });
    }
    let program = if name == program::UNDERLAY_RX_XDP {
        Xdp::from_pin(&path, XdpAttachType::Interface).map(AyaProgram::Xdp)
    } else {
        SchedClassifier::from_pin(&path).map(AyaProgram::SchedClassifier)
    };
    let failed = |source| BpfError::Program {
        attempt: "open the pin of",
        program: name,
        source,
    };
    let program = program.map_err(failed)?;
    let id = program.info().map_err(failed)?.id();
    Ok(Loaded { program, id })
}

/// Opens the link at a path below the pins; `None` if there is none of ours.
fn link_at(path: PathBuf) -> Result<Option<PinnedLink>, BpfError> {
    let program = path
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.rsplit_once('-'))
        .and_then(|(program, _)| PROGRAMS.into_iter().find(|known| *known == program));
    match program {
        Some(program) => open_link(path, program),
        None => Ok(None),
    }
}

/// Opens a pinned link; `None` if there is none.
pub(super) fn open_link(
    path: PathBuf,
    program: &'static str,
) -> Result<Option<PinnedLink>, BpfError> {
    let fd = match sys::object_get(&path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BpfError::pin("open the pin", path)(error)),
    };
    let info = sys::link_info(fd.as_fd())
        .and_then(|info| info.ok_or(io::Error::other("not an XDP or TCX link")))
        .map_err(BpfError::pin("ask for the link at", &path))?;
    Ok(Some(PinnedLink {
        path,
        program,
        fd,
        info,
    }))
}

/// Whether a link is on a device of this namespace: another one can have the same index.
pub(super) fn in_chain(link: &PinnedLink, hook: Hook) -> Result<bool, BpfError> {
    match sys::tcx_chain(link.info.ifindex, hook) {
        Ok(chain) => Ok(chain.iter().any(|member| member.link == link.info.id)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(BpfError::pin("look for the link at", &link.path)(error)),
    }
}

/// Names a program by its id.
pub(super) fn foreign_program(id: u32) -> ForeignProgram {
    let name = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .map(|info| String::from_utf8_lossy(info.name()).into_owned())
        .unwrap_or_default();
    ForeignProgram { id, name }
}
