//! The slots of one peer: at most four in each direction, whatever happens.

use overlay_ebpf::abi::{Epoch, Slot};

use crate::{
    id::{EpochName, Generation},
    secret::KeyMaterial,
    time::Instant,
};

use super::{
    acknowledgement::Acknowledgement,
    sa::{Direction, SlotKey},
};

/// How far the SAs of a slot are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Keys by lane, not handed out yet.
    New(Vec<KeyMaterial>),
    /// The executor has the keys, and nobody else.
    HandedOut,
    /// Installed.
    Ready,
    /// Not desired any more; the number is free once the executor has removed it.
    Leaving,
    /// Given up before the executor heard of it: nobody will report that it is gone.
    Void,
}

/// The SAs of one slot and direction.
#[derive(Debug)]
pub(super) struct SlotState {
    pub key: SlotKey,
    pub epoch: Epoch,
    /// `None` for an adopted one.
    pub name: Option<EpochName>,
    pub lanes: u8,
    pub sender_generation: Generation,
    pub receiver_generation: Generation,
    /// The receiver's number of the staging; 0 for an adopted one.
    pub session: u64,
    /// Age among the slots of this peer and direction: larger is newer.
    pub order: u64,
    pub progress: Progress,
    /// When the slot came to its present use.
    pub since: Instant,
    /// Since when no packet is sent in it, as far as this node knows.
    pub idle: Option<Instant>,
    /// When it ends although the sender has not said that it is idle.
    pub expires: Option<Instant>,
}

impl SlotState {
    pub fn is_leaving(&self) -> bool {
        matches!(self.progress, Progress::Leaving | Progress::Void)
    }

    /// Desired no more. Keys that were not handed out are gone with this.
    pub fn let_go(&mut self) {
        self.progress = match self.progress {
            Progress::New(_) | Progress::Void => Progress::Void,
            Progress::HandedOut | Progress::Ready | Progress::Leaving => Progress::Leaving,
        };
    }

    pub fn is_ready(&self) -> bool {
        self.progress == Progress::Ready
    }
}

/// All slots of a peer.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<SlotState>);

impl Slots {
    /// Slots of one direction, those leaving among them.
    pub const MAX: usize = Acknowledgement::SLOTS;

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &SlotState> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut SlotState> {
        self.0.iter_mut()
    }

    pub fn of(&self, direction: Direction) -> impl Iterator<Item = &SlotState> {
        self.0
            .iter()
            .filter(move |state| state.key.direction == direction)
    }

    pub fn of_mut(&mut self, direction: Direction) -> impl Iterator<Item = &mut SlotState> {
        self.0
            .iter_mut()
            .filter(move |state| state.key.direction == direction)
    }

    pub fn get(&self, key: SlotKey) -> Option<&SlotState> {
        self.0.iter().find(|state| state.key == key)
    }

    pub fn get_mut(&mut self, key: SlotKey) -> Option<&mut SlotState> {
        self.0.iter_mut().find(|state| state.key == key)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The executor has removed a slot: it is forgotten if it was to go.
    pub fn removed(&mut self, key: SlotKey) -> bool {
        let before = self.0.len();
        self.0
            .retain(|state| state.key != key || !state.is_leaving());
        self.0.len() < before
    }

    /// Makes room for one more slot of a direction. If there is none, the oldest slot that `needed`
    /// does not hold back begins to leave, and the answer is `false` until it is gone.
    pub fn make_room(&mut self, direction: Direction, needed: impl Fn(&SlotState) -> bool) -> bool {
        if self.of(direction).count() < Self::MAX {
            return true;
        }
        if self.of(direction).all(|state| !state.is_leaving())
            && let Some(oldest) = self
                .of_mut(direction)
                .filter(|state| !needed(state))
                .min_by_key(|state| state.order)
        {
            oldest.let_go();
        }
        false
    }

    /// Forgets what was given up before anyone heard of it.
    pub fn sweep(&mut self) {
        self.0.retain(|state| state.progress != Progress::Void);
    }

    pub fn push(&mut self, state: SlotState) {
        debug_assert!(self.get(state.key).is_none(), "the slot is free");
        self.0.push(state);
    }

    /// The newest slot of a direction that is of use and fits.
    pub fn newest(
        &self,
        direction: Direction,
        fits: impl Fn(&SlotState) -> bool,
    ) -> Option<&SlotState> {
        self.of(direction)
            .filter(|state| !state.is_leaving() && fits(state))
            .max_by_key(|state| state.order)
    }

    /// The next number after `last` that neither end still knows.
    pub fn free_inbound(&self, last: Slot, held: &[Slot]) -> Slot {
        let taken = |slot: Slot| {
            held.contains(&slot) || self.of(Direction::In).any(|state| state.key.slot == slot)
        };
        let mut slot = last;
        loop {
            slot = Slot::new(slot.get().wrapping_add(1));
            if !taken(slot) {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(direction: Direction, slot: u8) -> SlotState {
        SlotState {
            key: SlotKey {
                direction,
                slot: Slot::new(slot),
            },
            epoch: Epoch::new(1),
            name: None,
            lanes: 1,
            sender_generation: Generation(1),
            receiver_generation: Generation(1),
            session: 0,
            order: u64::from(slot),
            progress: Progress::Ready,
            since: Instant::default(),
            idle: None,
            expires: None,
        }
    }

    #[test]
    fn a_number_that_either_end_knows_is_passed_over() {
        let mut slots = Slots::default();
        slots.push(state(Direction::In, 0));
        slots.push(state(Direction::Out, 2));
        let held = [Slot::new(1)];
        assert_eq!(slots.free_inbound(Slot::new(255), &held), Slot::new(2));
    }

    #[test]
    fn the_oldest_slot_that_is_not_needed_makes_room_once() {
        let mut slots = Slots::default();
        (0..4).for_each(|slot| slots.push(state(Direction::In, slot)));
        let needed = |state: &SlotState| state.key.slot == Slot::new(0);
        assert!(!slots.make_room(Direction::In, needed));
        assert!(!slots.make_room(Direction::In, needed), "one at a time");
        let leaving: Vec<_> = slots
            .iter()
            .filter(|state| state.is_leaving())
            .map(|state| state.key)
            .collect();
        assert_eq!(leaving.len(), 1);
        assert_eq!(leaving[0].slot, Slot::new(1));
        assert!(slots.removed(leaving[0]));
        assert!(slots.make_room(Direction::In, needed));
        assert!(slots.make_room(Direction::Out, needed));
    }
}
