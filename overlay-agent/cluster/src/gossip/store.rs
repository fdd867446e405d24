//! The newest record of each key of each owner, and what was deleted.
//!
//! Last writer wins: among the records of one owner and key the highest version stays. Versions are
//! the owner's own, so there is no other writer and no clock.
//!
//! # Deletions
//!
//! A deletion is a tombstone: a record like any other, with a higher version than what it deletes. A
//! node that has it refuses the old record whoever brings it back. Tombstones end in one of two ways:
//!
//! - The owner leaves the roster. Everything of it goes, and nothing of it is accepted again.
//! - The owner raises its *floor*: a signed record that says "everything I wrote below version F is
//!   void". Before, it writes every live record anew, above F, and gives them time to spread. A node that
//!   has the floor drops what is below, tombstones included, and refuses it ever after; the floor itself is
//!   kept as long as its owner is a member. A deleted record is below its tombstone, which is below F:
//!   so what a tombstone kept out, the floor keeps out. The floor only rises, for it is a record with a
//!   version too, and an owner signs no lower one.
//!
//! Tombstones are never dropped by age: a node that was away longer would bring the record back.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{
    record::{Body, Content, Key, Node, Record, Signed, Version},
    roster::Roster,
};
use crate::id::{ClusterId, NodeId};

/// Records of one owner, tombstones included: a node has about 1,000 endpoints.
pub const MAX_OF_OWNER: usize = 4096;
/// Records altogether beyond which an owner gets no more than [`FAIR_SHARE`].
pub const MAX_RECORDS: usize = 1 << 18;
/// Records that each member can have whatever the others do.
pub const FAIR_SHARE: usize = 64;

/// Groups of owners that anti-entropy compares: by the first byte of the node id, which is a hash.
pub const BUCKETS: usize = 256;

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Already there, or older than what is there.
    #[error("the record is known or replaced")]
    Known,
    /// Below the owner's floor.
    #[error("the record was voided by its owner")]
    Void,
    /// Not in the roster.
    #[error("record of {0}, which is not in the roster")]
    Stranger(NodeId),
    /// Not signed by the owner.
    #[error("record in the name of {0} without its signature: somebody with the gossip key lies")]
    Signature(NodeId),
    /// Too many records.
    #[error("{0} has no room for another record: it has published too many")]
    Quota(NodeId),
}

/// What a record changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub owner: NodeId,
    /// Keys whose content is another now. Empty where the owner wrote the same content anew.
    pub keys: Vec<Key>,
}

#[derive(Debug, Default)]
struct Owner {
    /// Ascending by key. A list, because most owners have a few dozen records and there are tens of thousands of all: a
    /// tree's nodes are half empty.
    records: Vec<(Key, Held)>,
    /// Exclusive or of the hashes of all records.
    digest: u128,
    floor: Version,
    newest: Version,
    tombstones: usize,
}

impl Owner {
    /// Where the record of a key is, or else belongs.
    fn find(&self, key: &Key) -> Result<usize, usize> {
        self.records.binary_search_by(|(at, _)| at.cmp(key))
    }

    fn get(&self, key: &Key) -> Option<&Held> {
        let at = self.find(key).ok()?;
        Some(&self.records[at].1)
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.records.iter().map(|(_, held)| held)
    }
}

#[derive(Debug)]
struct Held {
    signed: Signed,
    /// [`Key::place`], which costs a hash.
    place: u64,
}

/// One line of an owner's listing in anti-entropy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    pub place: u64,
    pub signed: &'a Signed,
}

#[derive(Debug)]
pub struct Store {
    cluster: ClusterId,
    owners: BTreeMap<NodeId, Owner>,
    records: usize,
}

