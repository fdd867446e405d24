//! The alarms that were raised and are open.

use std::{collections::BTreeMap, mem::discriminant};

use overlay_ebpf::abi::PeerIndex;

use super::alarm::Alarm;

/// One alarm of a kind and peer: a hostile peer cannot drown those of others.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    own: Vec<Alarm>,
    of_peers: BTreeMap<PeerIndex, Vec<Alarm>>,
    new: Vec<Alarm>,
}

impl Alarms {
    pub fn raise(&mut self, alarm: Alarm) {
        let open = match alarm.peer() {
            Some(peer) => self.of_peers.entry(peer).or_default(),
            None => &mut self.own,
        };
        let same = |known: &Alarm| discriminant(known) == discriminant(&alarm);
        match open.iter_mut().find(|known| same(known)) {
            // A generation behind by more, for one.
            Some(known) if alarm.peer().is_none() && *known < alarm => *known = alarm,
            Some(_) => return,
            None => open.push(alarm),
        }
        self.new
            .retain(|known| !(same(known) && known.peer() == alarm.peer()));
        self.new.push(alarm);
    }

    /// What was wrong with a peer is over: it has a new agent, or is no peer any more.
    pub fn clear(&mut self, peer: PeerIndex) {
        self.of_peers.remove(&peer);
        self.new.retain(|alarm| alarm.peer() != Some(peer));
    }

    pub fn take(&mut self) -> Option<Alarm> {
        self.new.pop()
    }

    pub fn open(&self) -> impl Iterator<Item = &Alarm> {
        self.own.iter().chain(self.of_peers.values().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PublicKey;

    #[test]
    fn a_peer_has_one_alarm_of_a_kind_however_often_it_offends() {
        let mut alarms = Alarms::default();
        let peer = PeerIndex::new(7).expect("an index");
        for byte in 0..200 {
            let public = PublicKey::from_bytes([byte; 32]);
            alarms.raise(Alarm::BrokenKey { peer, public });
        }
        alarms.raise(Alarm::Evicted);
        assert_eq!(alarms.open().count(), 2);
        assert_eq!(alarms.take(), Some(Alarm::Evicted));
        assert!(alarms.take().is_some());
        assert_eq!(alarms.take(), None);
        alarms.clear(peer);
        assert_eq!(alarms.open().collect::<Vec<_>>(), [&Alarm::Evicted]);
    }
}
