//! `bpf-linker`, which must read the bitcode of the compiler's LLVM: one found
//! in `PATH` if its LLVM is the same, else one built once into the target
//! directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::toolchain::Rust;
use crate::workspace::{Workspace, make_dir_atomically};
use crate::{command, say, setup};

/// The release that is known to work, and the LLVMs it can be built with. A
/// compiler with another LLVM gets the newest release instead.
const RELEASE: &str = "0.13.0";
const RELEASE_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// Returns a linker that fits `rust`, building it if need be.
pub fn ensure(workspace: &Workspace, rust: &Rust) -> Result<PathBuf> {
    let llvm = rust.version.llvm;
    if let Some(linker) = existing(workspace, llvm) {
        return Ok(linker);
    }
    let _lock = workspace.lock()?;
    if let Some(linker) = existing(workspace, llvm) {
        return Ok(linker);
    }
    let prefix = llvm_prefix(llvm);
    if !has_llvm(llvm) {
        setup::install(&[&[&format!("llvm-{llvm}-dev")]])
            .with_context(|| format!("bpf-linker for LLVM {llvm} needs {}", prefix.display()))?;
    }
    build(workspace, llvm, &prefix)?;
    existing(workspace, llvm).with_context(|| {
        format!("bpf-linker was built for LLVM {llvm} and yet does not run or has another LLVM")
    })
}

/// Whether [`ensure`] has a chance for this LLVM; the error is the reason why
/// not.
pub fn check_obtainable(workspace: &Workspace, llvm: u32) -> Result<()> {
    let package = format!("llvm-{llvm}-dev");
    if existing(workspace, llvm).is_some()
        || has_llvm(llvm)
        || (setup::is_root() && setup::has_candidate(&package))
    {
        return Ok(());
    }
    bail!(
        "no bpf-linker with LLVM {llvm} in PATH, and no {} to build one (Debian: {package})",
        llvm_prefix(llvm).display()
    )
}

fn build(workspace: &Workspace, llvm: u32, prefix: &Path) -> Result<()> {
    let _timed = say::timed(format_args!(
        "building bpf-linker for LLVM {llvm}, once (about two minutes)"
    ));
    let scratch = workspace.cache().join("bpf-linker-build");
    make_dir_atomically(&cached_dir(workspace, llvm), |root| {
        let mut cargo = command::cargo();
        cargo.args(["install", "--quiet", "bpf-linker", "--no-default-features"]);
        cargo.arg(format!("--features=llvm-{llvm}"));
        if RELEASE_LLVMS.contains(&llvm) {
            cargo.args(["--locked", "--version", RELEASE]);
        }
        cargo
            .arg("--root")
            .arg(root)
            .arg("--target-dir")
            .arg(&scratch)
            .env("LLVM_PREFIX", prefix)
            // Settings meant for the workspace's own build.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        command::run(&mut cargo).with_context(|| {
            format!(
                "build bpf-linker with the LLVM of {}; a missing library (`-lxyz`) is installed \
                 by its -dev package",
                prefix.display()
            )
        })
    })?;
    // Only the program is kept: its build directory is some hundred megabytes.
    let _ignored = fs::remove_dir_all(&scratch);
    Ok(())
}

fn existing(workspace: &Workspace, llvm: u32) -> Option<PathBuf> {
    let ours = cached_dir(workspace, llvm).join("bin/bpf-linker");
    command::find_program("bpf-linker")
        .into_iter()
        .chain([ours])
        .find(|linker| {
            command::succeeds(Command::new(linker).arg("--version"))
                && llvm_of(linker) == Some(llvm)
        })
}

fn cached_dir(workspace: &Workspace, llvm: u32) -> PathBuf {
    workspace.cache().join(format!("bpf-linker-llvm-{llvm}"))
}

fn llvm_prefix(llvm: u32) -> PathBuf {
    format!("/usr/lib/llvm-{llvm}").into()
}

/// Whether LLVM's development files are there, not only its library.
fn has_llvm(llvm: u32) -> bool {
    let prefix = llvm_prefix(llvm);
    prefix.join("bin/llvm-config").exists() && prefix.join("include/llvm-c").exists()
}

/// The major version of the LLVM that a `bpf-linker` uses: of the library it
/// loads, or of the one linked into it.
fn llvm_of(linker: &Path) -> Option<u32> {
    let shared = command::capture(Command::new("ldd").arg(linker)).unwrap_or_default();
    shared_llvm(&shared).or_else(|| embedded_llvm(&fs::read(linker).ok()?))
}

/// Finds `libLLVM.so.22.1` or `libLLVM-22.so` in the output of `ldd`.
fn shared_llvm(ldd: &str) -> Option<u32> {
    ldd.split_whitespace().find_map(|word| {
        let rest = word.strip_prefix("libLLVM")?;
        leading_number(
            rest.strip_prefix(".so.")
                .or_else(|| rest.strip_prefix('-'))?,
        )
    })
}

/// Finds the identification `LLVM22.1.8` that LLVM's bitcode writer carries.
fn embedded_llvm(binary: &[u8]) -> Option<u32> {
    binary.windows(7).enumerate().find_map(|(at, window)| {
        if !window.starts_with(b"LLVM") {
            return None;
        }
        let text: String = binary
            .iter()
            .skip(at + 4)
            .take(8)
            .map(|&byte| char::from(byte))
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        // Two dots tell a version from a name such as `LLVM2`.
        (text.matches('.').count() == 2)
            .then(|| leading_number(&text))
            .flatten()
    })
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_shared_library() {
        let ldd = "\tlinux-vdso.so.1 (0x0)\n\tlibLLVM.so.22.1 => /usr/lib/x (0x0)\n";
        assert_eq!(shared_llvm(ldd), Some(22));
        assert_eq!(shared_llvm("\tlibLLVM-21.so => /x (0x0)"), Some(21));
        assert_eq!(shared_llvm("\tlibc.so.6 => /x (0x0)"), None);
    }

    #[test]
    fn the_llvm_of_a_static_linker_is_read_from_its_bytes() {
        let binary = b"\0LLVM2\0LLVM IR\0xLLVM23.1.0-rust-1.98\0";
        assert_eq!(embedded_llvm(binary), Some(23));
        assert_eq!(embedded_llvm(b"nothing of LLVM"), None);
    }
}
