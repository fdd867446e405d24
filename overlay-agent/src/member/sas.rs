//! The SAs of all peers, between the rotation, which hands out each key once, and the kernel, which
//! takes its time.
//!
//! A key is kept here until the kernel has it or has refused it. Slots that are no longer wanted are
//! remembered until the kernel is rid of them, whether they were ever installed or not, so that the
//! rotation hears of the end of everything that it has handed out.

use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::rotation::{KernelEvent, Keying, PeerSas, Sa, SlotKey};
use overlay_ebpf::abi::{Lane, PeerIndex};

/// One SA that the kernel holds.
pub type Held = (PeerIndex, SlotKey, Lane);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Handed out; the kernel has not said anything yet.
    Asked,
    Installed,
    /// Refused or lost, and the rotation knows.
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sas {
    wanted: BTreeMap<PeerIndex, PeerSas>,
    slots: BTreeMap<(PeerIndex, SlotKey), State>,
    /// The attempt that includes what is wanted of the peer now.
    since: BTreeMap<PeerIndex, u64>,
    attempt: u64,
}

impl Sas {
    /// What is wanted of each peer now.
    pub const fn wanted(&self) -> &BTreeMap<PeerIndex, PeerSas> {
        &self.wanted
    }

    /// Takes what the rotation wants of a peer from now on.
    pub fn want(&mut self, peer: PeerIndex, mut sas: PeerSas) {
        let before = self.wanted.remove(&peer).unwrap_or_default();
        for sa in &mut sas.sas {
            let kept = before.sas.iter().find(|old| is_same(old, sa));
            if let (Keying::Adopted, Some(old)) = (&sa.keying, kept) {
                sa.keying = old.keying.clone();
            }
            // What an earlier agent has installed comes without a key and is there.
            let state = match sa.keying {
                Keying::Adopted => State::Installed,
                Keying::Keyed(_) => State::Asked,
            };
            self.slots.entry((peer, slot_of(sa))).or_insert(state);
        }
        self.since.insert(peer, self.attempt + 1);
        self.wanted.insert(peer, sas);
    }

    /// Begins an attempt to make the kernel hold what is wanted now.
    pub const fn begin(&mut self) -> u64 {
        self.attempt += 1;
        self.attempt
    }

    /// What an attempt has led to, from all SAs that the kernel holds after it. What came to be wanted
    /// since is left to the next one.
    pub fn found(
        &mut self,
        attempt: u64,
        held: &BTreeSet<Held>,
    ) -> Vec<(PeerIndex, SlotKey, KernelEvent)> {
        let mut events = Vec::new();
        let slots: Vec<_> = self
            .slots
            .iter()
            .map(|(key, state)| (*key, *state))
            .collect();
        for ((peer, slot), state) in slots {
            if self.since.get(&peer).is_none_or(|since| *since > attempt) {
                continue;
            }
            let lanes = self.lanes(peer, slot);
            let is_held = |lane: &Lane| held.contains(&(peer, slot, *lane));
            let event = if lanes.is_empty() {
                let gone = !held.iter().any(|(of, at, _)| (*of, *at) == (peer, slot));
                gone.then_some(KernelEvent::Removed)
            } else {
                match (state, lanes.iter().all(is_held)) {
                    (State::Asked, true) => Some(KernelEvent::Installed),
                    (State::Asked, false) => Some(KernelEvent::Failed),
                    (State::Installed, false) => Some(KernelEvent::Lost),
                    (State::Installed, true) | (State::Broken, _) => None,
                }
            };
            let Some(event) = event else { continue };
            match event {
                KernelEvent::Removed => {
                    self.slots.remove(&(peer, slot));
                }
                KernelEvent::Installed => {
                    self.slots.insert((peer, slot), State::Installed);
                }
                KernelEvent::Failed | KernelEvent::Lost => {
                    self.slots.insert((peer, slot), State::Broken);
                }
            }
            self.forget_keys(peer, slot);
            events.push((peer, slot, event));
        }
        let known: BTreeSet<_> = self.slots.keys().map(|(peer, _)| *peer).collect();
        self.wanted
            .retain(|peer, sas| known.contains(peer) || !sas.sas.is_empty());
        let wanted = &self.wanted;
        self.since.retain(|peer, _| wanted.contains_key(peer));
        events
    }

    fn lanes(&self, peer: PeerIndex, slot: SlotKey) -> Vec<Lane> {
        let sas = self.wanted.get(&peer).map_or(&[][..], |sas| &sas.sas);
        sas.iter()
            .filter(|sa| slot_of(sa) == slot)
            .map(|sa| sa.lane)
            .collect()
    }

    /// The kernel has spoken of these keys: they are of no use any more.
    fn forget_keys(&mut self, peer: PeerIndex, slot: SlotKey) {
        let sas = self.wanted.get_mut(&peer).map(|sas| sas.sas.iter_mut());
        for sa in sas.into_iter().flatten() {
            if slot_of(sa) == slot {
                sa.keying = Keying::Adopted;
            }
        }
    }
}

fn slot_of(sa: &Sa) -> SlotKey {
    SlotKey {
        direction: sa.direction,
        slot: sa.slot,
    }
}

