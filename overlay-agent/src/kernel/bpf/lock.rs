//! One process at a time changes a data plane.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::error::BpfError;

/// A BPF file system has no file locks, so they are here.
const DIRECTORY: &str = "/run/overlay";

const POLL: Duration = Duration::from_millis(20);

/// The right to change the data plane at a pin directory; ends with the value or the process.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of `root`, waiting `patience` at the most.
    pub(super) fn acquire(root: &Path, patience: Duration) -> Result<Self, BpfError> {
        let path = Path::new(DIRECTORY).join(file_name(root));
        let deadline = Instant::now() + patience;
        loop {
            let mut file = open(&path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path)? => {
                    file.set_len(0)
                        .and_then(|()| file.rewind())
                        .and_then(|()| writeln!(file, "{}", std::process::id()))
                        .map_err(BpfError::io("write to the lock", &path))?;
                    return Ok(Self { path, _file: file });
                }
                // The holder removed the file: this lock excludes nobody who comes now.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    // Who holds it is a hint in the message, no more.
                    let _ = file.read_to_string(&mut holder);
                    return Err(BpfError::Locked {
                        root: root.to_path_buf(),
                        lock: path,
                        holder: holder.trim().parse().ok(),
                        waited: patience,
                    });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(BpfError::io("lock", &path)(error));
                }
            }
        }
    }

    /// Ends the lock and removes its file.
    pub(super) fn remove(self) -> Result<(), BpfError> {
        fs::remove_file(&self.path).map_err(BpfError::io("remove the lock", &self.path))?;
        // Others may have files there.
        let _ = fs::remove_dir(DIRECTORY);
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, BpfError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(DIRECTORY)
        .map_err(BpfError::io("create", DIRECTORY))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(BpfError::io("open the lock", path))
}

/// Whether `file` is what stands at `path`.
fn is_at(file: &File, path: &Path) -> Result<bool, BpfError> {
    let held = file
        .metadata()
        .map_err(BpfError::io("look at the lock", path))?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BpfError::io("look at the lock", path)(error)),
    }
}

/// `/sys/fs/bpf/overlay` → `bpf-sys-fs-bpf-overlay.lock`: one lock per pin directory.
fn file_name(root: &Path) -> String {
    let mut name = String::from("bpf");
    for component in root.components() {
        if let Component::Normal(part) = component {
            name.push('-');
            name.push_str(&part.to_string_lossy());
        }
    }
    name + ".lock"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_named_after_its_pin_directory() {
        assert_eq!(
            file_name(Path::new("/sys/fs/bpf/overlay")),
            "bpf-sys-fs-bpf-overlay.lock"
        );
    }
}
