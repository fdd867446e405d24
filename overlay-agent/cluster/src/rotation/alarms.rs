//! The alarms that were raised.

use std::collections::BTreeSet;

use super::alarm::Alarm;

/// Each alarm once, and a bounded number of them: one that is open hides none of another kind for
/// long, as all are of the same few kinds.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    open: BTreeSet<Alarm>,
    new: Vec<Alarm>,
}

impl Alarms {
    const MAX: usize = 64;

    pub fn raise(&mut self, alarm: Alarm) {
        if self.open.len() < Self::MAX && self.open.insert(alarm) {
            self.new.push(alarm);
        }
    }

    pub fn take(&mut self) -> Option<Alarm> {
        self.new.pop()
    }

    pub fn open(&self) -> impl Iterator<Item = &Alarm> {
        self.open.iter()
    }
}
