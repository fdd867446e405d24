//! The initramfs of the test VM: a handful of this machine's programs with their
//! libraries, and the modules needed to mount this machine's root. The rest comes
//! from there.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io::Cursor;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::fstab;
use super::kernel::Image;
use super::modules::Dependencies;
use crate::command;
use crate::workspace::write_if_changed;

/// Our own files.
const TEXTS: &[(&str, &str)] = &[
    ("init", include_str!("init.sh")),
    ("guest.sh", include_str!("guest.sh")),
    ("first.fstab", fstab::FIRST),
    ("host.fstab", fstab::HOST),
    ("new.fstab", fstab::NEW),
];

/// What udev would put into /dev.
const LINKS: &[(&str, &str)] = &[
    ("links/fd", "/proc/self/fd"),
    ("links/stdin", "/proc/self/fd/0"),
    ("links/stdout", "/proc/self/fd/1"),
    ("links/stderr", "/proc/self/fd/2"),
];

/// Modules without which nothing can be mounted or said.
const MODULES: &[&str] = &["virtio_pci", "virtio_console", "virtiofs", "overlay"];

/// Programs that `init.sh` runs, by the path they get.
const PROGRAMS: &[(&str, &str)] = &[
    ("/bin/dash", "dash"),
    ("/bin/mount", "mount"),
    ("/bin/mkdir", "mkdir"),
    ("/bin/cp", "cp"),
    ("/bin/sleep", "sleep"),
    ("/bin/modprobe", "modprobe"),
    ("/bin/switch_root", "switch_root"),
];

/// Directories that `init.sh` mounts on.
const MOUNT_POINTS: &[&str] = &["above", "dev", "host", "links", "new", "proc", "sys"];

/// Returns the initramfs for this kernel, making it if any part is newer.
pub fn ensure(image: &Image, dir: &Path) -> Result<PathBuf> {
    let files = files(image)?;
    let path = dir.join(format!(
        "initramfs-{}-{:016x}.cpio",
        image.release,
        fingerprint(&files)?
    ));
    if !path.exists() {
        write_if_changed(&path, &archive(&files)?)?;
    }
    Ok(path)
}

/// Path in the archive (without leading slash) → file of this machine.
fn files(image: &Image) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for (path, name) in PROGRAMS {
        let program = command::find_program(name)
            .with_context(|| format!("find `{name}`, which the test VM starts with"))?;
        let ldd = command::capture(Command::new("ldd").arg(&program).env("LC_ALL", "C"))?;
        for library in libraries(&ldd) {
            files.insert(library.trim_start_matches('/').to_owned(), library.into());
        }
        files.insert(path.trim_start_matches('/').to_owned(), program);
    }
    let modules = format!("lib/modules/{}", image.release);
    let read = |name: &str| {
        let path = image.modules.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let dep = read("modules.dep")?;
    let mut needed: Vec<String> = Dependencies::parse(&dep)
        .files(MODULES, &read("modules.builtin")?)?
        .into_iter()
        .map(str::to_owned)
        .collect();
    needed.extend(
        [
            "dep.bin",
            "alias.bin",
            "symbols.bin",
            "builtin.bin",
            "builtin.alias.bin",
            "dep",
        ]
        .map(|kind| format!("modules.{kind}")),
    );
    for file in needed {
        files.insert(format!("{modules}/{file}"), image.modules.join(&file));
    }
    Ok(files)
}

/// The absolute paths in the output of `ldd`.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.split_whitespace().filter(|word| word.starts_with('/'))
}

/// Changes when the archive would.
fn fingerprint(files: &BTreeMap<String, PathBuf>) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    (TEXTS, LINKS, MOUNT_POINTS).hash(&mut hasher);
    for (name, path) in files {
        let meta = fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        (name, path, meta.len(), meta.mtime(), meta.mtime_nsec()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn archive(files: &BTreeMap<String, PathBuf>) -> Result<Vec<u8>> {
    const DIRECTORY: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    const LINK: u32 = 0o120_777;
    let mut entries: BTreeMap<String, (u32, Vec<u8>)> = BTreeMap::new();
    for (name, text) in TEXTS {
        entries.insert((*name).into(), (PROGRAM, text.as_bytes().into()));
    }
    for (name, target) in LINKS {
        entries.insert((*name).into(), (LINK, target.as_bytes().into()));
    }
    for point in MOUNT_POINTS {
        entries.insert((*point).into(), (DIRECTORY, Vec::new()));
    }
    for (name, path) in files {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        for parent in Path::new(name).ancestors().skip(1) {
            match parent.to_str() {
                Some("") => {}
                Some(parent) => {
                    entries
                        .entry(parent.into())
                        .or_insert((DIRECTORY, Vec::new()));
                }
                None => bail!("{name} is no UTF-8 path"),
            }
        }
        entries.insert(name.clone(), (PROGRAM, bytes));
    }
    // A directory sorts before what is in it, as the kernel needs it.
    let inputs = entries
        .into_iter()
        .zip(1..)
        .map(|((name, (mode, bytes)), inode)| {
            let entry = cpio::NewcBuilder::new(&name).mode(mode).ino(inode).nlink(1);
            (entry, Cursor::new(bytes))
        });
    cpio::write_cpio(inputs, Vec::new()).context("write the initramfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_absolute_paths_that_ldd_prints() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                   \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        assert_eq!(
            libraries(ldd).collect::<Vec<_>>(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn directories_come_before_their_content() {
        let files = BTreeMap::from([("lib/a/b".to_owned(), PathBuf::from("/proc/version"))]);
        let bytes = archive(&files).expect("written");
        let position = |name: &str| {
            let name = format!("{name}\0");
            bytes
                .windows(name.len())
                .position(|window| window == name.as_bytes())
                .expect(&name)
        };
        assert!(position("lib") < position("lib/a"));
        assert!(position("lib/a") < position("lib/a/b"));
        assert!(bytes.starts_with(b"070701"));
    }
}
