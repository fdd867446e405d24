//! Address blocks: which node gives which addresses of a network.
//!
//! A block is leased through the log once; after that the node gives its addresses by itself. The
//! blocks of a node that left, was removed or was evicted stay closed until every epoch that the
//! node may know has retired: until then a packet with such an address may still be its own.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use overlay_ebpf::abi::Vni;
use serde::{Deserialize, Serialize};

use super::{
    addresses::{self, Family, bounds, number},
    names::NetworkName,
    networks::Network,
    subnet::Subnet,
};
use crate::id::NodeId;

/// Why a node gets no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum BlockRefusal {
    /// The network has no subnet of the family.
    #[error("network {network} has no {family} subnet: ask for the other family")]
    NoSubnet {
        network: NetworkName,
        family: Family,
    },
    /// No address is left.
    #[error(
        "no address is free in {range} of network {network}: {blocks} blocks are leased; detach endpoints, remove nodes that are gone, or make a larger network"
    )]
    Exhausted {
        network: NetworkName,
        range: IpNet,
        blocks: usize,
    },
    /// A node has a bounded number of blocks.
    #[error(
        "the node has {limit} blocks of network {network}, as many as it can: give the network larger blocks"
    )]
    TooMany { network: NetworkName, limit: usize },
    /// All networks have a bounded number of blocks.
    #[error("{limit} blocks are leased, as many as can be: give networks larger blocks")]
    Full { limit: usize },
    /// The node counts blocks that the log does not have.
    #[error(
        "the node counts {known} blocks of network {network}, and the log has {leased}: claim those that the log does not have"
    )]
    Unknown {
        network: NetworkName,
        known: u32,
        leased: usize,
    },
    /// The address or block leaves the subnet, or is the network's own.
    #[error(
        "{block} holds no address for endpoints in network {network}: choose within {subnet}, without its first and last address and gateway {gateway}"
    )]
    NotUsable {
        block: IpNet,
        network: NetworkName,
        subnet: IpNet,
        gateway: IpAddr,
    },
    /// More than a block.
    #[error("{block} is larger than the blocks of network {network}, /{prefix}: claim parts")]
    TooLarge {
        block: IpNet,
        network: NetworkName,
        prefix: u8,
    },
    /// Another node gives these addresses.
    #[error(
        "{wanted} overlaps {block}, which node {holder} gives addresses from: choose another address, or attach there"
    )]
    Taken {
        wanted: IpNet,
        block: IpNet,
        holder: NodeId,
    },
    /// A node that is gone gave these addresses.
    #[error(
        "{wanted} overlaps {block} of node {holder}, which is gone: it is free when epoch {epoch} has retired (`overlay keys rotate --wait`)"
    )]
    Closing {
        wanted: IpNet,
        block: IpNet,
        holder: NodeId,
        epoch: u32,
    },
    /// The node does not hold what it returns.
    #[error("node {node} does not hold {block} of network {network}: read its blocks again")]
    NotHeld {
        node: NodeId,
        block: IpNet,
        network: NetworkName,
    },
}

/// A lease of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    block: IpNet,
    node: NodeId,
    /// The node is gone: number of the epoch whose retirement frees the block.
    closing: Option<u32>,
}

/// The blocks of a subnet, by their first address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct SubnetBlocks {
    leases: BTreeMap<u128, Lease>,
    /// Where the search for a free block goes on, so that one that was returned rests.
    cursor: u128,
}

impl SubnetBlocks {
    fn held_by(&self, node: &NodeId) -> impl Iterator<Item = &Lease> {
        self.leases
            .values()
            .filter(move |lease| lease.node == *node && lease.closing.is_none())
    }

    /// The last lease that shares an address with `first` to `last`.
    fn overlapping(&self, first: u128, last: u128) -> Option<&Lease> {
        let (_, lease) = self.leases.range(..=last).next_back()?;
        (bounds(&lease.block).1 >= first).then_some(lease)
    }

    /// The next free block of the subnet, as large as there is one.
    fn find(&self, subnet: &Subnet) -> Option<IpNet> {
        let (first, last) = bounds(&subnet.range());
        let cursor = self.cursor.clamp(first, last);
        (subnet.block_prefix()..=subnet.family().bits()).find_map(|prefix| {
            self.search(subnet, prefix, cursor, last)
                .or_else(|| self.search(subnet, prefix, first, last))
        })
    }

