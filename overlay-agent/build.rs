//! Embeds the BPF object, when there is one: `cargo build` alone must work on a
//! machine that cannot build BPF programs.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=OVERLAY_BPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = find(&out);
    let value = match &object {
        Some(object) => {
            // A copy, so that a later `cargo xtask build` cannot change the
            // bytes between this script and the compiler.
            let copy = out.join("overlay.o");
            fs::copy(object, &copy)
                .unwrap_or_else(|error| panic!("copy {}: {error}", object.display()));
            // The ELF parser needs the object aligned.
            format!("Some(aya::include_bytes_aligned!({copy:?}))")
        }
        None => {
            println!(
                "cargo:warning=built without the BPF programs: this `overlay` cannot load a data \
                 plane. `cargo xtask build` builds them and then the agent with them inside"
            );
            "None".to_owned()
        }
    };
    let text = format!(
        "/// The BPF object built by `cargo xtask build`; `None` when it was missing at build \
         time.\npub const BPF_OBJECT: Option<&[u8]> = {value};\n"
    );
    let generated = out.join("bpf_object.rs");
    fs::write(&generated, text)
        .unwrap_or_else(|error| panic!("write {}: {error}", generated.display()));
}

/// The object named by `OVERLAY_BPF_OBJECT`, or the one that `cargo xtask
/// build` left in the target directory.
fn find(out: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os("OVERLAY_BPF_OBJECT").map(PathBuf::from) {
        println!("cargo:rerun-if-changed={}", named.display());
        assert!(
            named.is_file(),
            "OVERLAY_BPF_OBJECT names {}, which is no file",
            named.display()
        );
        return Some(named);
    }
    // Cargo tags a target directory that it has made itself; with a target triple or without, OUT_DIR lies
    // some levels below.
    let target = out.ancestors().find(|dir| {
        dir.join("CACHEDIR.TAG").exists() || dir.join("bpf").join("overlay.o").is_file()
    })?;
    let dir = target.join("bpf");
    // Watching a missing file would rebuild the agent every time; an existing
    // directory is looked at for newer files.
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
    println!("cargo:rerun-if-changed={}", dir.display());
    let object = dir.join("overlay.o");
    object.is_file().then_some(object)
}
