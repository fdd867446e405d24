//! The data plane that was applied last, without secrets: `show` compares the kernel with it, and
//! `clear` finds its objects by its settings.

use std::path::{Path, PathBuf};

use overlay_ebpf::abi::{Epoch, Lane, PeerIndex, Slot};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct as _};

use super::{StateError, atomic_file};
use crate::dataplane::{
    desired::{self, DataPlane, Direction, Keying, SecurityAssociation},
    file::{Each, File, FileError, FileOf, Settings},
    key_id::KeyId,
};

const NAME: &str = "desired.json";

/// What was wanted, and its SAs by the names of their keys.
#[derive(Debug, Clone, Deserialize)]
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

impl Sa {
    fn of(peer: PeerIndex, sa: &SecurityAssociation) -> Self {
        Self {
            peer: peer.get(),
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
        }
    }
}

/// What is wanted, to be written down as the [`LastDesired`].
#[derive(Debug)]
pub struct Record<'a> {
    desired: &'a DataPlane,
    before: Vec<desired::Settings>,
}

impl<'a> Record<'a> {
    /// `before`: settings of data planes of which objects may be left until an apply has come to its end.
    pub fn new(desired: &'a DataPlane, before: &[desired::Settings]) -> Self {
        let others = before.iter().filter(|one| **one != desired.settings);
        let mut before: Vec<_> = others.cloned().collect();
        before.dedup();
        Self { desired, before }
    }

    /// Nothing is left of what was before.
    pub const fn settled(desired: &'a DataPlane) -> Self {
        let before = Vec::new();
        Self { desired, before }
    }

    /// As [`LastDesired::settings`].
    pub fn settings(self) -> Vec<desired::Settings> {
        let mut all = vec![self.desired.settings.clone()];
        all.extend(self.before);
        all
    }

    pub fn write(&self, run_dir: &Path) -> Result<(), StateError> {
        atomic_file::replace_with(&path(run_dir), |file| {
            serde_json::to_writer_pretty(file, self).map_err(Into::into)
        })
    }
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sas = self.desired.peers.values().flat_map(|peer| {
            let sas = peer.sas.iter();
            sas.map(|sa| Sa::of(peer.index, sa))
        });
        let mut record = serializer.serialize_struct("LastDesired", 3)?;
        record.serialize_field("file", &FileOf(self.desired))?;
        record.serialize_field("sas", &Each(sas))?;
        let before = self.before.iter().map(Settings::from);
        record.serialize_field("before", &Each(before))?;
        record.end()
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(NAME)
}

impl LastDesired {
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

    pub fn read(run_dir: &Path) -> Result<Option<Self>, StateError> {
        let path = path(run_dir);
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

    pub fn remove(run_dir: &Path) -> Result<(), StateError> {
        atomic_file::remove(&path(run_dir))
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
        let other = desired::Settings {
            port: 4790,
            ..desired.settings.clone()
        };
        let record = Record::new(&desired, &[other.clone(), desired.settings.clone(), other]);
        record.write(directory.path()).unwrap();
        let settings = record.settings();
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
        assert_eq!(back.settings(), settings);
        assert_eq!(settings.len(), 2);
        for peer in desired.peers.values_mut() {
            for sa in &mut peer.sas {
                sa.keying = Keying::Adopted;
            }
        }
        assert_eq!(back.desired().unwrap(), desired);
    }
}
