//! The roster: who belongs to the cluster, and who did.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use overlay_ebpf::abi::PeerIndex;
use serde::{Deserialize, Serialize};

use super::{
    member::{Availability, Contact, ContactError, Member, NodeKey, Presence, Role},
    names::{Labels, NodeName},
};
pub use crate::identity::revocation::Standing;
use crate::{id::NodeId, time::Timestamp};

/// Why the roster stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RosterRefusal {
    /// No member has this id.
    #[error("no node {0} in this cluster: `overlay node ls` lists them")]
    Unknown(NodeId),
    /// The node was evicted; its key is void for good.
    #[error(
        "node {node} was evicted as {name} (index {index}): remove its key, and join with a new one"
    )]
    Evicted {
        node: NodeId,
        name: NodeName,
        index: PeerIndex,
    },
    /// Left members take no part until they join again.
    #[error("node {name} has left the cluster: let it join again, or remove it")]
    HasLeft { name: NodeName },
    /// Names are unique.
    #[error(
        "name {wanted} belongs to node {holder}: choose another name, or remove that node if it is gone"
    )]
    NameTaken { wanted: NodeName, holder: NodeId },
    /// An address belongs to one node.
    #[error(
        "address {address} belongs to node {holder}: advertise another, or remove that node if it is gone"
    )]
    AddressTaken { address: IpAddr, holder: NodeName },
    /// A control address belongs to one node.
    #[error("control address {address} belongs to node {holder}: choose another address or port")]
    ControlTaken {
        address: SocketAddr,
        holder: NodeName,
    },
    /// The node cannot be reached as it says.
    #[error(transparent)]
    Contact(#[from] ContactError),
    /// A member joined again under another name.
    #[error("node {node} is a member as {name}, not {wanted}: join as {name}, or rename it")]
    OtherName {
        node: NodeId,
        name: NodeName,
        wanted: NodeName,
    },
    /// A member joined again with the token of another role.
    #[error(
        "node {name} is a member as {role}, and the token is for a {wanted}: use `overlay node promote` or `demote`"
    )]
    OtherRole {
        name: NodeName,
        role: Role,
        wanted: Role,
    },
    /// The cluster must have a manager.
    #[error("node {name} is the last manager: promote another node first")]
    LastManager { name: NodeName },
    /// A node that takes part is not removed by mistake.
    #[error(
        "node {name} is neither down nor has it left: stop it, let it `overlay leave`, or evict it with `--force`"
    )]
    NotDown { name: NodeName },
    /// The roster is bounded.
    #[error("the cluster has {limit} nodes, as many as it can: remove nodes that are gone")]
    Full { limit: usize },
    /// An index is never given twice, and all have been given.
    #[error(
        "all {max} node indices have been given, and none is given twice: make a new cluster",
        max = PeerIndex::MAX
    )]
    IndicesExhausted,
}

/// A node that was evicted. It is remembered for good: whoever holds its key stays out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictedNode {
    pub index: PeerIndex,
    pub name: NodeName,
    pub at: Timestamp,
}

/// A node that asks to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applicant {
    pub key: NodeKey,
    pub name: NodeName,
    pub contact: Contact,
    pub labels: Labels,
}

/// What a join did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// A new member, with a new index.
    New,
    /// A member that had left is back, with its old index.
    Back,
    /// It was a member: the same join arrived again, or with a new address.
    Again,
}

/// Members by id, and the indices that have been given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    members: BTreeMap<NodeId, Member>,
    evicted: BTreeMap<NodeId, EvictedNode>,
    /// The next index; above [`PeerIndex::MAX`] there is none.
    next_index: u32,
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            members: BTreeMap::new(),
            evicted: BTreeMap::new(),
            next_index: 1,
        }
    }
}

impl Roster {
    /// Members at the most, those that left included.
    pub const MAX: usize = 16_384;

    /// Indices skipped when a backup is restored: nodes may have joined since it was made, and
    /// theirs are not given again.
    pub const RESTORE_GAP: u32 = 4096;

    pub fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members.iter()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub const fn evicted(&self) -> &BTreeMap<NodeId, EvictedNode> {
        &self.evicted
    }

