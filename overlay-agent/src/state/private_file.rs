//! Files with secrets: nobody but their owner may read or write them, and they are no links.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::StateError;

/// The content of a file that the owner of this process owns and nobody else may use; `None` if there
/// is no file. It is zeroized when dropped.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path);
    match opened {
        Ok(file) => read_open(file, path).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::io("open", path)(error)),
    }
}

fn read_open(mut file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let metadata = file.metadata().map_err(StateError::io("look at", path))?;
    if !metadata.is_file() {
        return Err(StateError::Content {
            path: path.to_owned(),
            reason: "is no regular file".into(),
            remedy: "put the file itself there",
        });
    }
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != geteuid().as_raw() || (mode != 0o600 && mode != 0o400) {
        return Err(StateError::Exposed {
            path: path.to_owned(),
            owner,
            mode,
        });
    }
    // One byte more than the file: reading to its end then never moves the buffer.
    let length = usize::try_from(metadata.len()).unwrap_or(0);
    let mut content = Zeroizing::new(Vec::with_capacity(length + 1));
    file.read_to_end(&mut content)
        .map_err(StateError::io("read", path))?;
    Ok(content)
}
