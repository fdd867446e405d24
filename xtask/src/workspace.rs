//! Where things are: the workspace, its target directory, and what xtask keeps
//! there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{command, say};

/// The directories xtask works with.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The directory of the root `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Commit of the release before this one.
    pub previous_release: String,
}

impl Workspace {
    /// Asks cargo, which knows of `CARGO_TARGET_DIR` and of configuration files.
    pub fn find() -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Metadata {
            workspace_root: PathBuf,
            target_directory: PathBuf,
            metadata: Releases,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Releases {
            previous_release: String,
        }
        let mut cargo = command::cargo();
        cargo.args(["metadata", "--no-deps", "--format-version=1"]);
        if let Some(dir) = std::env::var_os("CARGO_MANIFEST_DIR") {
            cargo.current_dir(dir);
        }
        let json = command::capture(&mut cargo).context("ask cargo where the workspace is")?;
        let Metadata {
            workspace_root,
            target_directory,
            metadata,
        } = serde_json::from_str(&json).context("read the answer of `cargo metadata`")?;
        Ok(Self {
            root: workspace_root,
            target: target_directory,
            previous_release: metadata.previous_release,
        })
    }

    /// What xtask itself makes and keeps: the BPF linker, VM kernels, caches.
    /// Removing it is always safe.
    pub fn cache(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// The BPF object that the agent embeds. `overlay-agent/build.rs` knows this
    /// path too.
    pub fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf").join("overlay.o")
    }

    /// The object with logging that tests load, beside the one above: a change
    /// of it must not rebuild the agent.
    pub fn log_object(&self) -> PathBuf {
        self.cache().join("overlay-log.o")
    }

    /// The `overlay` command of this profile.
    pub fn overlay(&self, release: bool) -> PathBuf {
        let profile = if release { "release" } else { "debug" };
        self.target.join(profile).join("overlay")
    }

    /// Held while shared state (packages, toolchain, kernels) is made, so that
    /// two xtasks do not make it twice. The kernel releases it however we end.
    pub fn lock(&self) -> Result<File> {
        let path = self.cache().join("lock");
        fs::create_dir_all(self.cache())
            .with_context(|| format!("create {}", self.cache().display()))?;
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        if file.try_lock().is_err() {
            say::note("waiting for another xtask that is setting up this workspace");
            file.lock()
                .with_context(|| format!("lock {}", path.display()))?;
        }
        Ok(file)
    }
}

/// Makes the directory `to` by filling a temporary one beside it and renaming,
/// so that an interrupted run leaves nothing that looks finished.
pub fn make_dir_atomically(to: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = beside(to, "partial");
    remove_dir(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    fill(&partial)?;
    remove_dir(to)?;
    fs::rename(&partial, to)
        .with_context(|| format!("rename {} to {}", partial.display(), to.display()))
}

/// Writes `to` by way of a temporary file and a rename, and only when that
/// changes it: an unchanged modification time keeps cargo's caches warm.
pub fn write_if_changed(to: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let partial = beside(to, &format!("partial.{}", std::process::id()));
    fs::write(&partial, bytes).with_context(|| format!("write {}", partial.display()))?;
    fs::rename(&partial, to)
        .with_context(|| format!("rename {} to {}", partial.display(), to.display()))?;
    Ok(true)
}

/// `6.1` → `6.1.partial`; `Path::with_extension` would take `.1` away.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
