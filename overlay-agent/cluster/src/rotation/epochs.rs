//! The live epochs of this node: roles, and what new SAs are made from.

use std::collections::BTreeMap;

use overlay_ebpf::abi::{Epoch, PeerIndex};

use crate::{
    id::{EpochName, Generation},
    keys::{Ephemeral, EpochSecrets},
};

use super::log_view::Role;

/// One live epoch.
#[derive(Debug)]
pub(super) struct LiveEpoch {
    pub role: Role,
    /// Secrets and our ephemeral key; `None` before they are pulled, and once the epoch retires.
    pub material: Option<Material>,
}

/// What keys are made from. All of it goes together.
#[derive(Debug)]
pub(super) struct Material {
    pub secrets: EpochSecrets,
    pub ephemeral: Ephemeral,
    /// Per peer, the last staging of theirs that we derived outbound keys for: only later ones are
    /// taken, so no key is made twice. Needed as long as `ephemeral` lives, and no longer. A peer is
    /// kept that has left: it may come back.
    pub used: BTreeMap<PeerIndex, Used>,
}

/// Ordered: a later generation's sessions start anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Used {
    pub generation: Generation,
    pub session: u64,
}

/// Epochs by name; without a view of the log nothing is known to have retired.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    pub known: bool,
    pub live: BTreeMap<EpochName, LiveEpoch>,
}

impl Epochs {
    /// The role of the epoch of an SA; `None` if it has retired. The name of an adopted SA's epoch is
    /// not known: then its number decides.
    pub fn role(&self, number: Epoch, name: Option<EpochName>) -> Option<Role> {
        if let Some(name) = name {
            return self.live.get(&name).map(|epoch| epoch.role);
        }
        if !self.known {
            return Some(Role::Active);
        }
        let last = self.live.keys().next_back()?;
        if number.get() > last.number {
            // An earlier agent was ahead of the log that we see: it knew why.
            return Some(Role::Staged);
        }
        self.live
            .iter()
            .rev()
            .find(|(name, _)| name.number == number.get())
            .map(|(_, epoch)| epoch.role)
    }

    /// The epoch whose keys are being spread, or were last.
    pub fn target(&self) -> Option<EpochName> {
        self.live
            .iter()
            .rev()
            .find(|(_, epoch)| epoch.role != Role::Retiring)
            .map(|(name, _)| *name)
    }

    /// Whether messages about an epoch are worth keeping: it is live, or we have not heard of it.
    pub fn may_come(&self, name: EpochName) -> bool {
        match self.live.keys().next_back() {
            Some(last) => self.live.contains_key(&name) || name > *last,
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(incarnation: u32, number: u32) -> EpochName {
        EpochName {
            incarnation,
            number,
            hash: [0; 8],
        }
    }

    fn epochs(live: &[(EpochName, Role)]) -> Epochs {
        Epochs {
            known: true,
            live: live
                .iter()
                .map(|(name, role)| {
                    let (role, material) = (*role, None);
                    (*name, LiveEpoch { role, material })
                })
                .collect(),
        }
    }

    #[test]
    fn an_adopted_sa_has_the_role_of_its_number() {
        let epochs = epochs(&[(name(0, 4), Role::Retiring), (name(0, 5), Role::Active)]);
        let role = |number| epochs.role(Epoch::new(number), None);
        assert_eq!(role(3), None);
        assert_eq!(role(4), Some(Role::Retiring));
        assert_eq!(role(5), Some(Role::Active));
        assert_eq!(role(6), Some(Role::Staged), "the log that we see is behind");
    }

    #[test]
    fn before_the_log_is_known_nothing_has_retired() {
        assert_eq!(
            Epochs::default().role(Epoch::new(1), None),
            Some(Role::Active)
        );
    }

    #[test]
    fn of_two_epochs_of_one_name_only_the_live_one_counts() {
        let epochs = epochs(&[(name(1, 5), Role::Active)]);
        assert_eq!(epochs.role(Epoch::new(5), Some(name(0, 5))), None);
        assert!(!epochs.may_come(name(0, 5)));
        assert!(epochs.may_come(name(1, 6)));
    }
}
