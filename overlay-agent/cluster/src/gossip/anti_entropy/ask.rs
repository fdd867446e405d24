//! The asking side: what is left to ask of one peer.

use std::collections::{BTreeSet, VecDeque};

use super::message::{
    FULL, Listed, Listing, MAX_DOWN, MAX_LISTED, Question, Reply, SyncError, check_buckets, decode,
    encode, records, root,
};
use crate::{
    gossip::{record::Signed, store::Store},
    id::NodeId,
};

/// Messages after which an exchange is given up: 50,000 endpoints take about 300.
pub(super) const MAX_ROUNDS: u32 = 4096;

/// What an answer taught.
#[derive(Debug, Default)]
pub struct Learned {
    /// To be applied before [`Ask::next`] is asked for.
    pub records: Vec<Signed>,
    /// Believed down by the peer; only when this node asked as one that just started.
    pub down: Vec<NodeId>,
}

#[derive(Debug)]
enum Asked {
    Root,
    Owners { buckets: Vec<u8> },
    Versions { ranges: Vec<Range> },
}

/// Places of one owner, both ends included.
#[derive(Debug, Clone, Copy)]
struct Range {
    owner: NodeId,
    from: u64,
    to: u64,
}

/// One exchange with one peer.
#[derive(Debug)]
pub struct Ask {
    peer: NodeId,
    fresh: bool,
    asked: Asked,
    rounds: u32,
    /// Buckets that differ and whose owners were not asked for yet.
    buckets: VecDeque<u8>,
    /// What differs and was not listed yet.
    ranges: VecDeque<Range>,
    /// What the peer wants brought.
    wanted: VecDeque<(NodeId, u64)>,
    done: bool,
}

impl Ask {
    /// The first message to `peer`. `fresh`: this node just started.
    pub fn start(peer: NodeId, fresh: bool, store: &Store) -> (Self, Vec<u8>) {
        let hash = root(store);
        let ask = Self {
            peer,
            fresh,
            asked: Asked::Root,
            rounds: 1,
            buckets: VecDeque::new(),
            ranges: VecDeque::new(),
            wanted: VecDeque::new(),
            done: false,
        };
        (ask, encode(&Question::Root { hash, fresh }))
    }

    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// Reads an answer.
    pub fn receive(&mut self, bytes: &[u8], store: &Store) -> Result<Learned, SyncError> {
        let mut learned = Learned::default();
        match (&self.asked, decode(bytes)?) {
            (Asked::Root, Reply::InSync { down }) => {
                self.done = true;
                learned.down = down;
            }
            (Asked::Root, Reply::Buckets { hashes, down }) => {
                check_buckets(&hashes)?;
                let mine = store.buckets();
                self.buckets = (0..=u8::MAX)
                    .filter(|bucket| mine[usize::from(*bucket)] != hashes[usize::from(*bucket)])
                    .collect();
                learned.down = down;
            }
            (Asked::Owners { buckets }, Reply::Differ { owners }) => {
                if owners.iter().any(|id| !buckets.contains(&id.as_bytes()[0])) {
                    return Err(SyncError::Unexpected);
                }
                // The peer may name an owner once.
                let owners: BTreeSet<_> = owners.into_iter().collect();
                self.ranges.extend(owners.into_iter().map(|owner| Range {
                    owner,
                    from: 0,
                    to: u64::MAX,
                }));
            }
            (
                Asked::Versions { ranges },
                Reply::Delta {
                    records: brought,
                    wanted,
                    done,
                    resume,
                },
            ) => {
                let left = ranges.get(done as usize..).ok_or(SyncError::Malformed)?;
                if wanted.len() > MAX_LISTED {
                    return Err(SyncError::Malformed);
                }
                for (index, range) in left.iter().enumerate().rev() {
                    let mut range = *range;
                    if index == 0 {
                        range.from = range.from.max(resume);
                    }
                    self.ranges.push_front(range);
                }
                self.wanted.extend(wanted);
                learned.records = records(&brought);
            }
            _ => return Err(SyncError::Unexpected),
        }
        if !self.fresh {
            learned.down.clear();
        }
        learned.down.truncate(MAX_DOWN);
        Ok(learned)
    }

    /// The next message, or nothing when both sides have the same.
    pub fn next(&mut self, store: &Store) -> Result<Option<Vec<u8>>, SyncError> {
        let nothing = self.buckets.is_empty() && self.ranges.is_empty() && self.wanted.is_empty();
        if self.done || nothing {
            self.done = true;
            return Ok(None);
        }
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Err(SyncError::Endless);
        }
        let question = if self.buckets.is_empty() {
            self.ask_versions(store)
        } else {
            self.ask_owners(store)
        };
        Ok(Some(encode(&question)))
    }

    fn ask_owners(&mut self, store: &Store) -> Question {
        let mut buckets = Vec::new();
        let mut digests = Vec::new();
        while let Some(bucket) = self.buckets.front().copied() {
            let of_bucket: Vec<_> = store.owners_in(bucket).collect();
            if !buckets.is_empty() && (digests.len() + of_bucket.len()) * 32 > FULL {
                break;
            }
            buckets.push(bucket);
            digests.extend(of_bucket);
            self.buckets.pop_front();
        }
        self.asked = Asked::Owners {
            buckets: buckets.clone(),
        };
        Question::Owners { buckets, digests }
    }

    fn ask_versions(&mut self, store: &Store) -> Question {
        let mut records = Vec::new();
        let mut size = 0;
        while size < FULL
            && let Some((owner, place)) = self.wanted.pop_front()
        {
            if let Some(signed) = store.at(owner, place) {
                size += signed.bytes().len();
                records.push(signed.bytes().to_vec());
            }
        }
        let mut listings = Vec::new();
        let mut ranges = Vec::new();
        // What is wanted goes first, so that the list of it stays short.
        let mut room = match self.wanted.len() < MAX_LISTED {
            true => MAX_LISTED,
            false => 0,
        };
        while room > 0
            && listings.len() < MAX_LISTED / 2
            && let Some(mut range) = self.ranges.pop_front()
        {
            let list = store.list(range.owner, range.from);
            let mut rest = list.iter().filter(|listed| listed.place <= range.to);
            let entries: Vec<_> = rest
                .by_ref()
                .take(room)
                .map(|listed| Listed::of(listed.place, listed.signed))
                .collect();
            room -= entries.len();
            if let Some(next) = rest.next() {
                self.ranges.push_front(Range {
                    from: next.place,
                    ..range
                });
                range.to = next.place - 1;
            }
            listings.push(Listing {
                owner: range.owner,
                from: range.from,
                to: range.to,
                entries,
            });
            ranges.push(range);
        }
        self.asked = Asked::Versions { ranges };
        Question::Versions { records, listings }
    }
}
