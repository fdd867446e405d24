//! The ledger of keys that were ever installed.
//!
//! A key is written here, durably, **before** it is installed: after a crash in between it counts as
//! used, and the pair needs a new slot. The other order could use a key twice.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{StateError, atomic_file};
use crate::dataplane::key_id::KeyId;

const NAME: &str = "used-keys";
/// Sixteen digits and a newline.
const LINE: usize = 17;

/// The ledger: key ids, one in a line.
#[derive(Debug)]
pub struct UsedKeys {
    path: PathBuf,
}

impl UsedKeys {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(NAME),
        }
    }

    /// Every key in the ledger; none if there is no ledger yet.
    pub fn read(&self) -> Result<BTreeSet<KeyId>, StateError> {
        let text = atomic_file::read(&self.path)?.unwrap_or_default();
        self.parse(&text)
    }

    fn parse(&self, text: &str) -> Result<BTreeSet<KeyId>, StateError> {
        let (whole, _torn) = split_torn(text);
        whole
            .lines()
            .map(|line| {
                line.parse().map_err(|error| StateError::Content {
                    path: self.path.clone(),
                    reason: format!("{error}"),
                    remedy: "the ledger keeps keys from being used twice: restore it from a backup, or remove it and give every pair new keys",
                })
            })
            .collect()
    }

    /// Records keys. When this returns, the record survives a crash; one that fails has recorded any
    /// number of them.
    pub fn append(&self, keys: impl IntoIterator<Item = KeyId>) -> Result<(), StateError> {
        let lines: String = keys.into_iter().map(|key| format!("{key}\n")).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        atomic_file::create_directory(directory)?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(StateError::io("open", &self.path))?;
        self.cut_torn(&mut file)?;
        file.write_all(lines.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(StateError::io("write", &self.path))?;
        atomic_file::sync_directory(directory)
    }

    /// Removes the end of a line that a crash cut short: its key was never installed.
    fn cut_torn(&self, file: &mut File) -> Result<(), StateError> {
        let io = |attempt| StateError::io(attempt, self.path.clone());
        let length = file.metadata().map_err(io("look at"))?.len();
        let from = length.saturating_sub(LINE as u64);
        file.seek(SeekFrom::Start(from)).map_err(io("seek in"))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end).map_err(io("read"))?;
        let torn = end.iter().rev().take_while(|&&byte| byte != b'\n').count();
        if torn > 0 && torn < LINE {
            file.set_len(length - torn as u64).map_err(io("repair"))?;
        }
        Ok(())
    }
}

fn split_torn(text: &str) -> (&str, &str) {
    text.split_at(text.rfind('\n').map_or(0, |newline| newline + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::atomic_file::testing::Directory;

    #[test]
    fn keys_stay_in_the_ledger_and_a_torn_line_does_not() {
        let directory = Directory::new();
        let ledger = UsedKeys::new(&directory.path().join("deep/er"));
        assert!(ledger.read().unwrap().is_empty());
        ledger.append([]).unwrap();
        assert!(!ledger.path.exists());
        ledger.append([KeyId([1; 8]), KeyId([2; 8])]).unwrap();
        let keys: BTreeSet<KeyId> = [KeyId([1; 8]), KeyId([2; 8])].into();
        assert_eq!(ledger.read().unwrap(), keys);

        let mut text = std::fs::read_to_string(&ledger.path).unwrap();
        text.push_str("0303");
        std::fs::write(&ledger.path, text).unwrap();
        assert_eq!(ledger.read().unwrap(), keys);
        ledger.append([KeyId([4; 8])]).unwrap();
        assert_eq!(ledger.read().unwrap().len(), 3);
    }

    #[test]
    fn ledger_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
        let directory = Directory::new();
        let ledger = UsedKeys::new(directory.path());
        std::fs::write(&ledger.path, "not a key\n").unwrap();
        let error = ledger.read().unwrap_err().to_string();
        assert!(
            error.contains("used-keys") && error.contains("backup"),
            "{error}"
        );
        std::fs::remove_file(&ledger.path).unwrap();
        std::fs::create_dir(&ledger.path).unwrap();
        assert!(ledger.read().is_err());
    }
}
