//! The ledger of keys that were ever installed.
//!
//! A key is written here, durably, **before** it is installed: after a crash in between it counts as
//! used, and the pair needs a new slot. The other order could use a key twice.
//!
//! Keys that come from a file are kept for good: a file can name them again. Keys of epochs are made from
//! secrets that are erased with their epoch, so nothing can ask for them later, and they are kept
//! until the epoch after theirs is over: the ledger of a large cluster does not grow with its age.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{StateError, atomic_file};
use crate::dataplane::key_id::KeyId;

const NAME: &str = "used-keys";
/// Keys of epochs, since one was last over, and between then and the time before.
const RECENT: &str = "used-keys-of-epochs";
const EARLIER: &str = "used-keys-of-epochs-before";
/// Sixteen digits and a newline.
const LINE: usize = 17;

/// The ledger: key ids, one in a line.
#[derive(Debug)]
pub struct UsedKeys {
    directory: PathBuf,
    /// File of the keys that are recorded from now on.
    name: &'static str,
}

impl UsedKeys {
    /// Records keys for good.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.to_owned(),
            name: NAME,
        }
    }

    /// Records keys from now on as those of epochs.
    pub const fn are_of_epochs(&mut self) {
        self.name = RECENT;
    }

    /// Every key in the ledger; none if there is no ledger yet.
    pub fn read(&self) -> Result<BTreeSet<KeyId>, StateError> {
        let mut keys = BTreeSet::new();
        for name in [NAME, EARLIER, RECENT] {
            let path = self.directory.join(name);
            let text = atomic_file::read(&path)?.unwrap_or_default();
            keys.append(&mut parse(&path, &text)?);
        }
        Ok(keys)
    }

    /// An epoch is over: no SA of it is wanted any more. Forgets keys of epochs that were recorded before the
    /// last one was over.
    pub fn end_epoch(&self) -> Result<(), StateError> {
        let recent = self.directory.join(RECENT);
        match fs::rename(&recent, self.directory.join(EARLIER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed
                .map_err(StateError::io("rename", &recent))
                .and_then(|()| atomic_file::sync_directory(&self.directory)),
        }
    }

    /// Records keys. When this returns, the record survives a crash; one that fails has recorded any
    /// number of them.
    pub fn append(&self, keys: impl IntoIterator<Item = KeyId>) -> Result<(), StateError> {
        let lines: String = keys.into_iter().map(|key| format!("{key}\n")).collect();
        if lines.is_empty() {
            return Ok(());
        }
        atomic_file::create_directory(&self.directory)?;
        let path = self.directory.join(self.name);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(StateError::io("open", &path))?;
        cut_torn(&path, &mut file)?;
        file.write_all(lines.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(StateError::io("write", &path))?;
        atomic_file::sync_directory(&self.directory)
    }
}

fn parse(path: &Path, text: &str) -> Result<BTreeSet<KeyId>, StateError> {
    let (whole, _torn) = split_torn(text);
    whole
        .lines()
        .map(|line| {
            line.parse().map_err(|error| StateError::Content {
                path: path.to_owned(),
                reason: format!("{error}"),
                remedy: "the ledger keeps keys from being used twice: restore it from a backup, or remove it and give every pair new keys",
            })
        })
        .collect()
}

/// Removes the end of a line that a crash cut short: its key was never installed.
fn cut_torn(path: &Path, file: &mut File) -> Result<(), StateError> {
    let io = |attempt| StateError::io(attempt, path);
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
        let path = directory.path().join("deep/er").join(NAME);
        assert!(ledger.read().unwrap().is_empty());
        ledger.append([]).unwrap();
        assert!(!path.exists());
        ledger.append([KeyId([1; 8]), KeyId([2; 8])]).unwrap();
        let keys: BTreeSet<KeyId> = [KeyId([1; 8]), KeyId([2; 8])].into();
        assert_eq!(ledger.read().unwrap(), keys);

        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("0303");
        fs::write(&path, text).unwrap();
        assert_eq!(ledger.read().unwrap(), keys);
        ledger.append([KeyId([4; 8])]).unwrap();
        assert_eq!(ledger.read().unwrap().len(), 3);
    }

    #[test]
    fn ledger_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
        let directory = Directory::new();
        let ledger = UsedKeys::new(directory.path());
        let path = directory.path().join(NAME);
        fs::write(&path, "not a key\n").unwrap();
        let error = ledger.read().unwrap_err().to_string();
        assert!(
            error.contains("used-keys") && error.contains("backup"),
            "{error}"
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(ledger.read().is_err());
    }
    #[test]
    fn keys_of_epochs_are_known_until_the_epoch_after_theirs_is_over() {
        let directory = Directory::new();
        let mut ledger = UsedKeys::new(directory.path());
        let key = |number: u8| KeyId([number; 8]);
        let known = |ledger: &UsedKeys| -> Vec<u8> {
            let keys = ledger.read().unwrap();
            keys.into_iter().map(|KeyId(bytes)| bytes[0]).collect()
        };
        // Of a file.
        ledger.append([key(9)]).unwrap();
        ledger.are_of_epochs();
        ledger.end_epoch().unwrap();
        ledger.append([key(1)]).unwrap();
        assert_eq!(known(&ledger), [1, 9]);
        for number in 1..5 {
            // The keys of the next epoch are recorded before this one is over.
            ledger.append([key(number + 1)]).unwrap();
            assert!(known(&ledger).contains(&number));
            ledger.end_epoch().unwrap();
            assert!(known(&ledger).contains(&(number + 1)));
        }
        // Nothing came since: what is current is still known.
        ledger.end_epoch().unwrap();
        assert_eq!(known(&ledger), [5, 9]);
    }
}
