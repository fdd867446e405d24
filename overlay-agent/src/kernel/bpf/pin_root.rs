//! Where the data plane is pinned: `ROOT/v{ABI}/{maps,progs,links}`, and `ROOT/v{ABI}/object`, the
//! SHA-256 of the object that the programs come from.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use overlay_ebpf::abi::ABI_VERSION;
use rustix::mount::MountFlags;

use super::error::BpfError;

/// The pin directory of a node's data plane. Tests and demos with several nodes on one host give
/// each its own.
pub const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/overlay";

/// The only place where a BPF file system is mounted if there is none.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// A pin directory of this ABI version.
#[derive(Debug, Clone)]
pub(super) struct PinRoot {
    root: PathBuf,
}

impl PinRoot {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.version().join("progs")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// A symbolic link to nowhere whose target names the object of the pinned programs: a BPF file
    /// system holds no other text.
    fn object(&self) -> PathBuf {
        self.version().join("object")
    }

    /// Whether the pinned programs are known to come from the object with this name.
    pub(super) fn has_object(&self, name: &str) -> bool {
        fs::read_link(self.object()).is_ok_and(|target| target == Path::new(name))
    }

    /// Says that the pinned programs come from the object with this name; with `None`, that it is not
    /// known, as while they are replaced.
    pub(super) fn set_object(&self, name: Option<&str>) -> Result<(), BpfError> {
        let path = self.object();
        unpin(&path)?;
        match name {
            Some(name) => {
                std::os::unix::fs::symlink(name, &path).map_err(BpfError::io("create", &path))
            }
            None => Ok(()),
        }
    }

    /// Indices, because names of devices may hold a dot, which bpffs refuses, and change.
    pub(super) fn link(&self, program: &str, ifindex: u32) -> PathBuf {
        self.links().join(format!("{program}-{ifindex}"))
    }

    /// Makes sure that there is a BPF file system below the root.
    pub(super) fn mount(&self) -> Result<(), BpfError> {
        let mut existing = self.root.as_path();
        while !existing.exists() {
            existing = existing
                .parent()
                .ok_or_else(|| BpfError::NotBpffs(self.root.clone()))?;
        }
        if is_bpffs(existing)? {
            return Ok(());
        }
        let mount_point = Path::new(MOUNT_POINT);
        if !self.root.starts_with(mount_point) || is_bpffs(mount_point)? {
            return Err(BpfError::NotBpffs(self.root.clone()));
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("bpf", mount_point, "bpf", flags, c"mode=0700")
            .map_err(|error| BpfError::io("mount a BPF file system on", mount_point)(error.into()))
    }

    /// Creates what is missing of the directories and checks who may write to them.
    pub(super) fn create(&self) -> Result<(), BpfError> {
        for directory in [
            self.root.clone(),
            self.version(),
            self.maps(),
            self.programs(),
            self.links(),
        ] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(BpfError::io("create", &directory))?;
        }
        Ok(())
    }

    /// Refuses a root that another user could have prepared.
    pub(super) fn check_owner(&self) -> Result<(), BpfError> {
        let metadata = match fs::symlink_metadata(&self.root) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(BpfError::io("look at", &self.root)(error)),
        };
        let mode = metadata.mode() & 0o7777;
        if !metadata.is_dir()
            || metadata.uid() != rustix::process::geteuid().as_raw()
            || mode & 0o022 != 0
        {
            return Err(BpfError::UnsafeOwner {
                path: self.root.clone(),
                uid: metadata.uid(),
                mode,
            });
        }
        Ok(())
    }

    /// Refuses pins of an agent with another map ABI.
    pub(super) fn check_version(&self) -> Result<(), BpfError> {
        let others: Vec<_> = versions(&self.root)?
            .into_iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.strip_prefix('v')?.to_owned()))
            .filter(|version| *version != ABI_VERSION.to_string())
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        Err(BpfError::OtherAbi {
            root: self.root.clone(),
            found: others.join(", "),
            wanted: ABI_VERSION,
        })
    }
}

/// The data planes at a root, one per ABI version. Anything else there is not ours to remove, and so
/// is everything on another file system.
pub(super) fn versions(root: &Path) -> Result<Vec<PathBuf>, BpfError> {
    if root.exists() && !is_bpffs(root)? {
        return Err(BpfError::NotBpffs(root.to_path_buf()));
    }
    let is_version = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix('v'))
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    Ok(entries(root)?.into_iter().filter(is_version).collect())
}

fn is_bpffs(path: &Path) -> Result<bool, BpfError> {
    /// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
    const MAGIC: u32 = 0xcafe_4a11;
    rustix::fs::statfs(path)
        .map(|stat| stat.f_type as u32 == MAGIC)
        .map_err(|error| BpfError::io("look at the file system of", path)(error.into()))
}

/// What is in a directory, sorted; nothing if it does not exist.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BpfError::io("list", directory)(error)),
    };
    let mut paths = listing
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(BpfError::io("list", directory))?;
    paths.sort();
    Ok(paths)
}

/// Removes a pin; it may be gone already.
pub(super) fn unpin(path: &Path) -> Result<(), BpfError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BpfError::pin("remove the pin", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_outside_of_any_bpf_file_system_is_refused_and_nothing_is_mounted() {
        let root = PinRoot::new(&std::env::temp_dir().join("overlay-no-bpffs"));
        assert!(matches!(root.mount(), Err(BpfError::NotBpffs(_))));
    }

    #[test]
    fn nothing_outside_of_a_bpf_file_system_is_ever_removed() {
        let root = std::env::temp_dir();
        assert!(matches!(versions(&root), Err(BpfError::NotBpffs(_))));
    }

    #[test]
    fn a_link_pin_has_no_dot_in_its_name() {
        let pin = PinRoot::new(Path::new("/sys/fs/bpf/overlay")).link("underlay_audit", 17);
        assert_eq!(
            pin,
            Path::new("/sys/fs/bpf/overlay/v1/links/underlay_audit-17")
        );
    }
}