impl Store {
    pub const fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            owners: BTreeMap::new(),
            records: 0,
        }
    }

    /// Takes a record if it is new, has room and is signed by its owner, in the order of what these
    /// checks cost.
    pub fn apply(&mut self, signed: Signed, roster: &impl Roster) -> Result<Change, Refused> {
        let record = signed.record();
        let (owner, version) = (record.owner, record.version);
        let key = record.content.key();
        let member = roster.key_of(owner).ok_or(Refused::Stranger(owner))?;
        let known = self.owners.get(&owner);
        let held = known.and_then(|known| known.get(&key));
        if let Some(known) = known
            && version < known.floor
            && key != Key::Floor
        {
            return Err(Refused::Void);
        }
        if held.is_some_and(|held| !signed.supersedes(&held.signed)) {
            return Err(Refused::Known);
        }
        let count = known.map_or(0, |known| known.records.len());
        let room = count < FAIR_SHARE || (count < MAX_OF_OWNER && self.records < MAX_RECORDS);
        // The floor always has room: it makes some.
        if held.is_none() && !room && key != Key::Floor {
            return Err(Refused::Quota(owner));
        }
        if !signed.verify(self.cluster, member) {
            return Err(Refused::Signature(owner));
        }
        Ok(self.insert(signed, record))
    }

    /// `record` is what `signed` says.
    fn insert(&mut self, signed: Signed, record: Record) -> Change {
        let Record {
            owner: name,
            version,
            content,
        } = record;
        let key = content.key();
        let owner = self.owners.entry(name).or_default();
        owner.newest = owner.newest.max(version);
        owner.digest ^= signed.hash();
        owner.tombstones += usize::from(matches!(content, Content::Deleted(_)));
        let mut keys = Vec::new();
        match owner.find(&key) {
            Err(at) => {
                // By an eighth, not to twice as many.
                if owner.records.len() == owner.records.capacity() {
                    owner.records.reserve_exact(4 + owner.records.len() / 8);
                }
                let place = key.place();
                owner.records.insert(at, (key, Held { signed, place }));
                self.records += 1;
                // Nobody misses what nobody knew.
                if content.body().is_some() {
                    keys.push(key);
                }
            }
            Ok(at) => {
                let old = std::mem::replace(&mut owner.records[at].1.signed, signed);
                owner.digest ^= old.hash();
                let old = old.record().content;
                owner.tombstones -= usize::from(matches!(old, Content::Deleted(_)));
                if old.body() != content.body() {
                    keys.push(key);
                }
            }
        }
        if let Content::Floor(floor) = content {
            // An owner that signs a lower floor later is lying; the old one holds.
            owner.floor = owner.floor.max(floor);
            let void = |held: &mut Held| held.signed.version() < floor;
            for (key, held) in owner
                .records
                .extract_if(.., |(key, held)| *key != Key::Floor && void(held))
            {
                owner.digest ^= held.signed.hash();
                self.records -= 1;
                match held.signed.record().content {
                    Content::Deleted(_) => owner.tombstones -= 1,
                    _ => keys.push(key),
                }
            }
        }
        Change { owner: name, keys }
    }

    /// Drops everything of nodes that left the roster, and says of whom and what.
    pub fn retain_members(&mut self, roster: &impl Roster) -> Vec<Change> {
        self.owners
            .extract_if(.., |owner, _| roster.key_of(*owner).is_none())
            .map(|(name, owner)| {
                self.records -= owner.records.len();
                let live = |held: &Held| held.signed.record().content.body().is_some();
                Change {
                    owner: name,
                    keys: owner
                        .records
                        .iter()
                        .filter(|(_, held)| live(held))
                        .map(|(key, _)| *key)
                        .collect(),
                }
            })
            .collect()
    }

    /// The record of a key, tombstones and floors included.
    pub fn signed(&self, owner: NodeId, key: &Key) -> Option<&Signed> {
        let held = self.owners.get(&owner)?.get(key)?;
        Some(&held.signed)
    }

    /// What is alive of a key.
    pub fn get(&self, owner: NodeId, key: &Key) -> Option<Body> {
        self.signed(owner, key)?.record().content.into_body()
    }

    /// Whether a key is alive or deleted.
    pub fn knows(&self, owner: NodeId, key: &Key) -> bool {
        self.signed(owner, key).is_some()
    }

    /// The node's own record, with the version whose generation is its start.
    pub fn node(&self, owner: NodeId) -> Option<(Version, Node)> {
        let record = self.signed(owner, &Key::Node)?.record();
        match record.content.into_body()? {
            Body::Node(node) => Some((record.version, node)),
            Body::Endpoint(_) | Body::Ephemeral(_) => None,
        }
    }

    /// Everything alive.
    pub fn bodies(&self) -> impl Iterator<Item = (NodeId, Body)> {
        self.owners.iter().flat_map(|(name, owner)| {
            owner
                .held()
                .filter_map(|held| Some((*name, held.signed.record().content.into_body()?)))
        })
    }

    /// Everything of one owner, tombstones and floor included.
    pub fn of(&self, owner: NodeId) -> impl Iterator<Item = &Signed> {
        self.owners
            .get(&owner)
            .into_iter()
            .flat_map(|owner| owner.held().map(|held| &held.signed))
    }

    /// Records held, tombstones and floors included.
    pub const fn len(&self) -> usize {
        self.records
    }

    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub fn tombstones(&self, owner: NodeId) -> usize {
        self.owners.get(&owner).map_or(0, |owner| owner.tombstones)
    }

    pub fn newest(&self, owner: NodeId) -> Version {
        self.owners
            .get(&owner)
            .map_or(Version::default(), |owner| owner.newest)
    }

    pub fn floor(&self, owner: NodeId) -> Version {
        self.owners
            .get(&owner)
            .map_or(Version::default(), |owner| owner.floor)
    }

    /// Digest of an owner's records: equal where two nodes hold the same. Only the owner's own
    /// records are in it, so whoever makes two sets collide hides nothing but its own.
    pub fn digest(&self, owner: NodeId) -> u128 {
        self.owners.get(&owner).map_or(0, |owner| owner.digest)
    }

    /// Owners of a bucket, in order.
    pub fn owners_in(&self, bucket: u8) -> impl Iterator<Item = (NodeId, u128)> {
        let mut first = [0; 16];
        first[0] = bucket;
        let mut last = [0xff; 16];
        last[0] = bucket;
        self.owners
            .range(NodeId::from_bytes(first)..=NodeId::from_bytes(last))
            .map(|(name, owner)| (*name, owner.digest))
    }

    /// One hash per bucket: zero where it is empty.
    pub fn buckets(&self) -> Vec<u64> {
        let mut hashes: Vec<Option<Sha256>> = vec![None; BUCKETS];
        for (name, owner) in &self.owners {
            let bucket = usize::from(name.as_bytes()[0]);
            let hash = hashes[bucket].get_or_insert_default();
            hash.update(name.as_bytes());
            hash.update(owner.digest.to_be_bytes());
        }
        hashes
            .into_iter()
            .map(|hash| {
                hash.map_or(0, |hash| {
                    let hash: [u8; 32] = hash.finalize().into();
                    let mut first = [0; 8];
                    first.copy_from_slice(&hash[..8]);
                    u64::from_be_bytes(first)
                })
            })
            .collect()
    }

    /// An owner's record at a place.
    pub fn at(&self, owner: NodeId, place: u64) -> Option<&Signed> {
        let mut records = self.owners.get(&owner)?.held();
        let held = records.find(|held| held.place == place)?;
        Some(&held.signed)
    }

    /// An owner's records at a place or after, in the order of places.
    pub fn list(&self, owner: NodeId, from: u64) -> Vec<Listed<'_>> {
        let mut list: Vec<_> = self
            .owners
            .get(&owner)
            .into_iter()
            .flat_map(Owner::held)
            .filter(|held| held.place >= from)
            .map(|held| Listed {
                place: held.place,
                signed: &held.signed,
            })
            .collect();
        list.sort_by_key(|listed| listed.place);
        list
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ed25519_dalek::{SigningKey, VerifyingKey};
    use overlay_ebpf::abi::{MacAddr, Vni};
    use proptest::prelude::*;

    use super::*;
    use crate::{gossip::record::Endpoint, id::Generation};

    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

    fn signing(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn id(n: u8) -> NodeId {
        NodeId::of(&signing(n).verifying_key())
    }

    fn roster() -> BTreeMap<NodeId, VerifyingKey> {
        (1..=3)
            .map(|n| (id(n), signing(n).verifying_key()))
            .collect()
    }

    fn mac(n: u64) -> MacAddr {
        let n = n.to_be_bytes();
        MacAddr([2, 1, n[4], n[5], n[6], n[7]])
    }

    fn endpoint(n: u64) -> Content {
        Content::Live(Body::Endpoint(Endpoint {
            vni: Vni::new(4096).expect("a VNI"),
            mac: mac(n),
            ips: [[10, 0, 0, 1].into()].into(),
            name: Default::default(),
        }))
    }

    fn version(counter: u64) -> Version {
        Version {
            generation: Generation(1),
            counter,
        }
    }

    fn signed_by(n: u8, counter: u64, content: Content) -> Signed {
        let record = Record {
            owner: id(1),
            version: version(counter),
            content,
        };
        Signed::new(record, CLUSTER, &signing(n)).expect("valid")
    }

    fn signed(counter: u64, content: Content) -> Signed {
        signed_by(1, counter, content)
    }

    #[test]
    fn the_highest_version_wins_in_any_order() {
        let (old, new) = (signed(1, endpoint(1)), signed(2, endpoint(1)));
        let mut store = Store::new(CLUSTER);
        store.apply(new.clone(), &roster()).expect("new");
        assert_eq!(store.apply(old.clone(), &roster()), Err(Refused::Known));
        let mut other = Store::new(CLUSTER);
        other.apply(old, &roster()).expect("new");
        let change = other.apply(new, &roster()).expect("newer");
        assert_eq!(change.keys, [], "the same content says nothing new");
        assert_eq!(store.digest(id(1)), other.digest(id(1)));
        assert_eq!(store.buckets(), other.buckets());
    }

    #[test]
    fn two_records_of_one_version_settle_on_the_same_one_everywhere() {
        let mut second = endpoint(1);
        if let Content::Live(Body::Endpoint(endpoint)) = &mut second {
            endpoint.name = "other".into();
        }
        let both = [signed(1, endpoint(1)), signed(1, second)];
        let mut stores = [Store::new(CLUSTER), Store::new(CLUSTER)];
        for (store, order) in stores.iter_mut().zip([[0, 1], [1, 0]]) {
            for index in order {
                let _settled = store.apply(both[index].clone(), &roster());
            }
        }
        assert_eq!(stores[0].digest(id(1)), stores[1].digest(id(1)));
    }

    #[test]
    fn nobody_speaks_for_another() {
        let mut store = Store::new(CLUSTER);
        let forged = signed_by(2, 1, endpoint(1));
        assert_eq!(
            store.apply(forged, &roster()),
            Err(Refused::Signature(id(1)))
        );
        let mut roster = roster();
        roster.remove(&id(1));
        let stranger = signed(1, endpoint(1));
        assert_eq!(
            store.apply(stranger, &roster),
            Err(Refused::Stranger(id(1)))
        );
        assert!(store.is_empty());
    }

    #[test]
    fn what_is_deleted_stays_deleted_with_a_tombstone_and_with_a_floor() {
        let mut store = Store::new(CLUSTER);
        let key = endpoint(1).key();
        let old = signed(1, endpoint(1));
        store.apply(old.clone(), &roster()).expect("new");
        let change = store.apply(signed(2, Content::Deleted(key)), &roster());
        assert_eq!(change.expect("newer").keys, [key]);
        assert_eq!(store.get(id(1), &key), None);
        assert_eq!(store.apply(old.clone(), &roster()), Err(Refused::Known));
        assert_eq!((store.len(), store.tombstones(id(1))), (1, 1));

        let change = store.apply(signed(4, Content::Floor(version(3))), &roster());
        assert_eq!(
            change.expect("newer").keys,
            [],
            "a tombstone's end is no news"
        );
        assert_eq!((store.len(), store.tombstones(id(1))), (1, 0));
        assert_eq!(store.apply(old, &roster()), Err(Refused::Void));
        store
            .apply(signed(3, endpoint(1)), &roster())
            .expect("above the floor");
    }

    #[test]
    fn a_floor_never_sinks() {
        let mut store = Store::new(CLUSTER);
        store
            .apply(signed(9, Content::Floor(version(8))), &roster())
            .expect("new");
        store
            .apply(signed(10, Content::Floor(version(2))), &roster())
            .expect("a newer record, if a lying one");
        assert_eq!(store.floor(id(1)), version(8));
        assert_eq!(
            store.apply(signed(5, endpoint(1)), &roster()),
            Err(Refused::Void)
        );
    }

    #[test]
    fn who_leaves_the_roster_leaves_nothing() {
        let mut store = Store::new(CLUSTER);
        store.apply(signed(1, endpoint(1)), &roster()).expect("new");
        let mut roster = roster();
        roster.remove(&id(1));
        let changes = store.retain_members(&roster);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].keys, [endpoint(1).key()]);
        assert_eq!((store.len(), store.digest(id(1))), (0, 0));
    }

    #[test]
    fn an_owner_fills_its_own_quota_and_can_still_make_room() {
        let mut store = Store::new(CLUSTER);
        for n in 0..MAX_OF_OWNER as u64 {
            // Written past `apply`: signing and checking 4,096 of them shows nothing.
            let signed = signed(n, endpoint(n));
            let record = signed.record();
            store.insert(signed, record);
        }
        let more = MAX_OF_OWNER as u64;
        assert_eq!(
            store.apply(signed(more, endpoint(more)), &roster()),
            Err(Refused::Quota(id(1)))
        );
        store
            .apply(signed(more, endpoint(0)), &roster())
            .expect("a key it has");
        let change = store.apply(signed(more + 1, Content::Floor(version(more))), &roster());
        assert_eq!(change.expect("has room").keys.len(), MAX_OF_OWNER - 1);
        assert_eq!(store.len(), 2);
    }

    proptest! {
        /// Steps of one owner, delivered to two nodes in any order with repetitions, leave both with the
        /// owner's own state as soon as each has seen each.
        #[test]
        fn any_order_of_delivery_ends_in_the_owners_state(
            steps in prop::collection::vec((0u64..6, 0u8..5), 1..30),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let mut written = Vec::new();
            let mut alive = BTreeSet::new();
            let mut counter = 0;
            for (n, what) in steps {
                let mut write = |content| {
                    counter += 1;
                    written.push(signed(counter, content));
                    counter
                };
                match what {
                    0..=2 => {
                        write(endpoint(n));
                        alive.insert(endpoint(n).key());
                    }
                    3 => {
                        write(Content::Deleted(endpoint(n).key()));
                        alive.remove(&endpoint(n).key());
                    }
                    _ => {
                        let from = write(endpoint(6));
                        alive.insert(endpoint(6).key());
                        for n in 0..6 {
                            if alive.contains(&endpoint(n).key()) {
                                write(endpoint(n));
                            }
                        }
                        write(Content::Floor(version(from)));
                    }
                }
            }
            let roster = roster();
            let mut stores = [Store::new(CLUSTER), Store::new(CLUSTER)];
            for index in order {
                let _settled = stores[0].apply(index.get(&written).clone(), &roster);
            }
            for record in &written {
                let _settled = stores[0].apply(record.clone(), &roster);
            }
            for record in written.iter().rev().chain(&written) {
                let _settled = stores[1].apply(record.clone(), &roster);
            }
            for store in &stores {
                let held: BTreeSet<_> = store.bodies().map(|(_, body)| body.key()).collect();
                prop_assert_eq!(&held, &alive);
            }
            prop_assert_eq!(stores[0].buckets(), stores[1].buckets());
        }
    }
}
