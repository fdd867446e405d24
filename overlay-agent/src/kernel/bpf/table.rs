//! Typed access to one hash map, over byte arrays: aya's `Pod` would need an `unsafe impl` for each
//! type, and would accept bytes that are no valid enum.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    hash::{DefaultHasher, Hasher as _},
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{HashMap, Map, MapData, MapError};
use bytemuck::{CheckedBitPattern, NoUninit};

use super::{error::BpfError, grace::Freed, sys};
use crate::dataplane::copy_on_write::CopyOnWrite;

/// Entries that one system call reads.
const AT_A_TIME: usize = 1024;

/// A hash map with keys `K` of `KS` bytes and values `V` of `VS` bytes.
#[derive(Debug)]
pub struct Table<K, V, const KS: usize, const VS: usize> {
    name: &'static str,
    /// Field of `map_sizes` that sets the capacity.
    setting: &'static str,
    capacity: u32,
    reuse: Reuse,
    map: HashMap<MapData, [u8; KS], [u8; VS]>,
    /// Of the same map, for what aya does not offer.
    fd: OwnedFd,
    types: PhantomData<fn() -> (K, V)>,
}

/// Stands for the entries of a map in any order: tens of thousands are compared with a later look by it. Others
/// who write to our maps change it; nobody who could write to them has a reason to find two sets that are alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableDigest {
    entries: u64,
    /// Of the hashes of all entries.
    sum: u64,
}

impl TableDigest {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut hash = DefaultHasher::new();
        hash.write(key);
        hash.write(value);
        self.entries += 1;
        self.sum = self.sum.wrapping_add(hash.finish());
    }
}

/// Whether a new entry may get memory that a program could still be reading; see [`super::grace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// Nothing was freed since the last grace period.
    Impossible,
    /// An entry was freed, or may have been by an earlier process.
    Possible(Freed),
    /// Reading another key's entry does no harm.
    Harmless,
}

impl<K, V, const KS: usize, const VS: usize> Table<K, V, KS, VS>
where
    K: NoUninit + CheckedBitPattern + Ord,
    V: NoUninit + CheckedBitPattern,
{
    pub(super) fn new(
        name: &'static str,
        setting: &'static str,
        data: MapData,
    ) -> Result<Self, BpfError> {
        const {
            assert!(size_of::<K>() == KS && size_of::<V>() == VS);
        }
        let failed = |source| BpfError::Map {
            attempt: "open",
            map: name,
            source,
        };
        let fd = data.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| failed(error.into()))?;
        let capacity = data.info().map_err(failed)?.max_entries();
        let map = Map::from_map_data(data)
            .and_then(HashMap::try_from)
            .map_err(failed)?;
        Ok(Self {
            name,
            setting,
            capacity,
            reuse: Reuse::Possible(Freed::now()),
            map,
            fd,
            types: PhantomData,
        })
    }

    /// Entries that fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The entry's value; `None` if there is no entry.
    pub fn get(&self, key: &K) -> Result<Option<V>, BpfError> {
        let key = to_array(key);
        match self.map.get(&key, 0) {
            Ok(value) => from_array(self.name, "value", &key, &value).map(Some),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(self.failed("look up in", source)),
        }
    }

    /// For a map in which a program may read another key's entry for one packet without harm.
    pub(super) fn harmless(mut self) -> Self {
        self.reuse = Reuse::Harmless;
        self
    }

    /// Adds or replaces an entry. A program sees the old value or the new one, and never that of
    /// another key.
    ///
    /// The first write after a replacement or a deletion waits for the programs that are running,
    /// some milliseconds: of many changes, make the deletions first, then the additions.
    pub fn put(&mut self, key: &K, value: &V) -> Result<(), BpfError> {
        /// Flags of include/uapi/linux/bpf.h.
        const BPF_ANY: u64 = 0;
        const BPF_NOEXIST: u64 = 1;
        if let Reuse::Possible(freed) = self.reuse {
            freed
                .settle()
                .map_err(|source| self.failed("wait for the readers of", source.into()))?;
            self.reuse = Reuse::Impossible;
        }
        let (key, value) = (to_array(key), to_array(value));
        let mut result = self.map.insert(key, value, BPF_NOEXIST);
        if errno(&result) == Some(libc::EEXIST) {
            self.freed();
            result = self.map.insert(key, value, BPF_ANY);
        }
        if errno(&result) == Some(libc::E2BIG) {
            return Err(BpfError::MapFull {
                map: self.name,
                capacity: self.capacity,
                setting: self.setting,
            });
        }
        result.map_err(|source| self.failed("write to", source))
    }

    /// Removes an entry; tells whether there was one.
    pub fn delete(&mut self, key: &K) -> Result<bool, BpfError> {
        let result = self.map.remove(&to_array(key));
        if errno(&result) == Some(libc::ENOENT) {
            return Ok(false);
        }
        self.freed();
        result
            .map(|()| true)
            .map_err(|source| self.failed("delete from", source))
    }

    fn freed(&mut self) {
        if self.reuse != Reuse::Harmless {
            self.reuse = Reuse::Possible(Freed::now());
        }
    }

    /// Every entry. Each bucket of the map is read at one instant.
    pub fn read(&self) -> Result<BTreeMap<K, V>, BpfError> {
        let mut entries = Vec::new();
        self.for_each(|key, value| {
            entries.push(self.entry(key, value)?);
            Ok(())
        })?;
        // Of all at once the nodes are full, of one after the other half full.
        Ok(entries.into_iter().collect())
    }

    /// Every entry, as [`Self::read`] has it, with what `of` makes of its value: `known`, where it is that.
    pub fn read_beside<W: PartialEq>(
        &self,
        known: &CopyOnWrite<BTreeMap<K, W>>,
        of: impl Fn(V) -> W,
    ) -> Result<CopyOnWrite<BTreeMap<K, W>>, BpfError> {
        let (mut same, mut entries) = (0, 0);
        self.for_each(|key, value| {
            let (key, value) = self.entry(key, value)?;
            entries += 1;
            same += usize::from(known.get(&key) == Some(&of(value)));
            Ok(())
        })?;
        if same == entries && same == known.len() {
            return Ok(known.clone());
        }
        let mut all = Vec::with_capacity(entries);
        self.for_each(|key, value| {
            let (key, value) = self.entry(key, value)?;
            all.push((key, of(value)));
            Ok(())
        })?;
        Ok(all.into_iter().collect())
    }

    fn entry(&self, key: &[u8; KS], value: &[u8; VS]) -> Result<(K, V), BpfError> {
        Ok((
            from_array(self.name, "key", key, key)?,
            from_array(self.name, "value", key, value)?,
        ))
    }

    /// Stands for every entry, which is read as by [`Self::read`] and not kept.
    pub fn digest(&self) -> Result<TableDigest, BpfError> {
        let mut digest = TableDigest::default();
        self.for_each(|key, value| {
            digest.add(key, value);
            Ok(())
        })?;
        Ok(digest)
    }

    fn for_each(
        &self,
        mut take: impl FnMut(&[u8; KS], &[u8; VS]) -> Result<(), BpfError>,
    ) -> Result<(), BpfError> {
        let failed = |source: io::Error| self.failed("read", source.into());
        let mut keys = vec![[0; KS]; AT_A_TIME];
        let mut values = vec![[0; VS]; AT_A_TIME];
        let mut from = None;
        loop {
            let batch = match sys::hash_read(self.fd.as_fd(), from, &mut keys, &mut values) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    // A bucket that holds more.
                    keys.resize(2 * keys.len(), [0; KS]);
                    values.resize(2 * values.len(), [0; VS]);
                    continue;
                }
                batch => batch.map_err(failed)?,
            };
            for (key, value) in keys.iter().zip(&values).take(batch.entries) {
                take(key, value)?;
            }
            from = batch.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    fn failed(&self, attempt: &'static str, source: MapError) -> BpfError {
        BpfError::Map {
            attempt,
            map: self.name,
            source,
        }
    }
}

