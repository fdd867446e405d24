//! Building the BPF object: crate `overlay-ebpf` for the kernel's virtual
//! machine, with `core` built from source.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::workspace::{Workspace, write_if_changed};
use crate::{bpf_linker, command, say, toolchain};

/// Builds the programs and puts the object where the agent's build finds it.
/// With `log`, they tell what they do to each packet (and the object is then
/// loadable by aya only).
pub fn build(workspace: &Workspace, log: bool) -> Result<()> {
    build_source(workspace, &workspace.root, log, &workspace.bpf_object())
}

/// Builds the programs that log, for the tests: no agent embeds them.
pub fn build_log_object(workspace: &Workspace) -> Result<()> {
    build_source(workspace, &workspace.root, true, &workspace.log_object())
}

/// Builds the programs of the sources in `root`, with the tools and caches of `workspace`.
pub fn build_source(workspace: &Workspace, root: &Path, log: bool, object: &Path) -> Result<()> {
    let rust = toolchain::ensure(workspace)?;
    let linker = bpf_linker::ensure(workspace, &rust)?;
    say::step(format_args!(
        "building the BPF programs{} with {} ({}, LLVM {})",
        if log { " that log" } else { "" },
        rust.rustc.display(),
        rust.version.release,
        rust.version.llvm
    ));
    // A directory of its own: this compiler is not the one that builds the
    // agent, and cargo would rebuild the shared build-time crates each time.
    let scratch = workspace.cache().join("bpf-build");
    let mut cargo = command::cargo();
    cargo
        .current_dir(root)
        .args(["build", "--package=overlay-ebpf", "--bin=overlay-ebpf"])
        .args(["--profile=bpf", "-Zbuild-std=core"])
        .arg(format!("--target={}", target_triple()))
        .arg("--target-dir")
        .arg(&scratch)
        .env("RUSTC", &rust.rustc)
        // -Zbuild-std on a compiler that calls itself stable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags().join("\x1f"))
        .env_remove("RUSTFLAGS");
    if log {
        cargo.arg("--features=aya-log");
    }
    // rustc looks `bpf-linker` up in PATH.
    if let Some(dir) = linker.parent() {
        cargo.env("PATH", command::path_with(dir)?);
    }
    command::run(&mut cargo).context("build the BPF programs")?;

    let built = scratch
        .join(target_triple())
        .join("bpf")
        .join("overlay-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    if write_if_changed(object, &bytes)? {
        say::note(format_args!(
            "{} ({} KiB)",
            object.display(),
            bytes.len() / 1024
        ));
    }
    Ok(())
}

/// BPF has the byte order of the machine that runs it.
fn target_triple() -> &'static str {
    if cfg!(target_endian = "little") {
        "bpfel-unknown-none"
    } else {
        "bpfeb-unknown-none"
    }
}

fn rustflags() -> Vec<String> {
    vec![
        // aya-ebpf chooses the layout of `pt_regs` by it.
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        // The types of maps reach the kernel as BTF, which is made from debug
        // information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ]
}
