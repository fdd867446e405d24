//! Backup files: see [`overlay_cluster::identity::backup`] for the format.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use overlay_cluster::{
    id::ClusterId,
    identity::backup::{Backup, BackupError, BackupKey, MAX_LEN},
    log::state::State,
    time::Timestamp,
};
use rand::CryptoRng;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::{StateError, atomic_file};

/// Why a backup file is not written or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupFileError {
    #[error(transparent)]
    State(#[from] StateError),
    /// A backup replaces nothing.
    #[error("{path} exists: name another file, a backup overwrites none")]
    Exists { path: String },
    /// What is in it, or should be.
    #[error("{path}: {source}")]
    Backup { path: String, source: BackupError },
}

/// A backup that was opened.
#[derive(Debug, Clone)]
pub struct Restored {
    pub cluster: ClusterId,
    /// When it was made, by the clock of the manager.
    pub made: Timestamp,
    pub state: State,
}

/// Writes a new file, mode 0600, with the state of `made`. What opens it is given to the operator once
/// and kept nowhere. A file that exists is left alone; one that could not be written to its end is not
/// there under this name.
pub fn write(
    path: &Path,
    state: &State,
    made: Timestamp,
    rng: &mut impl CryptoRng,
) -> Result<BackupKey, BackupFileError> {
    let key = BackupKey::generate(rng);
    let bytes = Backup::seal(state, made, &key, rng).map_err(in_file(path))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    if let Err(error) = write_new(&new, &bytes).and_then(|()| publish(&new, path)) {
        // What there is of it. The error is the one to tell.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    atomic_file::sync_directory(directory)?;
    Ok(key)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), BackupFileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(StateError::io("create", path))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(StateError::io("write", path))?;
    Ok(())
}

/// Gives the file its name, unless another has it.
fn publish(new: &Path, path: &Path) -> Result<(), BackupFileError> {
    renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE).map_err(|error| match error {
        Errno::EXIST => BackupFileError::Exists {
            path: path.display().to_string(),
        },
        error => StateError::io("create", path)(error.into()).into(),
    })
}

/// Reads a backup and opens it, if it is of the cluster that is `wanted`, or any is. It is sealed, so
/// who else may read the file does not matter.
pub fn read(
    path: &Path,
    key: &BackupKey,
    wanted: Option<ClusterId>,
) -> Result<Restored, BackupFileError> {
    let file = File::open(path).map_err(StateError::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(StateError::io("read", path))?;
    let backup = Backup::parse(&bytes).map_err(in_file(path))?;
    let state = backup.open(key, wanted).map_err(in_file(path))?;
    Ok(Restored {
        cluster: backup.cluster,
        made: backup.made,
        state,
    })
}

fn in_file(path: &Path) -> impl FnOnce(BackupError) -> BackupFileError {
    let path = path.display().to_string();
    move |source| BackupFileError::Backup { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::{
        daemon::testing::{NOW, founded, rng},
        state::atomic_file::testing::Directory,
    };

    #[test]
    fn a_backup_is_for_its_owner_and_comes_back_whole() {
        let directory = Directory::new();
        let path = directory.path().join("cluster.backup");
        let state = founded();
        let key = write(&path, &state, NOW, &mut rng(1)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let restored = read(&path, &key, None).unwrap();
        assert_eq!((restored.state, restored.made), (state, NOW));
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn a_file_that_exists_is_left_alone() {
        let directory = Directory::new();
        let path = directory.path().join("cluster.backup");
        fs::write(&path, "another").unwrap();
        let error = write(&path, &founded(), NOW, &mut rng(1)).unwrap_err();
        assert!(matches!(error, BackupFileError::Exists { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_wrong_with_a_backup_is_said_with_its_name() {
        let directory = Directory::new();
        let path = directory.path().join("cluster.backup");
        let key = write(&path, &founded(), NOW, &mut rng(1)).unwrap();
        let error = |key: &BackupKey, wanted| {
            let error = read(&path, key, wanted).unwrap_err().to_string();
            assert!(error.contains("cluster.backup"), "{error}");
            error
        };
        let other = BackupKey::generate(&mut rng(2));
        assert!(error(&other, None).contains("backup key is wrong"));
        let wanted = Some(ClusterId::from_bytes([9; 16]));
        assert!(error(&key, wanted).contains("is to be restored"));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(error(&key, None).contains("cut off"));
        fs::remove_file(&path).unwrap();
        assert!(error(&key, None).contains("open"));
    }
}
