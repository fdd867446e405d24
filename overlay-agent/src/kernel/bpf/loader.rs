//! Loading a data plane, or taking over the one that is there.

use std::{
    collections::BTreeSet,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapInfo, MapType},
    programs::ProgramInfo,
};
use aya_obj::Object;
use overlay_ebpf::abi::map;
use sha2::{Digest as _, Sha256};

use super::{
    Bpf,
    attach::TcHook,
    error::BpfError,
    hook::PROGRAMS,
    lock::Lock,
    map_spec::{self, MapSpec},
    pin_root::{self, PinRoot},
    pinned::{self, Pinned},
    probe, sys, verify,
};
use crate::dataplane::desired::MapSizes;

/// The ring buffer of programs that log: aya's, not of our ABI, and not pinned. It lives and is
/// found with its programs.
const LOG_MAP: &str = "AYA_LOGS";

/// How to load a data plane.
#[derive(Debug, Clone)]
pub struct Loader<'a> {
    root: PathBuf,
    sizes: MapSizes,
    object: Option<&'a [u8]>,
    tc: TcHook,
    patience: Duration,
}

impl<'a> Loader<'a> {
    /// Loads the object in this binary to a pin directory.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            sizes: MapSizes::default(),
            object: crate::bpf_object::BPF_OBJECT,
            tc: TcHook::Auto,
            patience: Duration::from_secs(5),
        }
    }

    /// Entries of the maps.
    pub fn sizes(mut self, sizes: MapSizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// Another object than the one in this binary; aligned to four bytes.
    pub fn object(mut self, object: &'a [u8]) -> Self {
        self.object = Some(object);
        self
    }

    /// How TC programs are attached.
    pub fn tc_hook(mut self, tc: TcHook) -> Self {
        self.tc = tc;
        self
    }

    /// How long to wait for another process that is changing the data plane.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Loads, pins and returns the data plane. One that is there already is taken over: its maps
    /// stay, and its programs are replaced where they are attached, without a lost packet. If
    /// anything is wrong with it, nothing is changed.
    ///
    /// An interrupted load is completed by the next one.
    pub fn load(self) -> Result<Bpf, BpfError> {
        let bytes = self.object.ok_or(BpfError::NoObject)?;
        let object = Object::parse(bytes).map_err(|error| BpfError::Object(error.to_string()))?;
        let specs = map_spec::specs(&object, &self.sizes)?;
        let tcx = match self.tc {
            TcHook::Auto => probe::supports_tcx()?,
            TcHook::Tcx => true,
            TcHook::Clsact => false,
        };

        let pins = PinRoot::new(&self.root);
        let lock = Lock::acquire(&self.root, self.patience)?;
        pins.mount()?;
        pins.check_owner()?;
        pins.check_version()?;
        let pinned = check_pinned_maps(&pins, &specs)?;
        let name = name_of(bytes);
        let whole = pinned.len() == specs.len()
            && PROGRAMS
                .iter()
                .all(|program| pins.program(program).exists());
        // Verifying the same programs again would take most of the time that a repair has.
        if !(whole && pins.has_object(&name)) {
            load_and_pin(bytes, &specs, &pins, &pinned)?;
            pins.set_object(Some(&name))?;
        }

        let bpf = Bpf {
            pinned: Pinned::from_pins(pins)?,
            tcx,
            lock,
        };
        bpf.take_over()?;
        Ok(bpf)
    }
}

