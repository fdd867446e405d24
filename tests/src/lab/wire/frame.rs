//! One frame of the underlay, told apart.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// RFC 7348 section 5.
const VXLAN_PORT: u16 = 4789;
/// RFC 3948: the port that tests set for ESP in UDP.
const ESP_IN_UDP_PORT: u16 = 4500;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
const UDP: usize = 8;
const VXLAN: usize = 8;

/// What a frame on the underlay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Esp(Esp),
    Vxlan(Vxlan),
    Arp,
    Icmp,
    Icmpv6,
    /// A fragment but the first, or a first one of what is none of the above.
    Fragment {
        protocol: u8,
    },
    Other(String),
}

/// The header of an ESP packet (RFC 4303) and the explicit IV of AES-GCM (RFC 4106 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Esp {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub spi: u32,
    /// The low 32 bits.
    pub sequence: u32,
    pub iv: [u8; 8],
    /// Source port of ESP in UDP; `None` is plain ESP.
    pub udp_source_port: Option<u16>,
}

impl Esp {
    fn parse((source, destination): (IpAddr, IpAddr), payload: &[u8]) -> Option<Self> {
        Some(Self {
            source,
            destination,
            spi: u32_at(payload, 0)?,
            sequence: u32_at(payload, 4)?,
            iv: payload.get(8..16)?.try_into().ok()?,
            udp_source_port: None,
        })
    }
}

/// A VXLAN packet in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: u32,
    pub source_port: u16,
    /// Offset of the inner frame.
    pub inner: usize,
}

impl Kind {
    /// Takes a frame apart from its Ethernet header on.
    pub fn of(frame: &[u8]) -> Self {
        match u16_at(frame, 12) {
            Some(0x0806) => Self::Arp,
            Some(0x0800) => Self::of_ipv4(frame).unwrap_or_else(|| Self::truncated("IPv4")),
            Some(0x86dd) => Self::of_ipv6(frame).unwrap_or_else(|| Self::truncated("IPv6")),
            Some(ethertype) => Self::Other(format!("Ethertype {ethertype:#06x}")),
            None => Self::truncated("Ethernet"),
        }
    }

    fn truncated(what: &str) -> Self {
        Self::Other(format!("truncated {what}"))
    }

    fn of_ipv4(frame: &[u8]) -> Option<Self> {
        let header = frame.get(ETHERNET..)?;
        let length = usize::from(header.first()? & 0xf) * 4;
        let protocol = *header.get(9)?;
        let fragment = u16_at(header, 6)?;
        if fragment & 0x1fff != 0 {
            return Some(Self::Fragment { protocol });
        }
        let address = |at| Some(Ipv4Addr::from(u32_at(header, at)?).into());
        Self::of_payload(
            frame,
            ETHERNET + length,
            protocol,
            (address(12)?, address(16)?),
        )
    }

    fn of_ipv6(frame: &[u8]) -> Option<Self> {
        const FRAGMENT: u8 = 44;
        let protocol = *frame.get(ETHERNET + 6)?;
        let address = |at: usize| {
            let bytes: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(bytes)))
        };
        let addresses = (address(ETHERNET + 8)?, address(ETHERNET + 24)?);
        if protocol == FRAGMENT {
            let at = ETHERNET + IPV6;
            let inner = *frame.get(at)?;
            if u16_at(frame, at + 2)? & 0xfff8 != 0 {
                return Some(Self::Fragment { protocol: inner });
            }
            return Self::of_payload(frame, at + 8, inner, addresses);
        }
        Self::of_payload(frame, ETHERNET + IPV6, protocol, addresses)
    }

    fn of_payload(
        frame: &[u8],
        at: usize,
        protocol: u8,
        addresses: (IpAddr, IpAddr),
    ) -> Option<Self> {
        let payload = frame.get(at..)?;
        Some(match protocol {
            50 => Self::Esp(Esp::parse(addresses, payload)?),
            // SPI 0 is IKE (RFC 3948 section 2.2).
            17 if u16_at(payload, 2)? == ESP_IN_UDP_PORT && u32_at(payload, UDP)? != 0 => {
                Self::Esp(Esp {
                    udp_source_port: Some(u16_at(payload, 0)?),
                    ..Esp::parse(addresses, payload.get(UDP..)?)?
                })
            }
            17 if u16_at(payload, 2)? == VXLAN_PORT => Self::Vxlan(Vxlan {
                vni: u32_at(payload, UDP + 4)? >> 8,
                source_port: u16_at(payload, 0)?,
                inner: at + UDP + VXLAN,
            }),
            17 => Self::Other(format!("UDP to port {}", u16_at(payload, 2)?)),
            6 => Self::Other("TCP".into()),
            1 => Self::Icmp,
            58 => Self::Icmpv6,
            0 => Self::Other("IPv6 hop-by-hop".into()),
            other => Self::Other(format!("IP protocol {other}")),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esp(esp) if esp.udp_source_port.is_some() => f.write_str("ESP in UDP"),
            Self::Esp(_) => f.write_str("ESP"),
            Self::Vxlan(vxlan) => write!(f, "VXLAN VNI {}", vxlan.vni),
            Self::Arp => f.write_str("ARP"),
            Self::Icmp => f.write_str("ICMP"),
            Self::Icmpv6 => f.write_str("ICMPv6"),
            Self::Fragment { protocol } => write!(f, "fragment of IP protocol {protocol}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(payload);
        frame
    }

    const VXLAN_4097: [u8; 16] = [
        0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0x10, 0x01, 0,
    ];

    #[test]
    fn vxlan_is_told_by_its_port_and_vni() {
        let kind = Kind::of(&ipv4(17, 0x4000, &VXLAN_4097));
        assert_eq!(kind.to_string(), "VXLAN VNI 4097");
        assert!(matches!(kind, Kind::Vxlan(vxlan) if vxlan.inner == 50));
        assert_eq!(
            Kind::of(&ipv4(17, 0x4000, &[0; 16])).to_string(),
            "UDP to port 0"
        );
    }

    #[test]
    fn esp_in_udp_is_esp_with_a_source_port_and_ike_is_not() {
        let mut payload = vec![0xc0, 0x11, 0x11, 0x94, 0, 40, 0, 0];
        payload.extend([0, 0, 0x10, 0x11, 0, 0, 0, 7]);
        payload.extend([9; 24]);
        let kind = Kind::of(&ipv4(17, 0x4000, &payload));
        assert_eq!(kind.to_string(), "ESP in UDP");
        assert!(matches!(
            kind,
            Kind::Esp(Esp {
                spi: 0x1011,
                sequence: 7,
                iv: [9, ..],
                udp_source_port: Some(0xc011),
                ..
            })
        ));
        payload[8..12].fill(0);
        assert_eq!(
            Kind::of(&ipv4(17, 0x4000, &payload)).to_string(),
            "UDP to port 4500"
        );
    }

    #[test]
    fn vxlan_in_a_first_fragment_is_vxlan_and_the_rest_is_named() {
        assert!(matches!(
            Kind::of(&ipv4(17, 0x2000, &VXLAN_4097)),
            Kind::Vxlan(_)
        ));
        assert_eq!(
            Kind::of(&ipv4(17, 0x2001, &VXLAN_4097)),
            Kind::Fragment { protocol: 17 }
        );
    }

    #[test]
    fn what_is_cut_short_is_no_protocol() {
        let whole = ipv4(17, 0, &VXLAN_4097);
        for length in 0..whole.len() - 1 {
            assert!(
                matches!(Kind::of(&whole[..length]), Kind::Other(_)),
                "{length}"
            );
        }
    }
}
