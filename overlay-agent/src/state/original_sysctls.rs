//! The values that sysctls had before we set them: to be restored, and to know which we set.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{StateError, atomic_file};

const NAME: &str = "sysctls.json";

#[derive(Debug)]
pub struct OriginalSysctls {
    path: PathBuf,
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Originals {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    overwritten: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(flatten)]
    values: BTreeMap<String, String>,
}

impl OriginalSysctls {
    pub fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(NAME),
        }
    }

    /// Path below `/proc/sys` → value before the first change.
    pub fn read(&self) -> Result<BTreeMap<String, String>, StateError> {
        Ok(self.load()?.values)
    }

    /// Of each setting that the first change of `name` overwrote beside it: path → value before.
    pub fn overwritten(&self, name: &str) -> Result<BTreeMap<String, String>, StateError> {
        Ok(self.load()?.overwritten.remove(name).unwrap_or_default())
    }

    fn load(&self) -> Result<Originals, StateError> {
        match atomic_file::read(&self.path)? {
            None => Ok(Originals::default()),
            Some(text) => serde_json::from_str(&text).map_err(|error| StateError::Content {
                path: self.path.clone(),
                reason: error.to_string(),
                remedy: "remove it; the sysctls then stay as they are when the data plane is cleared",
            }),
        }
    }

    /// Remembers a value, and those that changing it overwrites, unless it is remembered already.
    pub fn remember(
        &self,
        name: &str,
        value: &str,
        overwritten: BTreeMap<String, String>,
    ) -> Result<(), StateError> {
        let mut all = self.load()?;
        if all.values.contains_key(name) {
            return Ok(());
        }
        all.values.insert(name.to_owned(), value.to_owned());
        if !overwritten.is_empty() {
            all.overwritten.insert(name.to_owned(), overwritten);
        }
        self.write(&all)
    }

    pub fn forget(&self, name: &str) -> Result<(), StateError> {
        let mut all = self.load()?;
        all.overwritten.remove(name);
        match all.values.remove(name) {
            Some(_) if all.values.is_empty() => atomic_file::remove(&self.path),
            Some(_) => self.write(&all),
            None => Ok(()),
        }
    }

    fn write(&self, all: &Originals) -> Result<(), StateError> {
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
        let beside = |value: &str| BTreeMap::from([("net/b".to_owned(), value.to_owned())]);
        originals.remember("net/a", "0", beside("7")).unwrap();
        originals.remember("net/a", "1", beside("8")).unwrap();
        assert_eq!(
            originals.read().unwrap(),
            [("net/a".to_owned(), "0".to_owned())].into()
        );
        assert_eq!(originals.overwritten("net/a").unwrap(), beside("7"));
        originals.forget("net/a").unwrap();
        assert!(originals.read().unwrap().is_empty());
        assert!(originals.overwritten("net/a").unwrap().is_empty());
        assert!(!originals.path.exists());
    }
}