    /// The first free block of `prefix` bits from `from`.
    fn search(&self, subnet: &Subnet, prefix: u8, from: u128, last: u128) -> Option<IpNet> {
        let size = 1_u128.checked_shl((subnet.family().bits() - prefix).into())?;
        let mut at = from.checked_next_multiple_of(size)?;
        while at <= last && last - at >= size - 1 {
            let end = at + (size - 1);
            if let Some(lease) = self.overlapping(at, end) {
                at = bounds(&lease.block)
                    .1
                    .checked_add(1)?
                    .checked_next_multiple_of(size)?;
            } else if has_usable(subnet, at, end) {
                return addresses::net(subnet.family(), at, prefix);
            } else {
                at = end.checked_add(1)?;
            }
        }
        None
    }
}

/// Whether endpoints may have an address from `first` to `last`. At most three addresses of a
/// subnet are its own.
fn has_usable(subnet: &Subnet, first: u128, last: u128) -> bool {
    (first..=last)
        .take(4)
        .any(|number| subnet.is_usable(addresses::address(subnet.family(), number)))
}

/// The blocks of all networks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Blocks {
    networks: BTreeMap<Vni, BTreeMap<Family, SubnetBlocks>>,
}

impl Blocks {
    /// Blocks of one node in one network and family.
    pub const MAX_PER_NODE: usize = 1024;
    /// Blocks of all networks.
    pub const MAX: usize = 262_144;

    /// Leases a block to `node`, which knows of `known` leases of its own, and returns all that it
    /// has. A node that did not hear the answer asks with the same count and gets the same answer.
    pub fn lease(
        &mut self,
        network: &Network,
        node: &NodeId,
        family: Family,
        known: u32,
    ) -> Result<Vec<IpNet>, BlockRefusal> {
        let subnet = subnet_of(network, family)?;
        let of_subnet = self.of(network.vni, family);
        let mut held: Vec<_> = of_subnet
            .into_iter()
            .flat_map(|blocks| blocks.held_by(node))
            .map(|lease| lease.block)
            .collect();
        match held
            .len()
            .cmp(&usize::try_from(known).unwrap_or(usize::MAX))
        {
            std::cmp::Ordering::Greater => return Ok(held),
            std::cmp::Ordering::Less => {
                return Err(BlockRefusal::Unknown {
                    network: network.name.clone(),
                    known,
                    leased: held.len(),
                });
            }
            std::cmp::Ordering::Equal => {}
        }
        self.check_room(network, held.len())?;
        let free = match of_subnet {
            Some(blocks) => blocks.find(subnet),
            None => SubnetBlocks::default().find(subnet),
        };
        let Some(block) = free else {
            return Err(BlockRefusal::Exhausted {
                network: network.name.clone(),
                range: subnet.range(),
                blocks: of_subnet.map_or(0, |blocks| blocks.leases.len()),
            });
        };
        let blocks = self.of_mut(network.vni, family);
        blocks.cursor = bounds(&block).1.saturating_add(1);
        blocks.insert(block, *node);
        held.push(block);
        held.sort_unstable();
        Ok(held)
    }

    /// Leases exactly `block`: the single address that a user names, or a block that the node holds
    /// and the log lost with a restored backup. Returns the lease that now covers it.
    pub fn claim(
        &mut self,
        network: &Network,
        node: &NodeId,
        block: IpNet,
    ) -> Result<IpNet, BlockRefusal> {
        let family = Family::of(block.addr());
        let subnet = subnet_of(network, family)?;
        let block = block.trunc();
        let (first, last) = bounds(&block);
        if !subnet.net().contains(&block) || !has_usable(subnet, first, last) {
            return Err(BlockRefusal::NotUsable {
                block,
                network: network.name.clone(),
                subnet: subnet.net(),
                gateway: subnet.gateway(),
            });
        }
        if block.prefix_len() < subnet.block_prefix() {
            return Err(BlockRefusal::TooLarge {
                block,
                network: network.name.clone(),
                prefix: subnet.block_prefix(),
            });
        }
        let of_subnet = self.of(network.vni, family);
        let clash = of_subnet.and_then(|blocks| blocks.overlapping(first, last));
        match clash {
            None => {}
            Some(lease)
                if lease.node == *node
                    && lease.closing.is_none()
                    && lease.block.contains(&block) =>
            {
                return Ok(lease.block);
            }
            Some(Lease {
                block: theirs,
                node: holder,
                closing: Some(epoch),
            }) => {
                return Err(BlockRefusal::Closing {
                    wanted: block,
                    block: *theirs,
                    holder: *holder,
                    epoch: *epoch,
                });
            }
            Some(lease) => {
                return Err(BlockRefusal::Taken {
                    wanted: block,
                    block: lease.block,
                    holder: lease.node,
                });
            }
        }
        let held = of_subnet.map_or(0, |blocks| blocks.held_by(node).count());
        self.check_room(network, held)?;
        self.of_mut(network.vni, family).insert(block, *node);
        Ok(block)
    }

