//! Subnets of a network: what addresses its endpoints may have.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::addresses::{self, Family, bounds, number, overlap};

/// Why a subnet, its gateway or its range cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SubnetError {
    /// Bits are set behind the prefix.
    #[error("subnet {given} has bits behind its prefix: did you mean {meant}?")]
    HostBits { given: IpNet, meant: IpNet },
    /// Too few addresses, or so many that the prefix must be a mistake.
    #[error("subnet {subnet} is too {size}: use a prefix of {shortest} to {longest} bits")]
    Size {
        subnet: IpNet,
        size: Wrong,
        shortest: u8,
        longest: u8,
    },
    /// Addresses that hosts treat in their own way.
    #[error("subnet {subnet} is or holds {what}: use private addresses (RFC 1918, RFC 4193)")]
    Special { subnet: IpNet, what: SpecialUse },
    /// The gateway is no address of a host in the subnet.
    #[error(
        "gateway {gateway} is not among the host addresses of subnet {subnet}: use {first} to {last}"
    )]
    Gateway {
        gateway: IpAddr,
        subnet: IpNet,
        first: IpAddr,
        last: IpAddr,
    },
    /// The range for endpoints leaves the subnet.
    #[error("ip-range {range} is not within subnet {subnet}: give a part of the subnet")]
    Range { range: IpNet, subnet: IpNet },
    /// Blocks are smaller than the range they are cut from.
    #[error(
        "a block of /{prefix} does not fit {range}: use /{shortest} to /{longest}, or leave it out"
    )]
    Block {
        prefix: u8,
        range: IpNet,
        shortest: u8,
        longest: u8,
    },
}

/// How a subnet's size is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wrong {
    Large,
    Small,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Large => "large",
            Self::Small => "small",
        })
    }
}

/// Addresses that are no ordinary unicast addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpecialUse {
    ThisNetwork,
    Loopback,
    LinkLocal,
    Multicast,
    Reserved,
    Mapped,
}

impl std::fmt::Display for SpecialUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ThisNetwork => "\"this network\" (RFC 1122 section 3.2.1.3)",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved (RFC 1112 section 4)",
            Self::Mapped => "IPv4-mapped (RFC 4291 section 2.5.5.2)",
        })
    }
}

/// Nets that no subnet may touch, and that hold no VTEP.
const SPECIAL: [(&str, SpecialUse); 11] = [
    ("0.0.0.0/8", SpecialUse::ThisNetwork),
    ("127.0.0.0/8", SpecialUse::Loopback),
    ("169.254.0.0/16", SpecialUse::LinkLocal),
    ("224.0.0.0/4", SpecialUse::Multicast),
    ("240.0.0.0/4", SpecialUse::Reserved),
    ("::/128", SpecialUse::ThisNetwork),
    ("::1/128", SpecialUse::Loopback),
    ("::ffff:0:0/96", SpecialUse::Mapped),
    ("fe80::/10", SpecialUse::LinkLocal),
    ("fec0::/10", SpecialUse::Reserved),
    ("ff00::/8", SpecialUse::Multicast),
];

/// What is special about the addresses of `net`, if anything.
pub fn special_use(net: &IpNet) -> Option<SpecialUse> {
    SPECIAL
        .iter()
        .filter_map(|(text, what)| Some((text.parse::<IpNet>().ok()?, *what)))
        .find(|(special, _)| overlap(special, net))
        .map(|(_, what)| what)
}

/// What an operator asks of a subnet. Left out is what the subnet gives by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRequest {
    pub net: IpNet,
    /// Default: the first host address.
    pub gateway: Option<IpAddr>,
    /// Where addresses are given from; an explicit one may lie outside. Default: the subnet.
    pub range: Option<IpNet>,
    /// Prefix of the address blocks that nodes lease. Default: 1/256 of the range, 16 to 65,536
    /// addresses.
    pub block_prefix: Option<u8>,
}

/// A checked subnet. It is serialized as the request that gives it, so a decoded one is checked too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SubnetRequest", into = "SubnetRequest")]
pub struct Subnet {
    net: IpNet,
    gateway: IpAddr,
    range: IpNet,
    block_prefix: u8,
}

impl Subnet {
    /// Addresses of a default block, as powers of two: at least and at most.
    const BLOCK_BITS: (u8, u8) = (4, 16);