fn load_and_pin(
    bytes: &[u8],
    specs: &[MapSpec],
    pins: &PinRoot,
    pinned: &[&'static str],
) -> Result<(), BpfError> {
    let mut loader = EbpfLoader::new();
    // No program of ours is relocated by the kernel's types (CO-RE), and reading them takes longer than
    // all else that loading does.
    loader.btf(None);
    for spec in specs.iter().filter(|spec| spec.setting.is_some()) {
        loader.map_max_entries(spec.name, spec.max_entries);
    }
    for name in pinned {
        loader.map_pin_path(name, pins.map(name));
    }
    // Whatever the verifier refuses, it refuses before anything is pinned.
    let mut ebpf = loader.load(bytes).map_err(BpfError::Load)?;
    verify::load_programs(&mut ebpf)?;

    pins.create()?;
    pins.set_object(None)?;
    pin_maps(&ebpf, pins, pinned)?;
    pin_programs(&ebpf, pins)
}

/// The name of an object: its SHA-256, hexadecimal.
fn name_of(object: &[u8]) -> String {
    Sha256::digest(object)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Checks the maps that are there and returns their names. aya opens a pinned map without a look.
fn check_pinned_maps(pins: &PinRoot, specs: &[MapSpec]) -> Result<Vec<&'static str>, BpfError> {
    let mut pinned = Vec::new();
    for spec in specs {
        let path = pins.map(spec.name);
        if path.exists() {
            let info = MapInfo::from_pin(&path).map_err(|source| BpfError::Map {
                attempt: "open the pin of",
                map: spec.name,
                source,
            })?;
            spec.check(&info)?;
            pinned.push(spec.name);
        }
    }
    Ok(pinned)
}

fn pin_maps(ebpf: &Ebpf, pins: &PinRoot, pinned: &[&str]) -> Result<(), BpfError> {
    for name in map::ALL {
        if pinned.contains(&name) {
            continue;
        }
        let path = pins.map(name);
        ebpf.map(name)
            .ok_or(BpfError::Missing { kind: "map", name })?
            .pin(&path)
            .map_err(|error| {
                BpfError::pin("pin a map at", &path)(std::io::Error::other(error.to_string()))
            })?;
    }
    Ok(())
}

/// Pins the programs, each atomically in place of another version. A version that is the same
/// stays: then a take-over changes nothing that anybody could see.
fn pin_programs(ebpf: &Ebpf, pins: &PinRoot) -> Result<(), BpfError> {
    let mut programs = Vec::new();
    let mut same = true;
    for name in PROGRAMS {
        let program = ebpf.program(name).ok_or(BpfError::Missing {
            kind: "program",
            name,
        })?;
        let failed = |source| BpfError::Program {
            attempt: "look at",
            program: name,
            source,
        };
        let info = program.info().map_err(failed)?;
        same &= ProgramInfo::from_pin(pins.program(name)).is_ok_and(|old| is_same(&old, &info));
        programs.push((name, pinned::fd(program).map_err(failed)?));
    }
    if same {
        return Ok(());
    }
    for (name, fd) in programs {
        let path = pins.program(name);
        let new = pins.program(&format!("{name}_new"));
        // Left by an interrupted load.
        pin_root::unpin(&new)?;
        sys::object_pin(fd.as_fd(), &new).map_err(BpfError::pin("pin a program at", &new))?;
        std::fs::rename(&new, &path).map_err(BpfError::pin("pin a program at", &path))?;
    }
    Ok(())
}

/// Whether two programs have the same instructions, the same maps and the same constants.
fn is_same(old: &ProgramInfo, new: &ProgramInfo) -> bool {
    old.tag() == new.tag()
        && map_ids(old)
            .zip(map_ids(new))
            .and_then(|(old, new)| same_constants(&old, &new))
            .unwrap_or(false)
}

fn map_ids(program: &ProgramInfo) -> Option<BTreeSet<u32>> {
    Some(program.map_ids().ok().flatten()?.into_iter().collect())
}

/// Whether the maps that two programs do not share hold the same: the compiler's constants
/// (`.rodata`) and the log lines, of which every load makes its own.
fn same_constants(old: &BTreeSet<u32>, new: &BTreeSet<u32>) -> Option<bool> {
    let read = |ids: &BTreeSet<u32>, others: &BTreeSet<u32>| {
        let mut sections = ids
            .difference(others)
            .map(|&id| {
                let info = MapInfo::from_id(id).ok()?;
                if info.name() == LOG_MAP.as_bytes() {
                    // What it holds is on its way to a reader, who stays with it.
                    return Some((info.name().to_vec(), Vec::new()));
                }
                let mut data = vec![0; info.value_size() as usize];
                if info.max_entries() != 1 || !matches!(info.map_type(), Ok(MapType::Array)) {
                    return None;
                }
                sys::array_read(info.fd().ok()?.as_fd(), 0, &mut data).ok()?;
                Some((info.name().to_vec(), data))
            })
            .collect::<Option<Vec<_>>>()?;
        sections.sort();
        Some(sections)
    };
    Some(read(old, new)? == read(new, old)?)
}
