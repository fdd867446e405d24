//! Keys of all pairs of nodes, written as the keys files of single nodes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use overlay_agent::secret::KeyMaterial;

/// What a key belongs to: indices are those of nodes in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SaKey {
    pub sender: u32,
    pub receiver: u32,
    pub slot: u8,
    pub lane: u8,
}

/// The keys of a cluster and the epoch of each.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: BTreeMap<SaKey, (u32, KeyMaterial)>,
}

impl SaKey {
    /// SPI: sender (20 bits), slot (8), lane (4).
    pub fn spi(self) -> u32 {
        self.sender << 12 | u32::from(self.slot) << 4 | u32::from(self.lane)
    }
}

impl Keyring {
    /// Fresh random keys for every ordered pair.
    pub fn generate(&mut self, nodes: &[u32], epoch: u32, slot: u8, lanes: u8) -> Result<()> {
        for &sender in nodes {
            for &receiver in nodes.iter().filter(|&&receiver| receiver != sender) {
                for lane in 0..lanes {
                    let key = SaKey {
                        sender,
                        receiver,
                        slot,
                        lane,
                    };
                    self.keys.insert(key, (epoch, random()?));
                }
            }
        }
        Ok(())
    }

    /// The SAs that have a key.
    pub fn iter(&self) -> impl Iterator<Item = (SaKey, &KeyMaterial)> {
        self.keys
            .iter()
            .map(|(&key, (_, material))| (key, material))
    }

    /// Takes the keys out that this says no to.
    pub fn retain(&mut self, mut keep: impl FnMut(SaKey) -> bool) {
        self.keys.retain(|&key, _| keep(key));
    }

    /// Takes the keys of a slot out.
    pub fn remove_slot(&mut self, slot: u8) {
        self.retain(|key| key.slot != slot);
    }

    /// Writes the keys file of one node, mode 0600.
    pub fn write(&self, node: u32, path: &Path) -> Result<()> {
        let own = |key: &SaKey| key.sender == node || key.receiver == node;
        let mut text = zeroizing_text(256 * self.keys.len());
        for (key, (epoch, material)) in self.keys.iter().filter(|(key, _)| own(key)) {
            let SaKey {
                sender,
                receiver,
                slot,
                lane,
            } = key;
            write!(
                text.0,
                "[[key]]\nsender = {sender}\nreceiver = {receiver}\nepoch = {epoch}\n\
                 slot = {slot}\nlane = {lane}\nkey = \""
            )?;
            push_hex(&mut text.0, material);
            text.0.push_str("\"\n\n");
        }
        let attempt = || format!("write the keys file {}", path.display());
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(attempt);
            }
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(text.0.as_bytes()))
            .with_context(attempt)
    }
}

/// Text that holds keys; overwritten when dropped.
pub(super) struct SecretText(pub String);

pub(super) fn zeroizing_text(capacity: usize) -> SecretText {
    SecretText(String::with_capacity(capacity))
}

impl Drop for SecretText {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        std::hint::black_box(&bytes);
    }
}

/// Appends the 72 hexadecimal digits of a key.
pub(super) fn push_hex(text: &mut String, material: &KeyMaterial) {
    for byte in material.expose() {
        let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
        text.extend([digit(byte >> 4), digit(byte & 0xf)]);
    }
}

pub(crate) fn random() -> Result<KeyMaterial> {
    let mut bytes = [0; KeyMaterial::LEN];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(KeyMaterial::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ordered_pair_has_a_key_of_its_own() {
        let mut ring = Keyring::default();
        ring.generate(&[1, 2, 3], 1, 1, 2).unwrap();
        assert_eq!(ring.keys.len(), 12);
        let spi = |sender, slot, lane| {
            SaKey {
                sender,
                receiver: 9,
                slot,
                lane,
            }
            .spi()
        };
        assert_eq!(spi(1, 2, 3), 0x1023);
        assert_eq!(spi(0xfffff, 0xff, 0xf), 0xffff_ffff);
    }
}
