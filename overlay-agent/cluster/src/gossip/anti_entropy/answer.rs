//! The answering side: each answer follows from the question and the store.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{
    FULL, Listed, Listing, MAX_DOWN, MAX_LISTED, Question, Reply, SyncError, decode, encode,
    is_ascending, records, root,
};
use crate::{
    gossip::{
        record::{Key, Signed},
        roster::Roster,
        store::Store,
    },
    id::NodeId,
};

/// A question that was read. Its records are to be applied before [`Answer::reply`] is asked for.
#[derive(Debug)]
pub struct Answer {
    question: Question,
    /// What the peer brought.
    pub records: Vec<Signed>,
}

/// Reads a question.
pub fn answer(bytes: &[u8]) -> Result<Answer, SyncError> {
    let mut question: Question = decode(bytes)?;
    let mut brought = Vec::new();
    match &mut question {
        Question::Root { .. } => {}
        Question::Owners { buckets, digests } => {
            if !is_ascending(buckets.iter()) || !is_ascending(digests.iter().map(|(id, _)| id)) {
                return Err(SyncError::Malformed);
            }
        }
        Question::Versions {
            records: bytes,
            listings,
        } => {
            let listed: usize = listings.iter().map(|listing| listing.entries.len()).sum();
            let in_order = |listing: &Listing| {
                let places = || listing.entries.iter().map(|entry| entry.place);
                is_ascending(places())
                    && places().all(|place| (listing.from..=listing.to).contains(&place))
            };
            if listed > MAX_LISTED || listings.len() > MAX_LISTED || !listings.iter().all(in_order)
            {
                return Err(SyncError::Malformed);
            }
            brought = records(&std::mem::take(bytes));
        }
    }
    Ok(Answer {
        question,
        records: brought,
    })
}

impl Answer {
    /// `down`: who is believed down here, for a peer that just started.
    pub fn reply(
        &self,
        store: &Store,
        roster: &impl Roster,
        down: impl Iterator<Item = NodeId>,
    ) -> Vec<u8> {
        encode(&match &self.question {
            Question::Root { hash, fresh } => {
                let down = match fresh {
                    true => down.take(MAX_DOWN).collect(),
                    false => Vec::new(),
                };
                if *hash == root(store) {
                    Reply::InSync { down }
                } else {
                    Reply::Buckets {
                        hashes: store.buckets(),
                        down,
                    }
                }
            }
            Question::Owners { buckets, digests } => {
                let theirs: BTreeMap<_, _> = digests.iter().copied().collect();
                let mine: BTreeMap<_, _> = buckets
                    .iter()
                    .flat_map(|bucket| store.owners_in(*bucket))
                    .collect();
                let owners: BTreeSet<_> = theirs
                    .keys()
                    .chain(mine.keys())
                    .filter(|owner| theirs.get(owner) != mine.get(owner))
                    .filter(|owner| roster.key_of(**owner).is_some())
                    .copied()
                    .collect();
                Reply::Differ {
                    owners: owners.into_iter().collect(),
                }
            }
            Question::Versions { listings, .. } => delta(listings, store, roster),
        })
    }
}

fn delta(listings: &[Listing], store: &Store, roster: &impl Roster) -> Reply {
    let mut records = Vec::new();
    let mut wanted = Vec::new();
    let mut size = 0;
    for (done, listing) in listings.iter().enumerate() {
        let owner = listing.owner;
        let floor = store.floor(owner);
        let known = roster.key_of(owner).is_some();
        let mine: BTreeMap<u64, &Signed> = store
            .list(owner, listing.from)
            .into_iter()
            .filter(|listed| listed.place <= listing.to)
            .map(|listed| (listed.place, listed.signed))
            .collect();
        let theirs: BTreeMap<u64, Listed> = listing
            .entries
            .iter()
            .map(|entry| (entry.place, *entry))
            .collect();
        let places: BTreeSet<u64> = mine.keys().chain(theirs.keys()).copied().collect();
        for place in places {
            if size >= FULL {
                return Reply::Delta {
                    records,
                    wanted,
                    done: done as u32,
                    resume: place,
                };
            }
            let (mine, theirs) = (mine.get(&place), theirs.get(&place));
            let order = match (mine, theirs) {
                (Some(mine), Some(theirs)) => {
                    let mine = Listed::of(place, mine);
                    if mine.version == theirs.version && mine.tag == theirs.tag {
                        continue;
                    }
                    mine.version.cmp(&theirs.version)
                }
                (mine, _) => mine.is_some().cmp(&theirs.is_some()),
            };
            if order.is_ge()
                && let Some(mine) = mine
            {
                size += mine.bytes().len() + 2;
                records.push(mine.bytes().to_vec());
            }
            if order.is_le()
                && let Some(theirs) = theirs
                && known
                && (theirs.version >= floor || place == Key::Floor.place())
            {
                size += 24;
                wanted.push((owner, place));
            }
        }
    }
    Reply::Delta {
        records,
        wanted,
        done: listings.len() as u32,
        resume: 0,
    }
}