fn is_same(a: &Sa, b: &Sa) -> bool {
    (slot_of(a), a.lane, a.epoch) == (slot_of(b), b.lane, b.epoch)
        && (a.sender_generation, a.receiver_generation)
            == (b.sender_generation, b.receiver_generation)
}

#[cfg(test)]
mod tests {
    use overlay_cluster::{id::Generation, rotation::Direction, secret::KeyMaterial};
    use overlay_ebpf::abi::{Epoch, Slot};

    use super::*;

    fn peer() -> PeerIndex {
        PeerIndex::new(2).unwrap()
    }

    fn lane(lane: u8) -> Lane {
        Lane::new(lane).unwrap()
    }

    fn slot(slot: u8) -> SlotKey {
        SlotKey {
            direction: Direction::In,
            slot: Slot::new(slot),
        }
    }

    fn keyed() -> Keying {
        Keying::Keyed(KeyMaterial::new([7; KeyMaterial::LEN]))
    }

    /// Inbound SAs of two lanes for each slot.
    fn sas(slots: &[(u8, Keying)]) -> PeerSas {
        let sa = |(slot, keying): &(u8, Keying), lane| Sa {
            direction: Direction::In,
            epoch: Epoch::new(1),
            slot: Slot::new(*slot),
            lane,
            sender_generation: Generation(1),
            receiver_generation: Generation(1),
            keying: keying.clone(),
        };
        PeerSas {
            transmit: None,
            sas: slots
                .iter()
                .flat_map(|of| [sa(of, lane(0)), sa(of, lane(1))])
                .collect(),
        }
    }

    fn held(slots: &[(u8, u8)]) -> BTreeSet<Held> {
        slots
            .iter()
            .map(|&(number, of)| (peer(), slot(number), lane(of)))
            .collect()
    }

    fn keys(sas: &Sas) -> usize {
        let all = sas.wanted().values().flat_map(|sas| &sas.sas);
        all.filter(|sa| matches!(sa.keying, Keying::Keyed(_)))
            .count()
    }

    #[test]
    fn a_key_is_kept_until_the_kernel_has_it() {
        let mut all = Sas::default();
        all.want(peer(), sas(&[(1, keyed())]));
        assert_eq!(keys(&all), 2);
        // The rotation speaks of it again before the kernel has answered.
        all.want(peer(), sas(&[(1, Keying::Adopted)]));
        assert_eq!(keys(&all), 2);
        let attempt = all.begin();
        let events = all.found(attempt, &held(&[(1, 0), (1, 1)]));
        assert_eq!(events, [(peer(), slot(1), KernelEvent::Installed)]);
        assert_eq!(keys(&all), 0);
        assert_eq!(all.found(attempt, &held(&[(1, 0), (1, 1)])), []);
    }

    #[test]
    fn a_slot_of_which_a_lane_is_missing_has_failed_and_is_said_once() {
        let mut all = Sas::default();
        all.want(peer(), sas(&[(1, keyed())]));
        let attempt = all.begin();
        let events = all.found(attempt, &held(&[(1, 0)]));
        assert_eq!(events, [(peer(), slot(1), KernelEvent::Failed)]);
        assert_eq!(keys(&all), 0, "a refused key is not tried again");
        assert_eq!(all.found(attempt, &held(&[(1, 0)])), []);
        // The rotation gives it up.
        all.want(peer(), sas(&[]));
        let attempt = all.begin();
        assert_eq!(all.found(attempt, &held(&[(1, 0)])), [], "still there");
        let events = all.found(attempt, &held(&[]));
        assert_eq!(events, [(peer(), slot(1), KernelEvent::Removed)]);
        assert_eq!(
            all,
            Sas {
                attempt,
                ..Sas::default()
            }
        );
    }

    #[test]
    fn what_is_wanted_since_an_attempt_began_is_not_judged_by_it() {
        let mut all = Sas::default();
        let attempt = all.begin();
        all.want(peer(), sas(&[(1, keyed())]));
        assert_eq!(all.found(attempt, &held(&[])), []);
        let attempt = all.begin();
        let events = all.found(attempt, &held(&[]));
        assert_eq!(events, [(peer(), slot(1), KernelEvent::Failed)]);
    }

    #[test]
    fn what_was_adopted_is_there_until_it_is_lost() {
        let mut all = Sas::default();
        all.want(peer(), sas(&[(1, Keying::Adopted)]));
        let attempt = all.begin();
        assert_eq!(all.found(attempt, &held(&[(1, 0), (1, 1)])), []);
        let events = all.found(attempt, &held(&[(1, 1)]));
        assert_eq!(events, [(peer(), slot(1), KernelEvent::Lost)]);
    }

    #[test]
    fn a_slot_that_was_taken_back_before_it_was_installed_ends_too() {
        let mut all = Sas::default();
        all.want(peer(), sas(&[(1, keyed())]));
        all.want(peer(), sas(&[]));
        let attempt = all.begin();
        let events = all.found(attempt, &held(&[]));
        assert_eq!(events, [(peer(), slot(1), KernelEvent::Removed)]);
    }
}