    pub fn new(request: &SubnetRequest) -> Result<Self, SubnetError> {
        let net = request.net;
        let canonical = net.trunc();
        if net != canonical {
            return Err(SubnetError::HostBits {
                given: net,
                meant: canonical,
            });
        }
        let family = Family::of(net.addr());
        let (shortest, longest) = match family {
            Family::V4 => (8, 30),
            Family::V6 => (32, 126),
        };
        let size = |size| SubnetError::Size {
            subnet: net,
            size,
            shortest,
            longest,
        };
        if net.prefix_len() < shortest {
            return Err(size(Wrong::Large));
        }
        if net.prefix_len() > longest {
            return Err(size(Wrong::Small));
        }
        if let Some(what) = special_use(&net) {
            return Err(SubnetError::Special { subnet: net, what });
        }
        let (first, last) = hosts(&net);
        let gateway = request
            .gateway
            .unwrap_or_else(|| addresses::address(family, first));
        if Family::of(gateway) != family || !(first..=last).contains(&number(gateway)) {
            return Err(SubnetError::Gateway {
                gateway,
                subnet: net,
                first: addresses::address(family, first),
                last: addresses::address(family, last),
            });
        }
        let range = request.range.unwrap_or(net).trunc();
        if !net.contains(&range) {
            return Err(SubnetError::Range { range, subnet: net });
        }
        let block_prefix = match request.block_prefix {
            None => default_block_prefix(&range),
            Some(prefix) => {
                let longest = family.bits();
                let shortest = range.prefix_len().max(longest - Self::BLOCK_BITS.1);
                if !(shortest..=longest).contains(&prefix) {
                    return Err(SubnetError::Block {
                        prefix,
                        range,
                        shortest,
                        longest,
                    });
                }
                prefix
            }
        };
        Ok(Self {
            net,
            gateway,
            range,
            block_prefix,
        })
    }

    pub fn family(&self) -> Family {
        Family::of(self.net.addr())
    }

    pub const fn net(&self) -> IpNet {
        self.net
    }

    pub const fn gateway(&self) -> IpAddr {
        self.gateway
    }

    pub const fn range(&self) -> IpNet {
        self.range
    }

    pub const fn block_prefix(&self) -> u8 {
        self.block_prefix
    }

    /// Whether an endpoint may have this address: not the network's own, not the broadcast address
    /// (IPv4) or subnet-router anycast (IPv6), not the gateway.
    pub fn is_usable(&self, address: IpAddr) -> bool {
        let (first, last) = hosts(&self.net);
        Family::of(address) == self.family()
            && (first..=last).contains(&number(address))
            && address != self.gateway
    }

    /// The request that gives this subnet again.
    pub fn request(&self) -> SubnetRequest {
        SubnetRequest {
            net: self.net,
            gateway: Some(self.gateway),
            range: Some(self.range),
            block_prefix: Some(self.block_prefix),
        }
    }
}

impl TryFrom<SubnetRequest> for Subnet {
    type Error = SubnetError;

    fn try_from(request: SubnetRequest) -> Result<Self, SubnetError> {
        Self::new(&request)
    }
}

impl From<Subnet> for SubnetRequest {
    fn from(subnet: Subnet) -> Self {
        subnet.request()
    }
}

/// First and last host address. IPv6 knows no broadcast, but its first address is the
/// subnet-router anycast (RFC 4291 section 2.6.1).
fn hosts(net: &IpNet) -> (u128, u128) {
    let (first, last) = bounds(net);
    match net {
        IpNet::V4(_) => (first + 1, last - 1),
        IpNet::V6(_) => (first + 1, last),
    }
}

fn default_block_prefix(range: &IpNet) -> u8 {
    let bits = range.max_prefix_len() - range.prefix_len();
    let (least, most) = Subnet::BLOCK_BITS;
    let block = bits.saturating_sub(8).clamp(least, most).min(bits);
    range.max_prefix_len() - block
}

/// A route of a host that a subnet would hide, with the route's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error(
    "subnet {subnet} overlaps the route {route} ({what}) of this host: choose another subnet, or remove the route"
)]
pub struct RouteClash {
    pub subnet: IpNet,
    pub route: IpNet,
    pub what: String,
}

/// The first route of a host that `subnet` overlaps. `routes` are pairs of destination and what it
/// is for. Default routes reach everything and clash with nothing.
///
/// The log cannot know a host's routes: each node calls this for itself before it attaches, and the
/// manager that takes a `network create` for its own host.
pub fn clashes(subnet: &IpNet, routes: &[(IpNet, String)]) -> Result<(), RouteClash> {
    let clash = routes
        .iter()
        .find(|(route, _)| route.prefix_len() > 0 && overlap(route, subnet));
    match clash {
        None => Ok(()),
        Some((route, what)) => Err(RouteClash {
            subnet: *subnet,
            route: *route,
            what: what.clone(),
        }),
    }
}

