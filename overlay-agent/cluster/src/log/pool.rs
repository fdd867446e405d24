//! What a node does with the blocks it leased: gives addresses by itself, without a round trip.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    addresses::{Family, address, bounds, number},
    subnet::Subnet,
};
use crate::time::Instant;

/// Why a pool gives no address, or not the one asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Every address of the node's blocks is in use or rests.
    #[error(
        "no address is free in the {blocks} blocks of this node in {subnet}: lease another block"
    )]
    Empty { subnet: IpNet, blocks: usize },
    /// The address is not of a block of this node.
    #[error("{address} is in no block of this node in {subnet}: claim it from the managers first")]
    NotOurs { address: IpAddr, subnet: IpNet },
    /// The address is the network's own.
    #[error(
        "{address} is not for endpoints: it is the first or last address of {subnet}, or its gateway {gateway}"
    )]
    NotUsable {
        address: IpAddr,
        subnet: IpNet,
        gateway: IpAddr,
    },
    /// An endpoint of this node has the address.
    #[error("{address} is in use by an endpoint of this node: choose another, or detach that one")]
    InUse { address: IpAddr },
}

/// The addresses that a node gives in one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    subnet: Subnet,
    /// First and last address of each block.
    blocks: BTreeMap<u128, u128>,
    used: BTreeSet<u128>,
    /// Released addresses and when they may be given again: other nodes may not have heard yet.
    resting: BTreeMap<u128, Instant>,
    rest: Duration,
    /// Where the search goes on, so that the address released last is given last.
    cursor: u128,
}

impl Pool {
    /// Resting addresses that are remembered; beyond, those that rest longest are free.
    pub const MAX_RESTING: usize = 65_536;

    /// An empty pool; released addresses rest for `rest`.
    pub fn new(subnet: Subnet, rest: Duration) -> Self {
        Self {
            subnet,
            blocks: BTreeMap::new(),
            used: BTreeSet::new(),
            resting: BTreeMap::new(),
            rest,
            cursor: 0,
        }
    }

    /// Sets the blocks that the log leases to this node. Addresses in use stay so, even if their
    /// block is gone: the node must detach what uses them. They are returned.
    pub fn set_blocks(&mut self, blocks: impl IntoIterator<Item = IpNet>) -> Vec<IpAddr> {
        let family = self.subnet.family();
        self.blocks = blocks
            .into_iter()
            .filter(|block| Family::of(block.addr()) == family)
            .map(|block| bounds(&block))
            .collect();
        let blocks = &self.blocks;
        self.resting.retain(|number, _| within(blocks, *number));
        self.used
            .iter()
            .filter(|number| !within(&self.blocks, **number))
            .map(|number| address(family, *number))
            .collect()
    }

    /// Gives a free address.
    pub fn pick(&mut self, now: Instant) -> Result<IpAddr, PoolError> {
        self.wake(now);
        let cursor = self.cursor;
        let free = self
            .first_free(cursor, u128::MAX)
            .or_else(|| self.first_free(0, cursor));
        let Some(number) = free else {
            return Err(PoolError::Empty {
                subnet: self.subnet.net(),
                blocks: self.blocks.len(),
            });
        };
        self.used.insert(number);
        self.cursor = number.saturating_add(1);
        Ok(address(self.subnet.family(), number))
    }

    /// The first free address from `from` up to `until`.
    fn first_free(&self, from: u128, until: u128) -> Option<u128> {
        self.blocks.iter().find_map(|(&first, &last)| {
            let (first, last) = (first.max(from), last.min(until));
            if first > last {
                return None;
            }
            // Taken addresses are passed over in order, so that a full block of any size costs
            // no more than what it gave.
            (first..=last).find(|number| self.is_free(*number))
        })
    }

    fn is_free(&self, number: u128) -> bool {
        !self.used.contains(&number)
            && !self.resting.contains_key(&number)
            && self.subnet.is_usable(address(self.subnet.family(), number))
    }

    /// Gives the address that a user named; one that rests is given too, who names it knows it.
    pub fn take(&mut self, wanted: IpAddr) -> Result<(), PoolError> {
        let subnet = self.subnet.net();
        if !subnet.contains(&wanted) {
            return Err(PoolError::NotOurs {
                address: wanted,
                subnet,
            });
        }
        if !self.subnet.is_usable(wanted) {
            return Err(PoolError::NotUsable {
                address: wanted,
                subnet,
                gateway: self.subnet.gateway(),
            });
        }
        let number = number(wanted);
        if !within(&self.blocks, number) {
            return Err(PoolError::NotOurs {
                address: wanted,
                subnet,
            });
        }
        if !self.used.insert(number) {
            return Err(PoolError::InUse { address: wanted });
        }
        self.resting.remove(&number);
        Ok(())
    }

    /// Takes an address back. It rests before it is given again.
    pub fn release(&mut self, released: IpAddr, now: Instant) {
        let number = number(released);
        if Family::of(released) != self.subnet.family() || !self.used.remove(&number) {
            return;
        }
        self.wake(now);
        if self.resting.len() >= Self::MAX_RESTING {
            let longest = self.resting.iter().min_by_key(|(_, until)| **until);
            if let Some((&longest, _)) = longest {
                self.resting.remove(&longest);
            }
        }
        if within(&self.blocks, number) {
            self.resting.insert(number, now + self.rest);
        }
    }

    fn wake(&mut self, now: Instant) {
        self.resting.retain(|_, until| *until > now);
    }

