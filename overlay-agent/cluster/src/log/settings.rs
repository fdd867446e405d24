//! Cluster-wide settings of the data plane: all nodes must have the same.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_ebpf::{
    abi::{Lane, MarkLayout, Vni},
    packet::mtu::{MIN_INNER, MIN_INNER_IPV6},
};
use serde::{Deserialize, Serialize};

use super::{
    addresses::Family,
    subnet::{SpecialUse, special_use},
};

/// How a mark carries slot and lane: see [`MarkLayout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub value: u32,
    pub mask: u32,
    pub shift: u32,
}

impl Mark {
    pub const fn layout(self) -> MarkLayout {
        MarkLayout {
            value: self.value,
            mask: self.mask,
            shift: self.shift,
        }
    }
}

impl Default for Mark {
    fn default() -> Self {
        let MarkLayout { value, mask, shift } = MarkLayout::DEFAULT;
        Self { value, mask, shift }
    }
}

/// The MTU of a network that names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MtuPolicy {
    /// What the underlay's routes leave.
    #[default]
    Derived,
    /// The same, but not more than this: inner IP packets in bytes.
    AtMost(u32),
}

/// Where `network create` takes a subnet from if it names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetPool {
    pub net: IpNet,
    /// Bits of a subnet's prefix.
    pub prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// UDP destination port of the underlay (RFC 7348 section 5).
    pub port: u16,
    /// UDP destination port of ESP in UDP (RFC 3948); `None` is plain ESP.
    pub esp_in_udp_port: Option<u16>,
    pub mark: Mark,
    /// SAs per pair and direction; `None` is what a node's CPUs suggest, at most 4.
    pub lanes: Option<u8>,
    pub mtu: MtuPolicy,
    /// Bytes after which the kernel ends an SA; `None` is unlimited.
    pub hard_byte_limit: Option<u64>,
    /// First and last VNI that are given to networks which name none.
    pub vnis: (Vni, Vni),
    pub subnet_pools: Vec<SubnetPool>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 4789,
            esp_in_udp_port: None,
            mark: Mark::default(),
            lanes: None,
            mtu: MtuPolicy::Derived,
            hard_byte_limit: Some(1 << 46),
            vnis: all_vnis(),
            subnet_pools: vec![SubnetPool {
                net: IpNet::new_assert(IpAddr::from([10, 0, 0, 0]), 8),
                prefix: 24,
            }],
        }
    }
}

fn all_vnis() -> (Vni, Vni) {
    match (Vni::new(Vni::MIN), Vni::new(Vni::MAX)) {
        (Ok(first), Ok(last)) => (first, last),
        _ => unreachable!("the bounds of VNIs are VNIs"),
    }
}

/// Why settings cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SettingsError {
    /// Port 0 is none.
    #[error("{setting} is 0: use 1 to 65535")]
    NoPort { setting: Port },
    /// VXLAN and ESP in UDP must be told apart.
    #[error("port and esp_in_udp_port are both {port}: use another for one of them")]
    SamePort { port: u16 },
    /// Mark, mask and shift do not fit together.
    #[error(
        "mark value {value:#010x}, mask {mask:#010x} and shift {shift} do not fit together: the mask covers the value and the 12 bits from the shift, the value has none of those 12"
    )]
    Mark { value: u32, mask: u32, shift: u32 },
    /// A lane has four bits.
    #[error("{lanes} lanes are not 1 to {max}: choose in between", max = Lane::COUNT)]
    Lanes { lanes: u8 },
    /// IPv6 does not work below 1280 (RFC 8200 section 5), IPv4 not below [`MIN_INNER`].
    #[error("an MTU of {mtu} is not {least} to {MTU_MAX} bytes: choose in between")]
    Mtu { mtu: u32, least: u32 },
    /// An SA would end as it begins.
    #[error(
        "a byte limit of {limit} per SA ends SAs faster than they are replaced: use {BYTE_LIMIT_MIN} at least"
    )]
    ByteLimit { limit: u64 },
    /// The range of VNIs is empty.
    #[error("the range of VNIs {first} to {last} is empty: put the smaller first")]
    Vnis { first: Vni, last: Vni },
    /// A pool that gives no subnet.
    #[error(
        "pool {net} gives no subnet of /{prefix}: use a net without bits behind its prefix, and a longer prefix for subnets, at most /30 or /126"
    )]
    Pool { net: IpNet, prefix: u8 },
    /// A pool of addresses that hosts treat in their own way.
    #[error("pool {net} is or holds {what}: use private addresses (RFC 1918, RFC 4193)")]
    SpecialPool { net: IpNet, what: SpecialUse },
    /// Settings are bounded.
    #[error("{given} subnet pools are more than {max}: leave some out", max = Settings::MAX_POOLS)]
    Pools { given: usize },
}

