//! Addresses as numbers: ranges of one family, counted in `u128`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits of an address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address as a number, host byte order.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number; of IPv4 the lower 32 bits count.
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(number & 0xffff_ffff).unwrap_or(0)).into(),
        Family::V6 => Ipv6Addr::from_bits(number).into(),
    }
}

/// First and last address of a net, as numbers.
pub fn bounds(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// The net that holds `address` alone.
pub fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The net of `prefix` bits that begins at `number`; `None` if the prefix is too long.
pub fn net(family: Family, first: u128, prefix: u8) -> Option<IpNet> {
    IpNet::new(address(family, first), prefix).ok()
}

/// Whether two nets share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nets_overlap_only_within_a_family() {
        let net = |text: &str| text.parse::<IpNet>().expect("a net");
        assert!(overlap(&net("10.0.0.0/8"), &net("10.1.0.0/16")));
        assert!(overlap(&net("10.1.0.0/16"), &net("10.0.0.0/8")));
        assert!(!overlap(&net("10.1.0.0/16"), &net("10.2.0.0/16")));
        assert!(!overlap(&net("0.0.0.0/0"), &net("::/0")));
    }

    proptest! {
        #[test]
        fn an_address_is_its_number(ip: IpAddr) {
            prop_assert_eq!(address(Family::of(ip), number(ip)), ip);
        }
    }
}
