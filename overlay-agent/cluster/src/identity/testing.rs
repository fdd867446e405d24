//! A cluster with its authority, for tests.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    Role,
    authority::{Authority, Validity},
    certificate::{self, Identity},
    node_key::NodeKey,
    trust::TrustBundle,
};
use crate::{id::ClusterId, time::Timestamp};

pub(super) const NOW: Timestamp = Timestamp::from_secs(1_780_000_000);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(super) const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);

pub(super) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub(super) struct Pki {
    pub(super) authority: Authority,
    pub(super) trust: TrustBundle,
}

impl Pki {
    pub(super) fn new(seed: u64) -> Self {
        Self::of(CLUSTER, seed)
    }

    pub(super) fn of(cluster: ClusterId, seed: u64) -> Self {
        let authority = Authority::generate(cluster, &Validity::default(), NOW, &mut rng(seed))
            .expect("an authority");
        let trust = TrustBundle::new(authority.root().clone());
        Self { authority, trust }
    }

    pub(super) fn next_authority(&self, seed: u64) -> Authority {
        Self::of(self.trust.cluster(), seed).authority
    }

    pub(super) fn node_key(&self, seed: u64) -> NodeKey {
        NodeKey::generate(&mut rng(seed.wrapping_add(1 << 32)))
    }

    pub(super) fn issue(&self, key: &NodeKey, role: Role) -> Vec<u8> {
        issue(&self.authority, key, role, NOW)
    }

    pub(super) fn identity(&self, key: &NodeKey) -> Identity {
        certificate::verify(&self.issue(key, Role::Worker), &self.trust, NOW).expect("issued")
    }
}

pub(super) fn issue(authority: &Authority, key: &NodeKey, role: Role, now: Timestamp) -> Vec<u8> {
    let seed = u64::from_be_bytes(*key.public().as_bytes().first_chunk().expect("32 bytes"));
    authority
        .issue(
            &key.public(),
            role,
            &Validity::default(),
            now,
            &mut rng(seed),
        )
        .expect("a certificate")
}

/// Each copy of `bytes` with one bit flipped.
pub(super) fn flipped(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        (bit, changed)
    })
}

/// A few copies of `bytes` with several bytes changed, and shorter ones.
pub(super) fn mangled(bytes: &[u8], seed: u64) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut rng = rng(seed);
    (0..2000).map(move |_| {
        let mut changed = bytes.to_vec();
        for _ in 0..=rng.next_u32() % 4 {
            let at = rng.next_u32() as usize % changed.len();
            changed[at] = match rng.next_u32() % 4 {
                0 => 0,
                1 => 0xff,
                2 => changed[rng.next_u32() as usize % changed.len()],
                _ => rng.next_u32() as u8,
            };
        }
        if rng.next_u32().is_multiple_of(4) {
            changed.truncate(rng.next_u32() as usize % changed.len());
        }
        changed
    })
}
