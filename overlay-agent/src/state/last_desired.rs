//! The data plane that was applied last, without secrets: `show` compares the kernel with it, and
//! `clear` finds its objects by its settings.

use std::path::{Path, PathBuf};

use overlay_ebpf::abi::{Epoch, Lane, PeerIndex, Slot};
use serde::{Deserialize, Serialize};

use super::{StateError, atomic_file};
use crate::dataplane::{
    desired::{self, DataPlane, Direction, Keying, SecurityAssociation},
    file::{File, FileError, Settings},
    key_id::KeyId,
};

const NAME: &str = "desired.json";

/// A file and the SAs that its keys made, by the names of the keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastDesired {
    file: File,
    sas: Vec<Sa>,
    /// Settings of data planes before, of which objects may be left: their apply did not come to its
    /// end.
    #[serde(default)]
    before: Vec<Settings>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sa {
    peer: u32,
    outbound: bool,
    epoch: u32,
    slot: u8,
    lane: u8,
    #[serde(default)]
    sender_generation: u64,
    #[serde(default)]
    receiver_generation: u64,
    key_id: Option<String>,
}

impl LastDesired {
    pub fn new(file: File, desired: &DataPlane) -> Self {
        let sas = desired
            .peers
            .values()
            .flat_map(|peer| {
                peer.sas.iter().map(|sa| Sa {
                    peer: peer.index.get(),
                    outbound: sa.direction == Direction::Out,
                    epoch: sa.epoch.get(),
                    slot: sa.slot.get(),
                    lane: sa.lane.get(),
                    sender_generation: sa.sender_generation,
                    receiver_generation: sa.receiver_generation,
                    key_id: match &sa.keying {
                        Keying::Keyed(material) => Some(KeyId::of(material).to_string()),
                        Keying::Adopted => None,
                    },
                })
            })
            .collect();
        Self {
            file,
            sas,
            before: Vec::new(),
        }
    }

    /// Keeps in mind what may be left of `last` until an apply has come to its end.
    #[must_use]
    pub fn after(mut self, last: Option<&Self>) -> Self {
        if let Some(last) = last {
            let own = self.file.settings.clone();
            self.before = last.before.clone();
            self.before.push(last.file.settings.clone());
            self.before.retain(|settings| *settings != own);
            self.before.dedup();
        }
        self
    }

    /// Nothing is left of what was before.
    #[must_use]
    pub fn settled(mut self) -> Self {
        self.before.clear();
        self
    }

    /// The settings alone, by which objects are found: all that an agent keeps in memory of what it wrote.
    #[must_use]
    pub fn settings_alone(self) -> Self {
        let Self { file, before, .. } = self;
        Self {
            file: File {
                networks: Vec::new(),
                peers: Vec::new(),
                endpoints: Vec::new(),
                remote_endpoints: Vec::new(),
                ..file
            },
            sas: Vec::new(),
            before,
        }
    }

    /// All settings whose objects may be there, those of this data plane first.
    pub fn settings(&self) -> Vec<desired::Settings> {
        std::iter::once(&self.file.settings)
            .chain(&self.before)
            .map(|settings| settings.clone().into())
            .collect()
    }

    /// The data plane, its SAs adopted: their keys are not here.
    pub fn desired(&self) -> Result<DataPlane, FileError> {
        let mut desired = self.file.desired(&[])?;
        for sa in &self.sas {
            let index = PeerIndex::new(sa.peer).ok();
            let peer = index.and_then(|index| desired.peers.get_mut(&index));
            if let (Some(peer), Ok(lane)) = (peer, Lane::new(sa.lane)) {
                peer.sas.push(SecurityAssociation {
                    direction: if sa.outbound {
                        Direction::Out
                    } else {
                        Direction::In
                    },
                    epoch: Epoch::new(sa.epoch),
                    slot: Slot::new(sa.slot),
                    lane,
                    sender_generation: sa.sender_generation,
                    receiver_generation: sa.receiver_generation,
                    keying: Keying::Adopted,
                });
            }
        }
        Ok(desired)
    }

    fn path(run_dir: &Path) -> PathBuf {
        run_dir.join(NAME)
    }

    pub fn read(run_dir: &Path) -> Result<Option<Self>, StateError> {
        let path = Self::path(run_dir);
        let Some(text) = atomic_file::read(&path)? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| StateError::Content {
                path,
                reason: error.to_string(),
                remedy: "remove it and apply the data plane again",
            })
    }

    pub fn write(&self, run_dir: &Path) -> Result<(), StateError> {
        let path = Self::path(run_dir);
        atomic_file::replace_with(&path, |file| {
            serde_json::to_writer_pretty(file, self).map_err(Into::into)
        })
    }

    pub fn remove(run_dir: &Path) -> Result<(), StateError> {
        atomic_file::remove(&Self::path(run_dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{
            file::{Format, keys::KeyEntry},
            testing,
        },
        state::atomic_file::testing::Directory,
    };

    #[test]
    fn last_desired_comes_back_without_its_keys() {
        let text = include_str!("../../../docs/examples/node-1.toml");
        let file = File::parse(text, Format::Toml).unwrap();
        let key = KeyEntry {
            sender: testing::index(1),
            receiver: testing::index(2),
            epoch: Epoch::new(1),
            slot: Slot::new(1),
            lane: Lane::new(0).unwrap(),
            key: testing::key(Direction::Out, 2, 1, 0, 0),
        };
        let mut desired = file.desired(std::slice::from_ref(&key)).unwrap();
        let directory = Directory::new();
        LastDesired::new(file, &desired)
            .write(directory.path())
            .unwrap();
        let stored = std::fs::read_to_string(directory.path().join(NAME)).unwrap();
        let hex: String = key
            .key
            .expose()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert!(!stored.contains(&hex));
        assert!(stored.contains(&KeyId::of(&key.key).to_string()));
        let back = LastDesired::read(directory.path()).unwrap().unwrap();
        for peer in desired.peers.values_mut() {
            for sa in &mut peer.sas {
                sa.keying = Keying::Adopted;
            }
        }
        assert_eq!(back.desired().unwrap(), desired);
    }
}