    /// Addresses in use.
    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// Whether fewer than `reserve` addresses can be given: time to lease another block, before an
    /// endpoint has to wait for it.
    pub fn runs_low(&self, reserve: usize, now: Instant) -> bool {
        let free = self
            .blocks
            .iter()
            .flat_map(|(&first, &last)| first..=last)
            .filter(|number| {
                !self.used.contains(number)
                    && self.resting.get(number).is_none_or(|until| *until <= now)
                    && self
                        .subnet
                        .is_usable(address(self.subnet.family(), *number))
            })
            .take(reserve)
            .count();
        free < reserve
    }

    /// Blocks in which nothing is used or rests: they can be given back.
    pub fn idle(&self, now: Instant) -> Vec<IpNet> {
        let family = self.subnet.family();
        self.blocks
            .iter()
            .filter(|&(&first, &last)| {
                self.used.range(first..=last).next().is_none()
                    && self
                        .resting
                        .range(first..=last)
                        .all(|(_, until)| *until <= now)
            })
            .filter_map(|(&first, &last)| {
                let bits = u8::try_from((last - first).count_ones()).ok()?;
                super::addresses::net(family, first, family.bits() - bits)
            })
            .collect()
    }
}

fn within(blocks: &BTreeMap<u128, u128>, number: u128) -> bool {
    blocks
        .range(..=number)
        .next_back()
        .is_some_and(|(_, last)| number <= *last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::subnet::SubnetRequest;

    const REST: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a net")
    }

    fn pool(subnet: &str, blocks: &[&str]) -> Pool {
        let subnet = Subnet::new(&SubnetRequest {
            net: net(subnet),
            gateway: None,
            range: None,
            block_prefix: None,
        })
        .expect("a subnet");
        let mut pool = Pool::new(subnet, REST);
        assert!(
            pool.set_blocks(blocks.iter().map(|text| net(text)))
                .is_empty()
        );
        pool
    }

    #[test]
    fn addresses_come_in_order_without_those_of_the_network() {
        let mut pool = pool("10.0.9.0/28", &["10.0.9.0/30", "10.0.9.12/30"]);
        let picked: Vec<_> = std::iter::from_fn(|| pool.pick(at(0)).ok())
            .map(|address| address.to_string())
            .collect();
        assert_eq!(
            picked,
            [
                "10.0.9.2",
                "10.0.9.3",
                "10.0.9.12",
                "10.0.9.13",
                "10.0.9.14"
            ]
        );
        let error = pool.pick(at(0)).expect_err("empty").to_string();
        assert!(error.contains("2 blocks"), "{error}");
    }

    #[test]
    fn a_released_address_rests_and_comes_last() {
        let mut pool = pool("10.0.9.0/28", &["10.0.9.8/30"]);
        let first = pool.pick(at(0)).expect("an address");
        pool.release(first, at(0));
        for _ in 0..3 {
            assert_ne!(pool.pick(at(1)).expect("an address"), first);
        }
        assert!(pool.pick(at(29)).is_err());
        assert_eq!(pool.pick(at(30)), Ok(first));
    }

    #[test]
    fn a_named_address_is_given_once_and_only_from_the_blocks() {
        let mut pool = pool("10.0.9.0/24", &["10.0.9.0/28"]);
        let mut take = |text: &str| pool.take(text.parse().expect("an address"));
        assert_eq!(take("10.0.9.5"), Ok(()));
        assert!(matches!(take("10.0.9.5"), Err(PoolError::InUse { .. })));
        assert!(matches!(take("10.0.9.1"), Err(PoolError::NotUsable { .. })));
        assert!(matches!(take("10.0.9.20"), Err(PoolError::NotOurs { .. })));
        assert!(matches!(take("10.0.8.20"), Err(PoolError::NotOurs { .. })));
        assert!(matches!(take("fd00::1"), Err(PoolError::NotOurs { .. })));
    }

    #[test]
    fn a_pool_says_when_it_runs_low_and_what_is_idle() {
        let mut pool = pool("fd00::/64", &["fd00::1:0/112", "fd00::2:0/112"]);
        assert!(!pool.runs_low(100, at(0)));
        let address = pool.pick(at(0)).expect("an address");
        assert_eq!(pool.idle(at(0)), [net("fd00::2:0/112")]);
        pool.release(address, at(0));
        assert_eq!(pool.idle(at(0)), [net("fd00::2:0/112")]);
        assert_eq!(pool.idle(at(30)).len(), 2);
        pool.set_blocks([]);
        assert!(pool.runs_low(1, at(0)));
    }

    #[test]
    fn addresses_of_a_lost_block_are_named_and_not_given_again() {
        let mut pool = pool("10.0.9.0/24", &["10.0.9.0/28"]);
        let address = pool.pick(at(0)).expect("an address");
        assert_eq!(pool.set_blocks([net("10.0.9.16/28")]), [address]);
        pool.release(address, at(0));
        assert_eq!(pool.used(), 0);
        assert!(pool.take(address).is_err());
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(steps in proptest::collection::vec((0_u8..4, 0_u8..32), 0..200)) {
            let mut pool = pool("10.0.9.0/27", &["10.0.9.0/28", "10.0.9.20/32"]);
            let mut used = BTreeSet::new();
            for (time, (what, which)) in (0..).zip(steps) {
                match what {
                    0 | 1 => {
                        if let Ok(address) = pool.pick(at(time)) {
                            prop_assert!(used.insert(address), "{} twice", address);
                        }
                    }
                    2 => {
                        let address = IpAddr::from([10, 0, 9, which]);
                        if pool.take(address).is_ok() {
                            prop_assert!(used.insert(address), "{} twice", address);
                        }
                    }
                    _ => {
                        let address = used.iter().nth(usize::from(which)).copied();
                        if let Some(address) = address {
                            used.remove(&address);
                            pool.release(address, at(time));
                        }
                    }
                }
                prop_assert_eq!(pool.used(), used.len());
            }
        }
    }
}
