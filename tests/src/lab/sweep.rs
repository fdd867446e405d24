//! Removing what a killed process left.

use std::{fs, path::Path};

use super::netns;

/// First part of every name of a lab; the process id follows.
pub(super) const MARK: &str = "ovlab";

/// Where the nodes' pins are.
pub(super) const PINS: &str = "/sys/fs/bpf";

/// What the `overlay` command names the locks of pin directories by: `LOCKS` and `LOCK`, the directory.
const LOCKS: &str = "/run/overlay";
const LOCK: &str = "bpf-sys-fs-bpf-";

/// Removes namespaces, pins, locks and files of labs whose process is gone.
pub fn remove_leftovers() {
    for name in leftovers(Path::new("/run/netns"), "") {
        netns::remove(&name);
    }
    for directory in [Path::new(PINS), &std::env::temp_dir()] {
        for name in leftovers(directory, "") {
            remove_pins(&directory.join(name));
        }
    }
    for name in leftovers(Path::new(LOCKS), LOCK) {
        let _gone = fs::remove_file(Path::new(LOCKS).join(name));
    }
}

/// Removes the lock of a pin directory.
pub(super) fn remove_lock(pins: &Path) {
    if let Some(name) = pins.file_name().and_then(|name| name.to_str()) {
        let _gone = fs::remove_file(Path::new(LOCKS).join(format!("{LOCK}{name}.lock")));
    }
}

/// Removes a directory with what is in it.
pub(super) fn remove_pins(directory: &Path) {
    let _gone = fs::remove_dir_all(directory);
}

/// Names in a directory that are `prefix` and the name of a lab whose process is gone.
fn leftovers(directory: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix(prefix)
                .and_then(owner)
                .is_some_and(|pid| !Path::new("/proc").join(pid).exists())
        })
        .collect()
}

/// The process whose lab this name belongs to.
fn owner(name: &str) -> Option<&str> {
    let (pid, _) = name.strip_prefix(MARK)?.split_once('-')?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("ovlab12-0-a"), Some("12"));
        for other in ["overlay", "ovlab-0", "ovlabx-0", "ovlab12", "my-ovlab12-0"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
