//! The release before this one, for the tests of clusters in which both run: its sources as the
//! repository has them, built with today's tools.
//!
//! `previous-release` in the root `Cargo.toml` names its commit. What it needs of other crates it shares with
//! this release's build; only its own crates are compiled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::workspace::{Workspace, make_dir_atomically};
use crate::{bpf, command, say};

/// Builds it; its `overlay` command. `None` and a warning where the clone does not have the commit.
pub fn build(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let commit = &workspace.previous_release;
    let root = workspace.cache().join("previous-release").join(commit);
    let overlay = root.join("target/debug/overlay");
    if overlay.is_file() {
        return Ok(Some(overlay));
    }
    if !has(workspace, commit) {
        say::warn(format_args!(
            "this clone does not have the release before this one ({commit}), so no test runs both: \
             `git fetch --unshallow` gets it"
        ));
        return Ok(None);
    }
    say::step(format_args!(
        "building the release before this one ({commit})"
    ));
    let source = root.join("source");
    make_dir_atomically(&source, |partial| extract(workspace, commit, partial))?;
    let object = root.join("overlay.o");
    bpf::build_source(workspace, &source, false, &object)?;
    let mut cargo = command::cargo();
    cargo
        .current_dir(&source)
        .args(["build", "--package=overlay-agent", "--bins", "--locked"])
        // A test needs it soon, and not fast.
        .args(["--config", "profile.dev.package.overlay-agent.opt-level=0"])
        .args([
            "--config",
            "profile.dev.package.overlay-cluster.opt-level=0",
        ])
        .env("CARGO_TARGET_DIR", root.join("target"))
        .env("CARGO_BUILD_BUILD_DIR", &workspace.target)
        .env("OVERLAY_BPF_OBJECT", &object);
    command::run(&mut cargo).context("build the release before this one")?;
    ensure!(overlay.is_file(), "cargo made no {}", overlay.display());
    Ok(Some(overlay))
}

fn git(workspace: &Workspace) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(&workspace.root);
    git
}

fn has(workspace: &Workspace, commit: &str) -> bool {
    let mut git = git(workspace);
    git.args(["cat-file", "-e", &format!("{commit}^{{commit}}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command::succeeds(&mut git)
}

/// Its files, in `directory`.
fn extract(workspace: &Workspace, commit: &str, directory: &Path) -> Result<()> {
    let archive = directory.join("source.tar");
    command::run(
        git(workspace)
            .args(["archive", "--format=tar", "--output"])
            .arg(&archive)
            .arg(commit),
    )?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(directory);
    command::run(&mut tar)?;
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}
