//! Addresses that tell where they belong: network, node and container can be read off them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address of a socket that is bound to none.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    pub(super) fn chosen(ipv4: bool, ipv6: bool) -> impl Iterator<Item = Self> {
        [ipv4.then_some(Self::V4), ipv6.then_some(Self::V6)]
            .into_iter()
            .flatten()
    }
}

/// Prefix lengths of overlay networks.
pub(super) fn prefix_length(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 16,
        IpAddr::V6(_) => 64,
    }
}

/// Where an endpoint is. Numbers from 1, but the network's from 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub network: u8,
    pub node: u8,
    pub container: u8,
}

impl Place {
    fn ipv4(self) -> [u8; 4] {
        [10, 64 + self.network, self.node, self.container]
    }

    /// `10.64.NODE.CONTAINER/16`, `fd00:0:0:NETWORK::NODE:CONTAINER/64`.
    pub fn ip(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::from(self.ipv4()).into(),
            Family::V6 => {
                let (network, node, container) = (self.network, self.node, self.container);
                let [network, node, container] = [network, node, container].map(u16::from);
                Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, node, container).into()
            }
        }
    }

    /// `02:42:` and the IPv4 address, as the agent derives it.
    pub fn mac(self) -> [u8; 6] {
        let [a, b, c, d] = self.ipv4();
        [0x02, 0x42, a, b, c, d]
    }
}

/// Address of a node's VTEP on a switch (RFC 5737, RFC 3849): `192.0.2.NODE/24`,
/// `2001:db8::NODE/64`.
pub(super) fn switched_vtep(family: Family, node: u8) -> (IpAddr, u8) {
    match family {
        Family::V4 => (Ipv4Addr::new(192, 0, 2, node).into(), 24),
        Family::V6 => {
            let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, node.into());
            (ip.into(), 64)
        }
    }
}

/// Address of a node's VTEP behind a router (RFC 2544), and that of its gateway.
pub(super) fn routed_vtep(family: Family, node: u8) -> (IpAddr, IpAddr, u8) {
    match family {
        Family::V4 => {
            let ip = |host| Ipv4Addr::new(198, 18, node, host).into();
            (ip(1), ip(254), 24)
        }
        Family::V6 => {
            let ip = |host| Ipv6Addr::new(0x2001, 0xdb8, 0, node.into(), 0, 0, 0, host).into();
            (ip(1), ip(0xffff), 64)
        }
    }
}

/// As the `overlay` command and `ip` write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_tell_their_place() {
        let place = Place {
            network: 1,
            node: 2,
            container: 3,
        };
        assert_eq!(place.ip(Family::V4).to_string(), "10.65.2.3");
        assert_eq!(place.ip(Family::V6).to_string(), "fd00::1:0:0:2:3");
        assert_eq!(mac_text(place.mac()), "02:42:0a:41:02:03");
    }
}