/// The first net of `prefix` bits in `pool` that overlaps none of `taken`: a subnet for who named
/// none. `None` if there is no such net.
pub fn free_subnet(pool: &IpNet, prefix: u8, taken: &[IpNet]) -> Option<IpNet> {
    if prefix < pool.prefix_len() || prefix > pool.max_prefix_len() {
        return None;
    }
    let family = Family::of(pool.addr());
    let (first, last) = bounds(pool);
    let size = 1_u128.checked_shl((pool.max_prefix_len() - prefix).into())?;
    let mut at = first;
    loop {
        let candidate = addresses::net(family, at, prefix)?;
        let Some(clash) = taken.iter().find(|taken| overlap(taken, &candidate)) else {
            return Some(candidate);
        };
        let next = bounds(clash).1.max(at + (size - 1)).checked_add(1)?;
        at = next.checked_next_multiple_of(size)?;
        if at > last {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a net")
    }

    fn request(text: &str) -> SubnetRequest {
        SubnetRequest {
            net: net(text),
            gateway: None,
            range: None,
            block_prefix: None,
        }
    }

    #[test]
    fn a_subnet_gives_its_first_host_address_to_the_gateway() {
        let subnet = Subnet::new(&request("10.0.9.0/24")).expect("a subnet");
        assert_eq!(subnet.gateway().to_string(), "10.0.9.1");
        assert_eq!(subnet.block_prefix(), 28);
        let usable = |text: &str| subnet.is_usable(text.parse().expect("an address"));
        assert!(usable("10.0.9.2") && usable("10.0.9.254"));
        assert!(!usable("10.0.9.0") && !usable("10.0.9.1") && !usable("10.0.9.255"));
        assert!(!usable("10.0.8.2") && !usable("fd00::2"));
    }

    #[test]
    fn blocks_are_a_256th_of_the_range_within_bounds() {
        for (text, prefix) in [
            ("10.0.0.0/8", 16),
            ("10.0.0.0/16", 24),
            ("10.0.9.0/24", 28),
            ("10.0.9.0/29", 29),
            ("fd00::/64", 112),
            ("fd00::/112", 120),
            ("fd00::/126", 126),
        ] {
            let subnet = Subnet::new(&request(text)).expect(text);
            assert_eq!(subnet.block_prefix(), prefix, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_subnet_is_refused_with_the_reason() {
        for (text, reason) in [
            ("10.0.9.5/24", "did you mean 10.0.9.0/24?"),
            ("10.0.0.0/7", "too large"),
            ("10.0.0.0/31", "too small"),
            ("fd00::/127", "too small"),
            ("127.0.0.0/8", "loopback"),
            ("169.254.1.0/24", "link-local"),
            ("224.0.0.0/8", "multicast"),
            ("fe80::/64", "link-local"),
            ("::ffff:10.0.0.0/112", "IPv4-mapped"),
        ] {
            let error = Subnet::new(&request(text)).expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
        let with = |gateway: &str| SubnetRequest {
            gateway: Some(gateway.parse().expect("an address")),
            ..request("10.0.9.0/24")
        };
        for gateway in ["10.0.9.0", "10.0.9.255", "10.0.8.1", "fd00::1"] {
            let error = Subnet::new(&with(gateway)).expect_err(gateway).to_string();
            assert!(error.contains("use 10.0.9.1 to 10.0.9.254"), "{error}");
        }
        let range = SubnetRequest {
            range: Some(net("10.0.8.0/25")),
            ..request("10.0.9.0/24")
        };
        assert!(Subnet::new(&range).is_err());
        let block = SubnetRequest {
            block_prefix: Some(23),
            ..request("10.0.9.0/24")
        };
        assert!(Subnet::new(&block).is_err());
    }

    #[test]
    fn a_default_route_clashes_with_nothing() {
        let routes = [
            (net("0.0.0.0/0"), "default".to_owned()),
            (net("10.0.0.0/16"), "eth0".to_owned()),
        ];
        assert_eq!(clashes(&net("10.1.0.0/24"), &routes), Ok(()));
        let clash = clashes(&net("10.0.9.0/24"), &routes).expect_err("a clash");
        assert!(clash.to_string().contains("10.0.0.0/16 (eth0)"), "{clash}");
    }

    #[test]
    fn a_subnet_from_the_pool_avoids_what_is_taken() {
        let pool = net("10.0.0.0/8");
        assert_eq!(free_subnet(&pool, 24, &[]), Some(net("10.0.0.0/24")));
        let taken = [net("10.0.0.0/24"), net("10.0.1.0/26"), net("10.0.2.0/23")];
        assert_eq!(free_subnet(&pool, 24, &taken), Some(net("10.0.4.0/24")));
        assert_eq!(free_subnet(&pool, 24, &[net("10.0.0.0/8")]), None);
        assert_eq!(free_subnet(&pool, 7, &[]), None);
        let all = net("ff00::/8");
        assert_eq!(free_subnet(&all, 8, &[all]), None);
    }

    proptest! {
        #[test]
        fn a_subnet_is_what_it_requests(octets: [u8; 4], prefix in 0_u8..=32, block in proptest::option::of(0_u8..=32)) {
            let address = std::net::Ipv4Addr::from(octets);
            let net = IpNet::new(address.into(), prefix).expect("a net").trunc();
            let request = SubnetRequest { net, gateway: None, range: None, block_prefix: block };
            if let Ok(subnet) = Subnet::new(&request) {
                prop_assert!(!subnet.is_usable(subnet.gateway()));
                prop_assert!(subnet.block_prefix() >= subnet.range().prefix_len());
                prop_assert_eq!(Subnet::new(&subnet.request()), Ok(subnet));
            }
        }
    }
}