/// A setting that is a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Port {
    Vxlan,
    EspInUdp,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "port",
            Self::EspInUdp => "esp_in_udp_port",
        })
    }
}

/// Largest IP packet.
pub const MTU_MAX: u32 = 65_535;
/// A second at 100 Gbit/s is 12.5 GB; a rotation takes some.
pub const BYTE_LIMIT_MIN: u64 = 1 << 36;

impl Settings {
    pub const MAX_POOLS: usize = 16;

    pub fn check(&self) -> Result<(), SettingsError> {
        if self.port == 0 {
            let setting = Port::Vxlan;
            return Err(SettingsError::NoPort { setting });
        }
        match self.esp_in_udp_port {
            Some(0) => {
                let setting = Port::EspInUdp;
                return Err(SettingsError::NoPort { setting });
            }
            Some(port) if port == self.port => return Err(SettingsError::SamePort { port }),
            Some(_) | None => {}
        }
        if !self.mark.layout().is_consistent() {
            let Mark { value, mask, shift } = self.mark;
            return Err(SettingsError::Mark { value, mask, shift });
        }
        if let Some(lanes) = self.lanes
            && !(1..=Lane::COUNT).contains(&lanes.into())
        {
            return Err(SettingsError::Lanes { lanes });
        }
        if let MtuPolicy::AtMost(mtu) = self.mtu {
            check_mtu(mtu, Family::V6)?;
        }
        if let Some(limit) = self.hard_byte_limit
            && limit < BYTE_LIMIT_MIN
        {
            return Err(SettingsError::ByteLimit { limit });
        }
        let (first, last) = self.vnis;
        if first > last {
            return Err(SettingsError::Vnis { first, last });
        }
        if self.subnet_pools.len() > Self::MAX_POOLS {
            let given = self.subnet_pools.len();
            return Err(SettingsError::Pools { given });
        }
        for &SubnetPool { net, prefix } in &self.subnet_pools {
            let longest = Family::of(net.addr()).bits() - 2;
            if net != net.trunc() || !(net.prefix_len()..=longest).contains(&prefix) {
                return Err(SettingsError::Pool { net, prefix });
            }
            if let Some(what) = special_use(&net) {
                return Err(SettingsError::SpecialPool { net, what });
            }
        }
        Ok(())
    }
}

/// Whether endpoints with addresses of this family may have this MTU.
pub fn check_mtu(mtu: u32, family: Family) -> Result<(), SettingsError> {
    let least = match family {
        Family::V4 => MIN_INNER,
        Family::V6 => MIN_INNER_IPV6,
    };
    if (least..=MTU_MAX).contains(&mtu) {
        Ok(())
    } else {
        Err(SettingsError::Mtu { mtu, least })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn each_bound_is_checked() {
        let check = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().expect_err("out of bounds").to_string()
        };
        for (message, part) in [
            (check(|s| s.port = 0), "port is 0"),
            (
                check(|s| s.esp_in_udp_port = Some(0)),
                "esp_in_udp_port is 0",
            ),
            (check(|s| s.esp_in_udp_port = Some(4789)), "both 4789"),
            (check(|s| s.mark.shift = 21), "shift 21"),
            (check(|s| s.lanes = Some(0)), "0 lanes"),
            (check(|s| s.lanes = Some(17)), "17 lanes"),
            (check(|s| s.mtu = MtuPolicy::AtMost(1279)), "1279"),
            (check(|s| s.hard_byte_limit = Some(1)), "limit of 1 "),
            (check(|s| s.vnis = (s.vnis.1, s.vnis.0)), "16777215 to 4096"),
            (check(|s| s.subnet_pools[0].prefix = 7), "10.0.0.0/8"),
            (check(|s| s.subnet_pools[0].prefix = 31), "10.0.0.0/8"),
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
