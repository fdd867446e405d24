//! The kernels of the test VM, fetched once into the target directory.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::mirror;
use crate::workspace::{Workspace, make_dir_atomically};
use crate::{command, say, setup};

/// A kernel that the VM can run: the oldest supported one, and the one that
/// Debian's stable releases run today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kernel {
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12 backports, Debian 13
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// Every kernel, oldest first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// Version as people write it.
    pub fn version(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Debian suites that carry it, in order of preference.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 => &["bookworm"],
            Self::V6_12 => &["bookworm-backports", "trixie"],
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version())
    }
}

/// A kernel on disk.
#[derive(Debug, Clone)]
pub struct Image {
    /// `uname -r`.
    pub release: String,
    /// The kernel itself.
    pub vmlinuz: PathBuf,
    /// Its modules, what `/lib/modules/RELEASE` is to be.
    pub modules: PathBuf,
}

/// Fetches a kernel, if it is not there yet. Needs no root.
pub fn fetch(workspace: &Workspace, kernel: Kernel) -> Result<Image> {
    let dir = workspace.cache().join("vm").join(kernel.version());
    if let Some(image) = find(&dir) {
        return Ok(image);
    }
    if !cfg!(target_arch = "x86_64") {
        bail!(
            "the test VM exists for x86_64 only, this is {}",
            std::env::consts::ARCH
        );
    }
    setup::ensure(workspace, setup::VM)?;
    let _lock = workspace.lock()?;
    if let Some(image) = find(&dir) {
        return Ok(image);
    }
    let _timed = say::timed(format_args!(
        "fetching Linux {kernel} for the test VM (Debian {})",
        kernel.suites().join(" or ")
    ));
    make_dir_atomically(&dir, |dir| {
        let download = dir.join("apt");
        let found = mirror::download(
            kernel.suites(),
            "linux-image-cloud-amd64",
            &format!("linux-image-{kernel}."),
            &download,
        )?;
        say::note(format_args!("{} {}", found.package, found.version));
        command::run(Command::new("dpkg-deb").arg("-x").arg(&found.deb).arg(dir))
            .with_context(|| format!("unpack {}", found.deb.display()))?;
        let image = find(dir)
            .with_context(|| format!("{} holds no kernel with modules", found.deb.display()))?;
        // A package's installation does this; ours is only unpacked.
        command::run(
            Command::new(command::find_program("depmod").unwrap_or("depmod".into()))
                .arg("-b")
                .arg(dir)
                .arg(&image.release),
        )?;
        for unneeded in [&download, &dir.join("usr")] {
            fs::remove_dir_all(unneeded)
                .with_context(|| format!("remove {}", unneeded.display()))?;
        }
        Ok(())
    })?;
    find(&dir).with_context(|| format!("find the kernel in {}", dir.display()))
}

fn find(dir: &std::path::Path) -> Option<Image> {
    let mut releases = fs::read_dir(dir.join("lib/modules")).ok()?;
    let release = releases.next()?.ok()?.file_name().into_string().ok()?;
    let vmlinuz = dir.join("boot").join(format!("vmlinuz-{release}"));
    vmlinuz.exists().then(|| Image {
        modules: dir.join("lib/modules").join(&release),
        vmlinuz,
        release,
    })
}
