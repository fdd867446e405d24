//! Which Rust compiler builds the BPF programs. They need the source of `core`
//! (`-Zbuild-std`), and a `bpf-linker` with the compiler's own LLVM; a machine's
//! default toolchain often has neither.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use crate::{bpf_linker, command, say, setup};

/// The oldest compiler the workspace builds with (`rust-version`).
const OLDEST: (u32, u32) = (1, 95);

/// Debian's compiler and the source of its library.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: &[&[&str]] = &[&["rustc-web"], &["rust-web-src"]];

/// A compiler that can build the BPF programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rust {
    /// The compiler itself, not rustup's proxy.
    pub rustc: PathBuf,
    /// What `rustc -vV` says of it.
    pub version: Version,
}

/// The parts of `rustc -vV` that decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Release, e.g. `1.96.0`.
    pub release: String,
    /// Major version of its LLVM.
    pub llvm: u32,
}

impl Version {
    /// Reads the output of `rustc -vV`.
    pub fn parse(verbose: &str) -> Result<Self> {
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` has no line `{name}`:\n{verbose}"))
        };
        let llvm = field("LLVM version")?;
        Ok(Self {
            release: field("release")?.to_owned(),
            llvm: llvm
                .split('.')
                .next()
                .and_then(|major| major.parse().ok())
                .with_context(|| format!("read the LLVM version `{llvm}`"))?,
        })
    }

    fn is_old(&self) -> bool {
        let mut numbers = self.release.split('.').map(|n| n.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) => (major, minor) < OLDEST,
            _ => true,
        }
    }
}

/// Finds a compiler, installing Debian's when nothing else fits.
pub fn ensure(workspace: &Workspace) -> Result<Rust> {
    let mut rejected = Vec::new();
    if let Some(rust) = first_fit(candidates(), workspace, &mut rejected) {
        return Ok(rust);
    }
    let lock = workspace.lock()?;
    say::step("no Rust toolchain here can build BPF programs; taking Debian's");
    for reason in &rejected {
        say::note(reason);
    }
    let remedy = "either of these will do:\n  \
         - rustup component add rust-src, and a bpf-linker with the LLVM of that toolchain\n  \
         - Debian's packages rustc-web, rust-web-src";
    setup::install(DEBIAN_PACKAGES).with_context(|| {
        format!(
            "building BPF programs needs a Rust toolchain with the source of its library; {remedy}"
        )
    })?;
    let debian = |rejected: &mut Vec<String>| {
        rejected.clear();
        first_fit(vec![DEBIAN_RUSTC.into()], workspace, rejected)
    };
    let mut found = debian(&mut rejected);
    if found.is_none() {
        // Lists as old as the machine's image offer the release's compiler, not the one of its updates.
        say::note(format_args!(
            "{}; looking for a newer one",
            rejected.join("; ")
        ));
        setup::upgrade(DEBIAN_PACKAGES).context(remedy)?;
        found = debian(&mut rejected);
    }
    drop(lock);
    found.with_context(|| {
        format!(
            "Debian's toolchain is installed and yet does not fit: {}; {remedy}",
            rejected.join("; ")
        )
    })
}

fn first_fit(
    candidates: Vec<PathBuf>,
    workspace: &Workspace,
    rejected: &mut Vec<String>,
) -> Option<Rust> {
    candidates
        .into_iter()
        .find_map(|rustc| match examine(&rustc, workspace) {
            Ok(rust) => Some(rust),
            Err(reason) => {
                rejected.push(format!("{}: {reason:#}", rustc.display()));
                None
            }
        })
}

/// All compilers of this machine: the default one, rustup's, Debian's.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut add = |mut rustc: Command| {
        if let Ok(sysroot) = command::capture(rustc.args(["--print", "sysroot"])) {
            let rustc = Path::new(sysroot.trim()).join("bin").join("rustc");
            if !found.contains(&rustc) {
                found.push(rustc);
            }
        }
    };
    add(Command::new("rustc"));
    if let Ok(list) = command::capture(Command::new("rustup").args(["toolchain", "list"])) {
        for toolchain in list.lines().filter_map(|line| line.split(' ').next()) {
            let mut rustc = Command::new("rustup");
            rustc.args(["run", toolchain, "rustc"]);
            add(rustc);
        }
    }
    add(Command::new(DEBIAN_RUSTC));
    found
}

/// Whether this compiler will do; the error is the reason why not.
fn examine(rustc: &Path, workspace: &Workspace) -> Result<Rust> {
    let version = Version::parse(&command::capture(Command::new(rustc).arg("-vV"))?)?;
    if version.is_old() {
        let (major, minor) = OLDEST;
        bail!(
            "{} is older than {major}.{minor}, the oldest that builds this workspace",
            version.release
        );
    }
    let sysroot = command::capture(Command::new(rustc).args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if !library.join("core").is_dir() {
        bail!(
            "no source of the standard library at {} (component rust-src)",
            library.display()
        );
    }
    bpf_linker::check_obtainable(workspace, version.llvm)?;
    Ok(Rust {
        rustc: rustc.to_owned(),
        version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)
binary: rustc
commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96
commit-date: 2026-05-25
host: x86_64-unknown-linux-gnu
release: 1.96.0
LLVM version: 22.1.8
";

    #[test]
    fn the_llvm_number_comes_from_the_compiler() {
        let version = Version::parse(DEBIAN).expect("parses");
        assert_eq!((version.release.as_str(), version.llvm), ("1.96.0", 22));
        assert!(!version.is_old());
    }

    #[test]
    fn a_compiler_without_an_llvm_line_is_named_as_such() {
        let error = Version::parse("release: 1.96.0\n").expect_err("no LLVM");
        assert!(error.to_string().contains("LLVM version"), "{error}");
    }

    #[test]
    fn releases_before_the_stated_minimum_are_old_and_nightlies_are_not() {
        let of = |release: &str| Version {
            release: release.to_owned(),
            llvm: 22,
        };
        assert!(of("1.94.1").is_old());
        assert!(!of("1.95.0").is_old());
        assert!(!of("1.98.0-nightly").is_old());
        assert!(!of("2.0.0").is_old());
        assert!(of("unknown").is_old());
    }
}