fn errno(result: &Result<(), MapError>) -> Option<i32> {
    match result {
        Err(MapError::SyscallError(error)) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// The bytes of a value of exactly `N` bytes.
pub(super) fn to_array<T: NoUninit, const N: usize>(value: &T) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(bytemuck::bytes_of(value));
    bytes
}

/// A value from its bytes, if they are one.
pub(super) fn from_array<T: CheckedBitPattern>(
    map: &'static str,
    part: &'static str,
    key: &[u8],
    bytes: &[u8],
) -> Result<T, BpfError> {
    bytemuck::checked::try_pod_read_unaligned(bytes).map_err(|error| BpfError::InvalidEntry {
        map,
        part,
        key: key.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        }),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use overlay_ebpf::abi::{Vtep, VtepRole};

    use super::*;

    #[test]
    fn a_digest_is_of_the_entries_whatever_their_order() {
        let of = |entries: &[(u8, u8)]| {
            let mut digest = TableDigest::default();
            for (key, value) in entries {
                digest.add(&[*key], &[*value]);
            }
            digest
        };
        assert_eq!(of(&[(1, 2), (3, 4)]), of(&[(3, 4), (1, 2)]));
        for other in [&[(1, 2)][..], &[(1, 4), (3, 2)], &[(1, 2), (3, 5)], &[]] {
            assert_ne!(of(&[(1, 2), (3, 4)]), of(other));
        }
    }

    #[test]
    fn an_invalid_enum_is_an_error_that_names_map_and_key() {
        let good: [u8; 8] = to_array(&Vtep {
            role: VtepRole::Remote,
            peer: 7,
        });
        assert_eq!(
            from_array::<Vtep>("vteps", "value", &[], &good)
                .unwrap()
                .peer,
            7
        );
        let mut bad = good;
        bad[..4].copy_from_slice(&9u32.to_ne_bytes());
        let error = from_array::<Vtep>("vteps", "value", &[0xfd, 0x00], &bad).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`vteps`") && text.contains("fd00"), "{text}");
    }
}