    /// Takes back a block that has no endpoint.
    pub fn give_back(
        &mut self,
        network: &Network,
        node: &NodeId,
        block: IpNet,
    ) -> Result<(), BlockRefusal> {
        let family = Family::of(block.addr());
        let first = number(block.network());
        let is_held =
            |lease: &Lease| lease.block == block && lease.node == *node && lease.closing.is_none();
        let leases = self
            .networks
            .get_mut(&network.vni)
            .and_then(|families| families.get_mut(&family))
            .map(|blocks| &mut blocks.leases)
            .filter(|leases| leases.get(&first).is_some_and(is_held));
        match leases {
            Some(leases) => {
                leases.remove(&first);
                Ok(())
            }
            None => Err(BlockRefusal::NotHeld {
                node: *node,
                block,
                network: network.name.clone(),
            }),
        }
    }

    /// Closes the blocks of a node that is gone until `epoch` has retired. Returns the networks.
    pub fn close(&mut self, node: &NodeId, epoch: u32) -> Vec<Vni> {
        let mut touched = Vec::new();
        for (vni, families) in &mut self.networks {
            let mut any = false;
            for lease in families
                .values_mut()
                .flat_map(|blocks| blocks.leases.values_mut())
                .filter(|lease| lease.node == *node && lease.closing.is_none())
            {
                lease.closing = Some(epoch);
                any = true;
            }
            if any {
                touched.push(*vni);
            }
        }
        touched
    }

    /// Frees blocks that waited for epochs below `oldest`.
    pub fn retired(&mut self, oldest: u32) {
        for blocks in self.networks.values_mut().flat_map(BTreeMap::values_mut) {
            blocks
                .leases
                .retain(|_, lease| lease.closing.is_none_or(|epoch| epoch >= oldest));
        }
    }

    /// Blocks of a network, those of nodes that are gone included.
    pub fn count(&self, vni: Vni) -> usize {
        self.networks
            .get(&vni)
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(|blocks| blocks.leases.len())
            .sum()
    }

    /// Nodes that hold blocks of a network.
    pub fn holders(&self, vni: Vni) -> std::collections::BTreeSet<NodeId> {
        self.networks
            .get(&vni)
            .into_iter()
            .flat_map(BTreeMap::values)
            .flat_map(|blocks| blocks.leases.values())
            .filter(|lease| lease.closing.is_none())
            .map(|lease| lease.node)
            .collect()
    }

    /// Forgets a network with all its blocks.
    pub fn remove(&mut self, vni: Vni) {
        self.networks.remove(&vni);
    }

    /// Every block that a node holds, with its network and holder.
    pub fn held(&self) -> impl Iterator<Item = (Vni, NodeId, IpNet)> {
        self.networks.iter().flat_map(|(vni, families)| {
            families
                .values()
                .flat_map(|blocks| blocks.leases.values())
                .filter(|lease| lease.closing.is_none())
                .map(|lease| (*vni, lease.node, lease.block))
        })
    }

    /// The blocks that a node holds.
    pub fn held_by(&self, node: &NodeId) -> BTreeMap<Vni, Vec<IpNet>> {
        self.networks
            .iter()
            .map(|(vni, families)| {
                let held = families
                    .values()
                    .flat_map(|blocks| blocks.held_by(node))
                    .map(|lease| lease.block)
                    .collect::<Vec<_>>();
                (*vni, held)
            })
            .filter(|(_, held)| !held.is_empty())
            .collect()
    }

    fn of(&self, vni: Vni, family: Family) -> Option<&SubnetBlocks> {
        self.networks.get(&vni)?.get(&family)
    }

    fn of_mut(&mut self, vni: Vni, family: Family) -> &mut SubnetBlocks {
        self.networks
            .entry(vni)
            .or_default()
            .entry(family)
            .or_default()
    }

    fn check_room(&self, network: &Network, held: usize) -> Result<(), BlockRefusal> {
        if held >= Self::MAX_PER_NODE {
            return Err(BlockRefusal::TooMany {
                network: network.name.clone(),
                limit: Self::MAX_PER_NODE,
            });
        }
        let all: usize = self.networks.keys().map(|vni| self.count(*vni)).sum();
        if all >= Self::MAX {
            return Err(BlockRefusal::Full { limit: Self::MAX });
        }
        Ok(())
    }

