//! A file is there as a whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::StateError;

/// Creates a directory that root alone may enter, with those above it.
pub fn create_directory(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StateError::io("create the directory", path))
}

/// Replaces a file's content, durably, mode 0600.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), StateError> {
    replace_with(path, |file| file.write_all(content))
}

/// The same of content that is made as it is written: it may be long.
pub fn replace_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), StateError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    create_directory(directory)?;
    let new = path.with_extension("new");
    // A leftover of an agent that was killed here.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StateError::io("remove", new)(error));
        }
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(StateError::io("create", &new))?;
    let mut file = BufWriter::new(file);
    write(&mut file)
        .and_then(|()| file.flush())
        .and_then(|()| file.get_ref().sync_all())
        .map_err(StateError::io("write", &new))?;
    fs::rename(&new, path).map_err(StateError::io("replace", path))?;
    sync_directory(directory)
}

/// Makes a name in the directory survive a crash.
pub fn sync_directory(directory: &Path) -> Result<(), StateError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(StateError::io("sync the directory", directory))
}

/// The content, `None` if there is no file.
pub fn read(path: &Path) -> Result<Option<String>, StateError> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::io("read", path)(error)),
    }
}

/// Removes a file; one that is not there is removed already.
pub fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StateError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::{
        path::{Path, PathBuf},
        sync::atomic::{AtomicU32, Ordering},
    };

    /// A directory of the test's own, removed with the value.
    pub struct Directory(PathBuf);

    impl Directory {
        pub fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!(
                "overlay-state-test-{}-{number}",
                std::process::id()
            ));
            super::create_directory(&path).unwrap();
            Self(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
