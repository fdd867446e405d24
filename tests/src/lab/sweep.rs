//! Removing what a killed process left.

use std::{fs, path::Path};

use super::netns;

/// First part of every name of a lab; the process id follows.
pub(super) const MARK: &str = "ovlab";

/// Where the nodes' pins are.
pub(super) const PINS: &str = "/sys/fs/bpf";

/// Removes namespaces, pins and files of labs whose process is gone.
pub fn remove_leftovers() {
    for name in leftovers(Path::new("/run/netns")) {
        netns::remove(&name);
    }
    for directory in [Path::new(PINS), &std::env::temp_dir()] {
        for name in leftovers(directory) {
            remove_pins(&directory.join(name));
        }
    }
}

/// Removes a directory with what is in it.
pub(super) fn remove_pins(directory: &Path) {
    let _gone = fs::remove_dir_all(directory);
}

fn leftovers(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()))
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