    /// What is wrong with the blocks, if anything.
    pub fn fault<'a>(
        &self,
        network: impl Fn(Vni) -> Option<&'a Network>,
        present: impl Fn(&NodeId) -> bool,
    ) -> Option<String> {
        for (vni, families) in &self.networks {
            let Some(network) = network(*vni) else {
                return Some(format!("blocks of VNI {vni}, which no network has"));
            };
            for (family, blocks) in families {
                let Some(subnet) = network.subnets.get(family) else {
                    return Some(format!("{family} blocks of network {}", network.name));
                };
                let mut free = 0;
                for (key, lease) in &blocks.leases {
                    let (first, last) = bounds(&lease.block);
                    if *key != first || first < free {
                        return Some(format!("block {} overlaps another", lease.block));
                    }
                    free = last.saturating_add(1);
                    let fits = subnet.net().contains(&lease.block)
                        && lease.block == lease.block.trunc()
                        && lease.block.prefix_len() >= subnet.block_prefix()
                        && has_usable(subnet, first, last);
                    if !fits {
                        return Some(format!("block {} does not fit", lease.block));
                    }
                    if lease.closing.is_none() && !present(&lease.node) {
                        return Some(format!("{} is held by a node that is gone", lease.block));
                    }
                }
            }
        }
        None
    }
}

impl SubnetBlocks {
    fn insert(&mut self, block: IpNet, node: NodeId) {
        let lease = Lease {
            block,
            node,
            closing: None,
        };
        self.leases.insert(number(block.network()), lease);
    }
}

