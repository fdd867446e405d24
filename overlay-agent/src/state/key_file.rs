//! Reading and making keys files on disk.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use overlay_ebpf::abi::{Epoch, Lane, PeerIndex, Slot};
use zeroize::Zeroizing;

use super::{StateError, atomic_file, private_file};
use crate::{
    dataplane::file::keys::{self, KeyEntry},
    secret::KeyMaterial,
};

/// Reads the keys of a file that the owner of this process owns and nobody else may use.
pub fn read(path: &Path) -> Result<Vec<KeyEntry>, StateError> {
    let content = |reason: String, remedy| StateError::Content {
        path: path.to_owned(),
        reason,
        remedy,
    };
    let bytes = private_file::read(path)?.ok_or_else(|| {
        content(
            "there is no such file".into(),
            "make one with `overlay dataplane keygen`",
        )
    })?;
    let text = str::from_utf8(&bytes)
        .map_err(|error| content(error.to_string(), "name a text file with keys"))?;
    keys::parse(text).map_err(|error| content(error.to_string(), "correct the line"))
}

/// Random keys for every ordered pair of nodes and every lane.
pub fn generate(
    nodes: &[PeerIndex],
    lanes: u8,
    epoch: Epoch,
    slot: Slot,
) -> Result<Vec<KeyEntry>, getrandom::Error> {
    let mut entries = Vec::new();
    for &sender in nodes {
        for &receiver in nodes {
            if sender == receiver {
                continue;
            }
            for lane in (0..lanes).filter_map(|lane| Lane::new(lane).ok()) {
                let mut bytes = Zeroizing::new([0; KeyMaterial::LEN]);
                getrandom::fill(bytes.as_mut())?;
                entries.push(KeyEntry {
                    sender,
                    receiver,
                    epoch,
                    slot,
                    lane,
                    key: KeyMaterial::new(*bytes),
                });
            }
        }
    }
    Ok(entries)
}

/// Writes a new keys file, mode 0600; one that exists is left alone.
pub fn create(path: &Path, entries: &[KeyEntry]) -> Result<(), StateError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                StateError::Content {
                    path: path.to_owned(),
                    reason: "exists".into(),
                    remedy: "add to it with --append, or name another file",
                }
            } else {
                StateError::io("create the keys file", path)(error)
            }
        })?;
    write(file, path, entries)
}

/// Adds keys to a file; none may be for an SA that the file has a key for.
pub fn append(path: &Path, entries: &[KeyEntry]) -> Result<(), StateError> {
    let known: BTreeMap<_, Epoch> = read(path)?
        .iter()
        .map(|entry| (identity(entry), entry.epoch))
        .collect();
    if let Some(entry) = entries.iter().find(|e| known.contains_key(&identity(e))) {
        return Err(StateError::Content {
            path: path.to_owned(),
            reason: format!(
                "holds a key from node {} to {} for slot {} lane {} already",
                entry.sender, entry.receiver, entry.slot, entry.lane
            ),
            remedy: "use another --slot",
        });
    }
    let file = OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(StateError::io("open the keys file", path))?;
    write(file, path, entries)
}

fn identity(entry: &KeyEntry) -> (PeerIndex, PeerIndex, Slot, Lane) {
    (entry.sender, entry.receiver, entry.slot, entry.lane)
}

fn write(mut file: File, path: &Path, entries: &[KeyEntry]) -> Result<(), StateError> {
    file.write_all(keys::write(entries).as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(StateError::io("write the keys file", path))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    atomic_file::sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    };

    use super::*;
    use crate::{dataplane::testing::index, state::atomic_file::testing::Directory};

    fn keys(slot: u8) -> Vec<KeyEntry> {
        generate(
            &[index(1), index(2), index(3)],
            2,
            Epoch::new(1),
            Slot::new(slot),
        )
        .unwrap()
    }

    #[test]
    fn every_ordered_pair_and_lane_has_a_key_of_its_own() {
        let keys = keys(0);
        assert_eq!(keys.len(), 3 * 2 * 2);
        for (i, a) in keys.iter().enumerate() {
            assert!(a.key != KeyMaterial::new([0; KeyMaterial::LEN]));
            assert!(keys[..i].iter().all(|b| a.key != b.key));
        }
    }

    #[test]
    fn keys_file_is_roots_alone_and_never_overwritten() {
        // Ownership by root is part of what is tested.
        if !is_root() {
            eprintln!("skipped: this test needs root");
            return;
        }
        let directory = Directory::new();
        let path = directory.path().join("keys.toml");
        let first = keys(0);
        create(&path, &first).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read(&path).unwrap(), first);
        assert!(
            create(&path, &first)
                .unwrap_err()
                .to_string()
                .contains("--append")
        );
        assert!(
            append(&path, &keys(0))
                .unwrap_err()
                .to_string()
                .contains("--slot")
        );
        append(&path, &keys(1)).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2 * first.len());
        for mode in [0o640, 0o604, 0o700, 0o4600] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        read(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
        assert!(matches!(
            read(&path),
            Err(StateError::Exposed { owner: 1000, .. })
        ));
    }

    #[test]
    fn keys_file_is_not_followed_through_a_link() {
        let directory = Directory::new();
        let path = directory.path().join("keys.toml");
        let link = directory.path().join("link.toml");
        create(&path, &keys(0)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read(&link), Err(StateError::Io { .. })));
    }

    fn is_root() -> bool {
        fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
    }
}
