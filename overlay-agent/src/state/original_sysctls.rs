//! The values that sysctls had before we set them: to be restored, and to know which we set.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{StateError, atomic_file};

const NAME: &str = "sysctls.json";

#[derive(Debug)]
pub struct OriginalSysctls {
    path: PathBuf,
}

impl OriginalSysctls {
    pub fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(NAME),
        }
    }

    /// Path below `/proc/sys` → value before the first change.
    pub fn read(&self) -> Result<BTreeMap<String, String>, StateError> {
        match atomic_file::read(&self.path)? {
            None => Ok(BTreeMap::new()),
            Some(text) => serde_json::from_str(&text).map_err(|error| StateError::Content {
                path: self.path.clone(),
                reason: error.to_string(),
                remedy: "remove it; the sysctls then stay as they are when the data plane is cleared",
            }),
        }
    }

    /// Remembers a value unless one is remembered already.
    pub fn remember(&self, name: &str, value: &str) -> Result<(), StateError> {
        let mut all = self.read()?;
        if all.contains_key(name) {
            return Ok(());
        }
        all.insert(name.to_owned(), value.to_owned());
        self.write(&all)
    }

    pub fn forget(&self, name: &str) -> Result<(), StateError> {
        let mut all = self.read()?;
        match all.remove(name) {
            Some(_) if all.is_empty() => atomic_file::remove(&self.path),
            Some(_) => self.write(&all),
            None => Ok(()),
        }
    }

    fn write(&self, all: &BTreeMap<String, String>) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(all).map_err(|error| StateError::Content {
            path: self.path.clone(),
            reason: error.to_string(),
            remedy: "report this",
        })?;
        atomic_file::replace(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::atomic_file::testing::Directory;

    #[test]
    fn first_value_is_kept_until_it_is_forgotten() {
        let directory = Directory::new();
        let originals = OriginalSysctls::new(directory.path());
        originals.remember("net/a", "0").unwrap();
        originals.remember("net/a", "1").unwrap();
        assert_eq!(originals.read().unwrap()["net/a"], "0");
        originals.forget("net/a").unwrap();
        assert!(originals.read().unwrap().is_empty());
        assert!(!originals.path.exists());
    }
}