fn subnet_of(network: &Network, family: Family) -> Result<&Subnet, BlockRefusal> {
    network
        .subnets
        .get(&family)
        .ok_or_else(|| BlockRefusal::NoSubnet {
            network: network.name.clone(),
            family,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::{
        networks::Networks,
        samples::{network, node, now},
        settings::Settings,
    };

    fn made(subnet: &str) -> Network {
        let mut networks = Networks::default();
        let vni = networks
            .create(now(0), network("net", subnet), [], Settings::default().vnis)
            .expect("created");
        networks.get(vni).expect("exists").clone()
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a net")
    }

    #[test]
    fn nodes_get_blocks_of_their_own() {
        let network = made("10.0.9.0/24");
        let mut blocks = Blocks::default();
        let mut lease = |n, known| blocks.lease(&network, &node(n), Family::V4, known);
        assert_eq!(lease(1, 0), Ok(vec![net("10.0.9.0/28")]));
        assert_eq!(lease(2, 0), Ok(vec![net("10.0.9.16/28")]));
        assert_eq!(lease(1, 0), Ok(vec![net("10.0.9.0/28")]), "asked again");
        let both = vec![net("10.0.9.0/28"), net("10.0.9.32/28")];
        assert_eq!(lease(1, 1), Ok(both));
        assert!(matches!(lease(1, 3), Err(BlockRefusal::Unknown { .. })));
        let v6 = blocks.lease(&network, &node(1), Family::V6, 0);
        assert!(matches!(v6, Err(BlockRefusal::NoSubnet { .. })));
    }

    #[test]
    fn a_full_network_gives_smaller_blocks_and_then_says_so() {
        let network = made("10.0.9.0/27");
        let mut blocks = Blocks::default();
        blocks
            .claim(&network, &node(9), net("10.0.9.20/32"))
            .expect("claimed");
        let mut sizes = Vec::new();
        for n in 1..=9 {
            match blocks.lease(&network, &node(n), Family::V4, u32::from(n == 9)) {
                Ok(held) => sizes.push(held[held.len() - 1].prefix_len()),
                Err(refusal) => {
                    assert!(
                        matches!(refusal, BlockRefusal::Exhausted { .. }),
                        "{refusal}"
                    );
                    break;
                }
            }
        }
        assert_eq!(sizes, [28, 29, 30, 31, 32]);
    }

    #[test]
    fn a_returned_block_rests_until_the_others_were_given() {
        let network = made("10.0.9.0/26");
        let mut blocks = Blocks::default();
        let next = |blocks: &mut Blocks, n: u8| {
            let held = blocks
                .lease(&network, &node(n), Family::V4, 0)
                .expect("leased");
            held[0]
        };
        let first = next(&mut blocks, 1);
        blocks
            .give_back(&network, &node(1), first)
            .expect("returned");
        assert!(blocks.give_back(&network, &node(1), first).is_err());
        let others = [2, 3, 4].map(|n| next(&mut blocks, n));
        assert!(!others.contains(&first));
        assert_eq!(next(&mut blocks, 5), first);
    }

    #[test]
    fn an_explicit_address_is_leased_alone_or_refused_with_its_holder() {
        let network = made("10.0.9.0/24");
        let mut blocks = Blocks::default();
        blocks
            .lease(&network, &node(1), Family::V4, 0)
            .expect("leased");
        let mut claim = |n, block| blocks.claim(&network, &node(n), net(block));
        assert_eq!(claim(1, "10.0.9.5/32"), Ok(net("10.0.9.0/28")));
        assert_eq!(claim(1, "10.0.9.100/32"), Ok(net("10.0.9.100/32")));
        assert_eq!(claim(1, "10.0.9.100/32"), Ok(net("10.0.9.100/32")));
        let refusal = claim(2, "10.0.9.5/32").expect_err("taken").to_string();
        assert!(refusal.contains(&node(1).to_string()), "{refusal}");
        for unusable in ["10.0.9.0/32", "10.0.9.1/32", "10.0.9.255/32", "10.0.8.1/32"] {
            let refusal = claim(1, unusable).expect_err(unusable);
            assert!(
                matches!(refusal, BlockRefusal::NotUsable { .. }),
                "{refusal}"
            );
        }
        let refusal = claim(1, "10.0.9.128/27").expect_err("large");
        assert!(
            matches!(refusal, BlockRefusal::TooLarge { .. }),
            "{refusal}"
        );
    }

    #[test]
    fn blocks_of_a_node_that_is_gone_wait_for_its_epoch() {
        let network = made("10.0.9.0/24");
        let mut blocks = Blocks::default();
        let held = blocks
            .lease(&network, &node(1), Family::V4, 0)
            .expect("leased");
        assert_eq!(blocks.close(&node(1), 7), [network.vni]);
        let refusal = blocks.claim(&network, &node(2), net("10.0.9.5/32"));
        assert!(matches!(
            refusal,
            Err(BlockRefusal::Closing { epoch: 7, .. })
        ));
        blocks.retired(7);
        assert_eq!(blocks.count(network.vni), 1);
        blocks.retired(8);
        assert_eq!(blocks.count(network.vni), 0);
        blocks
            .claim(&network, &node(2), held[0])
            .expect("free again");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Lease(u8, u32),
        Claim(u8, u8, u8),
        GiveBack(u8, usize),
        Close(u8, u32),
        Retired(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = 1_u8..6;
        prop_oneof![
            4 => (n.clone(), 0_u32..4).prop_map(|(n, known)| Step::Lease(n, known)),
            4 => (n.clone(), 0_u8..80, 26_u8..=32).prop_map(|(n, at, len)| Step::Claim(n, at, len)),
            3 => (n.clone(), 0_usize..4).prop_map(|(n, at)| Step::GiveBack(n, at)),
            1 => (n, 0_u32..4).prop_map(|(n, epoch)| Step::Close(n, epoch)),
            1 => (0_u32..5).prop_map(Step::Retired),
        ]
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(steps in proptest::collection::vec(step(), 0..60)) {
            let network = made("10.0.9.0/26");
            let mut blocks = Blocks::default();
            for step in steps {
                let before = blocks.clone();
                let refused = match step {
                    Step::Lease(n, known) => {
                        blocks.lease(&network, &node(n), Family::V4, known).is_err()
                    }
                    Step::Claim(n, at, len) => {
                        let block = IpNet::new(IpAddr::from([10, 0, 9, at]), len).expect("a net");
                        blocks.claim(&network, &node(n), block).is_err()
                    }
                    Step::GiveBack(n, at) => {
                        let held = blocks.held_by(&node(n)).remove(&network.vni);
                        let block = held.and_then(|held| held.get(at).copied());
                        let block = block.unwrap_or_else(|| net("10.0.9.16/28"));
                        blocks.give_back(&network, &node(n), block).is_err()
                    }
                    Step::Close(n, epoch) => {
                        blocks.close(&node(n), epoch);
                        false
                    }
                    Step::Retired(oldest) => {
                        blocks.retired(oldest);
                        false
                    }
                };
                if refused {
                    prop_assert_eq!(&blocks, &before);
                }
                let mut owners = BTreeMap::new();
                for n in 1..6 {
                    for block in blocks.held_by(&node(n)).into_values().flatten() {
                        for address in block.trunc().hosts() {
                            let other = owners.insert(address, n);
                            prop_assert!(other.is_none(), "{address} of {n} and {other:?}");
                        }
                    }
                }
                let vni = network.vni;
                let fault = blocks.fault(|of| (of == vni).then_some(&network), |_| true);
                prop_assert_eq!(fault, None);
            }
        }
    }
}