    pub fn by_name(&self, name: &NodeName) -> Option<(&NodeId, &Member)> {
        self.members.iter().find(|(_, member)| member.name == *name)
    }

    pub fn managers(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| member.is_manager())
    }

    /// What a certificate of this node is worth.
    pub fn standing(&self, node: &NodeId) -> Standing {
        match self.members.get(node) {
            Some(member) if member.is_present() => Standing::Member {
                role: member.role,
                joined: member.joined,
            },
            Some(_) => Standing::Left,
            None if self.evicted.contains_key(node) => Standing::Evicted,
            None => Standing::Unknown,
        }
    }

    /// The member, whether it takes part or has left.
    pub fn member(&self, node: &NodeId) -> Result<&Member, RosterRefusal> {
        if let Some(member) = self.members.get(node) {
            return Ok(member);
        }
        Err(match self.evicted.get(node) {
            Some(evicted) => RosterRefusal::Evicted {
                node: *node,
                name: evicted.name.clone(),
                index: evicted.index,
            },
            None => RosterRefusal::Unknown(*node),
        })
    }

    /// The member, if it takes part.
    pub fn present(&self, node: &NodeId) -> Result<&Member, RosterRefusal> {
        let member = self.member(node)?;
        if member.is_present() {
            Ok(member)
        } else {
            Err(RosterRefusal::HasLeft {
                name: member.name.clone(),
            })
        }
    }

    /// Whether `applicant` may join as `role`, and how.
    pub fn check_join(
        &self,
        applicant: &Applicant,
        role: Role,
    ) -> Result<Admission, RosterRefusal> {
        let node = applicant.key.id();
        self.check_contact(&node, &applicant.contact)?;
        match self.member(&node) {
            Err(RosterRefusal::Unknown(_)) => {
                if self.left_as(&applicant.name).is_none() {
                    self.check_name(&node, &applicant.name)?;
                }
                if self.members.len() >= Self::MAX {
                    return Err(RosterRefusal::Full { limit: Self::MAX });
                }
                PeerIndex::new(self.next_index).map_err(|_| RosterRefusal::IndicesExhausted)?;
                Ok(Admission::New)
            }
            Err(refusal) => Err(refusal),
            Ok(member) if member.name != applicant.name => Err(RosterRefusal::OtherName {
                node,
                name: member.name.clone(),
                wanted: applicant.name.clone(),
            }),
            Ok(member) if !member.is_present() => Ok(Admission::Back),
            Ok(member) if member.role != role => Err(RosterRefusal::OtherRole {
                name: member.name.clone(),
                role: member.role,
                wanted: role,
            }),
            Ok(_) => Ok(Admission::Again),
        }
    }

    /// Joins as [`Self::check_join`] allows. Repeating it changes nothing but the contact. A member that
    /// left under the name is forgotten.
    pub fn join(
        &mut self,
        now: Timestamp,
        applicant: Applicant,
        role: Role,
    ) -> Result<(PeerIndex, Admission), RosterRefusal> {
        let admission = self.check_join(&applicant, role)?;
        let node = applicant.key.id();
        if let Some(member) = self.members.get_mut(&node) {
            member.contact = applicant.contact;
            if admission == Admission::Back {
                member.role = role;
                member.availability = Availability::Active;
                member.presence = Presence::Present;
                member.labels = applicant.labels;
                member.joined = now;
            }
            return Ok((member.index, admission));
        }
        let index = PeerIndex::new(self.next_index).map_err(|_| RosterRefusal::IndicesExhausted)?;
        self.next_index += 1;
        if let Some(left) = self.left_as(&applicant.name) {
            self.members.remove(&left);
        }
        let member = Member {
            index,
            name: applicant.name,
            key: applicant.key,
            role,
            availability: Availability::Active,
            presence: Presence::Present,
            contact: applicant.contact,
            labels: applicant.labels,
            joined: now,
        };
        self.members.insert(node, member);
        Ok((index, admission))
    }

    /// Whether the node may be reached so: no address of another member.
    pub fn check_contact(&self, node: &NodeId, contact: &Contact) -> Result<(), RosterRefusal> {
        contact.check()?;
        for (_, other) in self
            .members
            .iter()
            .filter(|(id, other)| *id != node && other.is_present())
        {
            // A VTEP is one node's alone; control addresses may share a host with ports apart.
            if let Some(address) = contact
                .vteps
                .iter()
                .find(|address| other.contact.vteps.iter().any(|theirs| theirs == *address))
            {
                return Err(RosterRefusal::AddressTaken {
                    address,
                    holder: other.name.clone(),
                });
            }
            if contact.control == other.contact.control {
                return Err(RosterRefusal::ControlTaken {
                    address: contact.control,
                    holder: other.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// The member that left and had this name. It forgot its key as it left, so it comes back as another
    /// node, for which the name is free.
    fn left_as(&self, name: &NodeName) -> Option<NodeId> {
        let (node, member) = self.by_name(name)?;
        (!member.is_present()).then_some(*node)
    }

    fn check_name(&self, node: &NodeId, name: &NodeName) -> Result<(), RosterRefusal> {
        match self.by_name(name) {
            Some((holder, _)) if holder != node => Err(RosterRefusal::NameTaken {
                wanted: name.clone(),
                holder: *holder,
            }),
            Some(_) | None => Ok(()),
        }
    }

    pub fn renew(&mut self, node: &NodeId, contact: Contact) -> Result<(), RosterRefusal> {
        self.check_contact(node, &contact)?;
        self.present_mut(node)?.contact = contact;
        Ok(())
    }

    pub fn rename(&mut self, node: &NodeId, name: NodeName) -> Result<(), RosterRefusal> {
        self.member(node)?;
        self.check_name(node, &name)?;
        self.present_mut(node)?.name = name;
        Ok(())
    }

    pub fn set_role(&mut self, node: &NodeId, role: Role) -> Result<(), RosterRefusal> {
        self.present(node)?;
        if role == Role::Worker {
            self.check_not_last_manager(node)?;
        }
        self.present_mut(node)?.role = role;
        Ok(())
    }

    pub fn set_availability(
        &mut self,
        node: &NodeId,
        availability: Availability,
    ) -> Result<(), RosterRefusal> {
        self.present_mut(node)?.availability = availability;
        Ok(())
    }

    pub fn set_labels(&mut self, node: &NodeId, labels: Labels) -> Result<(), RosterRefusal> {
        self.present_mut(node)?.labels = labels;
        Ok(())
    }

    pub fn leave(&mut self, now: Timestamp, node: &NodeId) -> Result<(), RosterRefusal> {
        self.present(node)?;
        self.check_not_last_manager(node)?;
        self.present_mut(node)?.presence = Presence::Left { at: now };
        Ok(())
    }

    /// Forgets a member that has left, or is `down` as the managers see it.
    pub fn remove(&mut self, node: &NodeId, down: bool) -> Result<(), RosterRefusal> {
        let member = self.member(node)?;
        if member.is_present() && !down {
            return Err(RosterRefusal::NotDown {
                name: member.name.clone(),
            });
        }
        self.check_not_last_manager(node)?;
        self.members.remove(node);
        Ok(())
    }

    /// Whether the node may be evicted: a member, and not the last manager.
    pub fn check_evict(&self, node: &NodeId) -> Result<(), RosterRefusal> {
        self.member(node)?;
        self.check_not_last_manager(node)
    }

    /// Removes a member, whatever it does, and keeps its key out for good.
    pub fn evict(&mut self, now: Timestamp, node: &NodeId) -> Result<PeerIndex, RosterRefusal> {
        self.check_evict(node)?;
        let Some(member) = self.members.remove(node) else {
            return Err(RosterRefusal::Unknown(*node));
        };
        let evicted = EvictedNode {
            index: member.index,
            name: member.name,
            at: now,
        };
        self.evicted.insert(*node, evicted);
        Ok(member.index)
    }

    /// Skips the indices that may have been given after the backup was made.
    pub fn restored(&mut self) {
        self.next_index = self
            .next_index
            .saturating_add(Self::RESTORE_GAP)
            .min(PeerIndex::MAX + 1);
    }

    fn check_not_last_manager(&self, node: &NodeId) -> Result<(), RosterRefusal> {
        match self.members.get(node) {
            Some(member) if member.is_manager() && self.managers().nth(1).is_none() => {
                Err(RosterRefusal::LastManager {
                    name: member.name.clone(),
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn present_mut(&mut self, node: &NodeId) -> Result<&mut Member, RosterRefusal> {
        self.present(node)?;
        self.members
            .get_mut(node)
            .ok_or(RosterRefusal::Unknown(*node))
    }

    /// What is wrong with the roster, if anything: it came from a disk or a fault in this file.
    pub fn fault(&self) -> Option<String> {
        if self.members.len() > Self::MAX {
            return Some(format!("{} members", self.members.len()));
        }
        if self.managers().next().is_none() {
            return Some("no manager".into());
        }
        let mut names = std::collections::BTreeSet::new();
        let mut indices = std::collections::BTreeSet::new();
        let mut vteps = BTreeMap::new();
        let mut controls = BTreeMap::new();
        for (node, member) in &self.members {
            if member.key.id() != *node {
                return Some(format!("node {node} has the key of {}", member.key.id()));
            }
            if self.evicted.contains_key(node) {
                return Some(format!("node {node} is a member and evicted"));
            }
            if !names.insert(&member.name) {
                return Some(format!("two nodes are named {}", member.name));
            }
            if !indices.insert(member.index) || member.index.get() >= self.next_index {
                return Some(format!("node index {} is of no order", member.index));
            }
            if let Err(error) = member.contact.check() {
                return Some(error.to_string());
            }
            if !member.is_present() {
                continue;
            }
            for address in member.contact.vteps.iter() {
                if vteps.insert(address, node).is_some() {
                    return Some(format!("two nodes have the address {address}"));
                }
            }
            if controls.insert(member.contact.control, node).is_some() {
                return Some(format!("two nodes listen on {}", member.contact.control));
            }
        }
        for evicted in self.evicted.values() {
            if !indices.insert(evicted.index) || evicted.index.get() >= self.next_index {
                return Some(format!("node index {} is of no order", evicted.index));
            }
        }
        (self.next_index > PeerIndex::MAX + 1).then(|| "indices beyond the last".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::{applicant, now};

    fn roster(nodes: u8) -> (Roster, Vec<NodeId>) {
        let mut roster = Roster::default();
        let ids = (1..=nodes)
            .map(|n| {
                let role = if n == 1 { Role::Manager } else { Role::Worker };
                roster.join(now(0), applicant(n), role).expect("joins");
                applicant(n).key.id()
            })
            .collect();
        assert_eq!(roster.fault(), None);
        (roster, ids)
    }

    #[test]
    fn a_join_repeated_gives_the_same_index() {
        let (mut roster, _) = roster(3);
        let before = roster.clone();
        let (index, admission) = roster
            .join(now(9), applicant(2), Role::Worker)
            .expect("joins");
        assert_eq!((index.get(), admission), (2, Admission::Again));
        assert_eq!(roster, before);
    }

    #[test]
    fn an_index_is_not_given_again_after_removal_or_eviction() {
        let (mut roster, ids) = roster(3);
        roster.remove(&ids[1], true).expect("removed");
        roster.evict(now(1), &ids[2]).expect("evicted");
        let (index, admission) = roster
            .join(now(2), applicant(2), Role::Worker)
            .expect("joins");
        assert_eq!((index.get(), admission), (4, Admission::New));
        assert_eq!(roster.fault(), None);
    }

    #[test]
    fn a_node_that_left_comes_back_with_its_index() {
        let (mut roster, ids) = roster(3);
        roster.leave(now(1), &ids[1]).expect("leaves");
        assert_eq!(roster.standing(&ids[1]), Standing::Left);
        let (index, admission) = roster
            .join(now(2), applicant(2), Role::Worker)
            .expect("joins");
        assert_eq!((index.get(), admission), (2, Admission::Back));
        let joined = now(2);
        let role = Role::Worker;
        assert_eq!(roster.standing(&ids[1]), Standing::Member { role, joined });
    }

    #[test]
    fn the_name_of_a_node_that_left_is_free_for_who_joins() {
        let (mut roster, ids) = roster(3);
        let mut back = applicant(4);
        back.name = applicant(2).name;
        back.contact = applicant(2).contact;
        roster.leave(now(1), &ids[1]).expect("leaves");
        let name = applicant(2).name;
        assert!(roster.rename(&ids[2], name).is_err(), "nobody takes it");
        let (index, admission) = roster
            .join(now(2), back.clone(), Role::Worker)
            .expect("joins");
        assert_eq!((index.get(), admission), (4, Admission::New));
        assert_eq!(roster.standing(&ids[1]), Standing::Unknown);
        assert_eq!(roster.fault(), None);
        // The key of before, if it is still there, is a node that has no name.
        let refusal = roster
            .join(now(3), applicant(2), Role::Worker)
            .expect_err("the address and the name are taken");
        assert!(
            matches!(refusal, RosterRefusal::AddressTaken { .. }),
            "{refusal}"
        );
    }

    #[test]
    fn the_key_of_an_evicted_node_stays_out() {
        let (mut roster, ids) = roster(2);
        roster.evict(now(1), &ids[1]).expect("evicted");
        assert_eq!(roster.standing(&ids[1]), Standing::Evicted);
        let refusal = roster
            .join(now(2), applicant(2), Role::Worker)
            .expect_err("evicted");
        assert!(
            matches!(refusal, RosterRefusal::Evicted { .. }),
            "{refusal}"
        );
    }

    #[test]
    fn the_last_manager_neither_leaves_nor_is_demoted_removed_or_evicted() {
        let (mut roster, ids) = roster(2);
        let before = roster.clone();
        let last = |result: Result<(), RosterRefusal>| {
            assert!(
                matches!(result, Err(RosterRefusal::LastManager { .. })),
                "{result:?}"
            );
        };
        last(roster.leave(now(1), &ids[0]));
        last(roster.set_role(&ids[0], Role::Worker));
        last(roster.remove(&ids[0], true));
        last(roster.evict(now(1), &ids[0]).map(|_| ()));
        assert_eq!(roster, before);
        roster.set_role(&ids[1], Role::Manager).expect("promoted");
        roster.set_role(&ids[0], Role::Worker).expect("demoted");
    }

    #[test]
    fn names_and_addresses_of_others_are_refused_with_their_holder() {
        let (mut roster, ids) = roster(2);
        let mut other = applicant(3);
        other.name = applicant(2).name;
        let refusal = roster
            .join(now(1), other, Role::Worker)
            .expect_err("a name twice")
            .to_string();
        assert!(refusal.contains(&ids[1].to_string()), "{refusal}");
        let mut other = applicant(3);
        other.contact.vteps = applicant(2).contact.vteps;
        let refusal = roster
            .join(now(1), other, Role::Worker)
            .expect_err("an address twice")
            .to_string();
        assert!(refusal.contains("node node-2"), "{refusal}");
        let mut contact = applicant(3).contact;
        contact.control = applicant(1).contact.control;
        let refusal = roster
            .renew(&ids[1], contact)
            .expect_err("a control address twice");
        assert!(
            matches!(refusal, RosterRefusal::ControlTaken { .. }),
            "{refusal}"
        );
        let name = applicant(1).name;
        assert!(roster.rename(&ids[1], name).is_err());
    }

    #[test]
    fn a_node_that_takes_part_is_not_removed() {
        let (mut roster, ids) = roster(2);
        assert!(roster.remove(&ids[1], false).is_err());
        roster.leave(now(1), &ids[1]).expect("leaves");
        roster.remove(&ids[1], false).expect("removed");
        assert_eq!(roster.standing(&ids[1]), Standing::Unknown);
    }

    #[test]
    fn the_last_index_is_given_once() {
        let (mut roster, _) = roster(1);
        roster.next_index = PeerIndex::MAX;
        let (index, _) = roster
            .join(now(1), applicant(2), Role::Worker)
            .expect("joins");
        assert_eq!(index.get(), PeerIndex::MAX);
        assert_eq!(
            roster.join(now(1), applicant(3), Role::Worker),
            Err(RosterRefusal::IndicesExhausted)
        );
        roster.restored();
        assert_eq!(roster.fault(), None);
    }
}
