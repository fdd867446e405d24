//! Which VNIs have been given, so that none comes back while a packet or a node may still mean the
//! network that had it.

use std::collections::{BTreeMap, BTreeSet};

use overlay_ebpf::abi::Vni;
use serde::{Deserialize, Serialize};

use super::names::NetworkName;

/// Why a network gets no VNI, or not the one it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum VniRefusal {
    /// A network has it.
    #[error("VNI {vni} belongs to network {holder}: choose another, or name none")]
    Taken { vni: Vni, holder: NetworkName },
    /// Nodes may still hold addresses of the network that had it.
    #[error(
        "VNI {vni} was a removed network's, and nodes may still use it until epoch {epoch} has retired: choose another, or run `overlay keys rotate --wait` first"
    )]
    Closing { vni: Vni, epoch: u32 },
    /// All are in use.
    #[error("all VNIs from {first} to {last} are in use: remove networks, or widen the range")]
    Exhausted { first: Vni, last: Vni },
    /// What is remembered is bounded.
    #[error(
        "{limit} VNIs have been named explicitly, as many as are remembered: name none, so that one is given"
    )]
    TooManyNamed { limit: usize },
}

/// What has been given. Which VNIs are in use is known to the networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vnis {
    /// The next to be given: below it all have been, in this round through the range.
    next: u32,
    /// Named by a network, and not below `next`: as good as given.
    named: BTreeSet<Vni>,
    /// Of removed networks that had blocks, with the epoch whose retirement frees them.
    closing: BTreeMap<Vni, u32>,
}

impl Default for Vnis {
    fn default() -> Self {
        Self {
            next: Vni::MIN,
            named: BTreeSet::new(),
            closing: BTreeMap::new(),
        }
    }
}

impl Vnis {
    /// Explicitly named VNIs that are remembered.
    pub const MAX_NAMED: usize = 65_536;

    /// VNIs skipped when a backup is restored: networks may have been made since.
    pub const RESTORE_GAP: u32 = 4096;

    /// A VNI of the range that no network has, and none had since the range was last exhausted.
    pub fn give(
        &mut self,
        (first, last): (Vni, Vni),
        in_use: impl Fn(Vni) -> bool,
    ) -> Result<Vni, VniRefusal> {
        let free = |vni: &Vni| !in_use(*vni) && !self.closing.contains_key(vni);
        let from = |start: u32| {
            (start.max(first.get())..=last.get())
                .filter_map(|vni| Vni::new(vni).ok())
                .filter(free)
        };
        let fresh = from(self.next).find(|vni| !self.named.contains(vni));
        let again = || from(first.get()).next();
        let Some(vni) = fresh.or_else(again) else {
            return Err(VniRefusal::Exhausted { first, last });
        };
        if fresh.is_none() {
            self.named.clear();
        }
        self.next = vni.get() + 1;
        self.named = self.named.split_off(&vni);
        self.named.remove(&vni);
        Ok(vni)
    }

    /// Takes the VNI that a network names.
    pub fn name(&mut self, vni: Vni, holder: Option<&NetworkName>) -> Result<(), VniRefusal> {
        if let Some(holder) = holder {
            let holder = holder.clone();
            return Err(VniRefusal::Taken { vni, holder });
        }
        if let Some(&epoch) = self.closing.get(&vni) {
            return Err(VniRefusal::Closing { vni, epoch });
        }
        if vni.get() >= self.next {
            if self.named.len() >= Self::MAX_NAMED {
                let limit = Self::MAX_NAMED;
                return Err(VniRefusal::TooManyNamed { limit });
            }
            self.named.insert(vni);
        }
        Ok(())
    }

    /// Keeps the VNI of a removed network until `epoch` has retired.
    pub fn close(&mut self, vni: Vni, epoch: u32) {
        self.closing.insert(vni, epoch);
    }

    /// Frees what waited for epochs below `oldest`.
    pub fn retired(&mut self, oldest: u32) {
        self.closing.retain(|_, epoch| *epoch >= oldest);
    }

    pub fn restored(&mut self) {
        self.next = self.next.saturating_add(Self::RESTORE_GAP);
        self.named.retain(|vni| vni.get() >= self.next);
    }

    pub fn closing(&self) -> impl Iterator<Item = Vni> {
        self.closing.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni(vni: u32) -> Vni {
        Vni::new(vni).expect("a VNI")
    }

    fn range() -> (Vni, Vni) {
        (vni(5000), vni(5003))
    }

    #[test]
    fn none_comes_back_before_the_range_is_exhausted() {
        let mut vnis = Vnis::default();
        let mut give = |in_use: &[u32]| {
            vnis.give(range(), |vni| in_use.contains(&vni.get()))
                .map(Vni::get)
        };
        assert_eq!(
            [give(&[]), give(&[]), give(&[])],
            [Ok(5000), Ok(5001), Ok(5002)]
        );
        assert_eq!(give(&[5000]), Ok(5003));
        assert_eq!(give(&[5000]), Ok(5001), "a second round");
        let all = [5000, 5001, 5002, 5003];
        assert!(matches!(give(&all), Err(VniRefusal::Exhausted { .. })));
    }

    #[test]
    fn a_named_one_is_not_given_later_in_the_round() {
        let mut vnis = Vnis::default();
        vnis.name(vni(5001), None).expect("free");
        assert_eq!(vnis.give(range(), |_| false), Ok(vni(5000)));
        assert_eq!(vnis.give(range(), |_| false), Ok(vni(5002)));
        let holder = NetworkName::new("web").expect("a name");
        assert!(vnis.name(vni(5002), Some(&holder)).is_err());
    }

    #[test]
    fn one_that_nodes_may_still_use_waits_for_its_epoch() {
        let mut vnis = Vnis::default();
        vnis.close(vni(5000), 7);
        assert!(matches!(
            vnis.name(vni(5000), None),
            Err(VniRefusal::Closing { .. })
        ));
        assert_eq!(vnis.give(range(), |_| false), Ok(vni(5001)));
        vnis.retired(7);
        assert!(vnis.name(vni(5000), None).is_err());
        vnis.retired(8);
        vnis.name(vni(5000), None).expect("free");
    }
}
