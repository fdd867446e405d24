//! How large a packet may be inside for the path outside to carry it, and the reverse.
//!
//! All sizes are bytes of IP packets, as an interface's MTU counts them: without the outer Ethernet
//! header, and inside without the inner one.
//!
//! ```text
//! plain      outer IP | UDP 8 | VXLAN 8 | Ethernet 14 | inner
//! encrypted  outer IP | ESP 8 | IV 8 | UDP 8 | VXLAN 8 | Ethernet 14 | inner | padding | trailer 2 | ICV 16
//!                                     └──────────── a multiple of 4 bytes ───────────────────────┘
//! ```
//!
//! ESP in UDP (RFC 3948 section 2.1) puts another UDP header, of 8 bytes, before ESP.
//!
//! ESP in the wire format of transport mode (RFC 4303 section 3.1.1) with AES-GCM (RFC 4106):
//! 8 bytes of IV (section 3.1), 16 of ICV (section 6), padding to 4 bytes (RFC 4303 section 2.4).
//! An underlay of 1500 leaves 1450 over IPv4 and 1430 over IPv6 plain, 1416 and 1396 encrypted.

use super::{ethernet, ipv4, ipv6, udp, vxlan};

/// UDP, VXLAN and inner Ethernet header.
pub const TUNNEL_LEN: u32 = (udp::HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN) as u32;
/// SPI and sequence number (RFC 4303 section 2).
pub const ESP_HEADER_LEN: u32 = 8;
/// Explicit IV of AES-GCM (RFC 4106 section 3.1).
pub const ESP_IV_LEN: u32 = 8;
/// Pad length and next header (RFC 4303 section 2).
pub const ESP_TRAILER_LEN: u32 = 2;
/// The encrypted part is a multiple of this (RFC 4303 section 2.4).
pub const ESP_ALIGNMENT: u32 = 4;
/// Integrity check value, 128 bits (RFC 4106 section 6).
pub const ESP_ICV_LEN: u32 = 16;

/// The smallest MTU IPv4 allows (RFC 791 section 3.2), and Linux for an Ethernet device.
pub const MIN_INNER: u32 = 68;
/// The smallest MTU IPv6 allows (RFC 8200 section 5); below it a network has no IPv6.
pub const MIN_INNER_IPV6: u32 = 1280;

/// Family of the outer addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Bytes of the outer IP header.
    #[inline(always)]
    pub const fn header_len(self) -> u32 {
        match self {
            Self::V4 => ipv4::HEADER_LEN as u32,
            Self::V6 => ipv6::HEADER_LEN as u32,
        }
    }
}

/// What carries the overlay's packets between two VTEPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// VXLAN in clear.
    Plain,
    Esp,
    /// RFC 3948.
    EspInUdp,
}

impl Carrier {
    /// Of a network, on a node whose ESP goes to this UDP port, or 0.
    #[inline(always)]
    pub const fn of(encrypted: bool, esp_in_udp_port: u16) -> Self {
        match (encrypted, esp_in_udp_port) {
            (false, _) => Self::Plain,
            (true, 0) => Self::Esp,
            (true, _) => Self::EspInUdp,
        }
    }

    /// Bytes of headers and ICV around the encrypted part, without the IP header; `None` in clear.
    #[inline(always)]
    pub const fn esp_len(self) -> Option<u32> {
        let esp = ESP_HEADER_LEN + ESP_IV_LEN + ESP_ICV_LEN;
        match self {
            Self::Plain => None,
            Self::Esp => Some(esp),
            Self::EspInUdp => Some(esp + udp::HEADER_LEN as u32),
        }
    }
}

/// The largest inner packet that an underlay of `outer_mtu` carries, or `None` if that is below
/// [`MIN_INNER`].
#[inline(always)]
pub const fn inner_mtu(outer_mtu: u32, family: Family, carrier: Carrier) -> Option<u32> {
    let ip = family.header_len();
    let inner = if let Some(esp) = carrier.esp_len() {
        let ciphertext = outer_mtu.saturating_sub(ip + esp) & !(ESP_ALIGNMENT - 1);
        ciphertext.saturating_sub(TUNNEL_LEN + ESP_TRAILER_LEN)
    } else {
        outer_mtu.saturating_sub(ip + TUNNEL_LEN)
    };
    if inner < MIN_INNER { None } else { Some(inner) }
}

/// Bytes of the outer packet that carries an inner packet of `inner_mtu` bytes. `u32::MAX` if they
/// do not fit 32 bits.
#[inline(always)]
pub const fn outer_len(inner_mtu: u32, family: Family, carrier: Carrier) -> u32 {
    let ip = family.header_len();
    if let Some(esp) = carrier.esp_len() {
        let ciphertext = inner_mtu
            .saturating_add(TUNNEL_LEN + ESP_TRAILER_LEN)
            .checked_next_multiple_of(ESP_ALIGNMENT);
        match ciphertext {
            Some(len) => len.saturating_add(ip + esp),
            None => u32::MAX,
        }
    } else {
        inner_mtu.saturating_add(ip + TUNNEL_LEN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        Carrier::{Esp, EspInUdp, Plain},
        Family::{V4, V6},
        *,
    };

    #[test]
    fn usual_underlays() {
        for (outer, v4_plain, v6_plain, v4_encrypted, v6_encrypted) in [
            (1500, 1450, 1430, 1416, 1396),
            // An Ethernet "baby giant", a cloud's jumbo frame, the usual jumbo frame.
            (1600, 1550, 1530, 1516, 1496),
            (8500, 8450, 8430, 8416, 8396),
            (9000, 8950, 8930, 8916, 8896),
            (9001, 8951, 8931, 8916, 8896),
            // The least over which the inner network still has IPv6.
            (1330, 1280, 1260, 1244, 1224),
            (1364, 1314, 1294, 1280, 1260),
            (65535, 65485, 65465, 65448, 65428),
        ] {
            assert_eq!(inner_mtu(outer, V4, Plain), Some(v4_plain), "{outer}");
            assert_eq!(inner_mtu(outer, V6, Plain), Some(v6_plain), "{outer}");
            assert_eq!(inner_mtu(outer, V4, Esp), Some(v4_encrypted), "{outer}");
            assert_eq!(inner_mtu(outer, V6, Esp), Some(v6_encrypted), "{outer}");
        }
    }

    #[test]
    fn plain_overhead_is_that_of_the_headers_less_the_outer_ethernet_header() {
        use crate::packet::outer::{OVERHEAD_V4, OVERHEAD_V6};
        // The inner Ethernet header takes the place of the outer one, which no MTU counts.
        assert_eq!(outer_len(1000, V4, Plain), 1000 + OVERHEAD_V4 as u32);
        assert_eq!(outer_len(1000, V6, Plain), 1000 + OVERHEAD_V6 as u32);
    }

    #[test]
    fn padding_rounds_the_ciphertext_up_to_four_bytes() {
        // 20 + 8 + 8 + (30 + inner + padding + 2) + 16
        for (inner, outer) in [(1413, 1500), (1415, 1500), (1416, 1500), (1417, 1504)] {
            assert_eq!(outer_len(inner, V4, Esp), outer, "{inner}");
        }
    }

    #[test]
    fn udp_around_esp_costs_eight_bytes() {
        assert_eq!(inner_mtu(1500, V4, EspInUdp), Some(1408));
        assert_eq!(inner_mtu(1500, V6, EspInUdp), Some(1388));
        for inner in 68..2000 {
            for family in [V4, V6] {
                assert_eq!(
                    outer_len(inner, family, EspInUdp),
                    outer_len(inner, family, Esp) + 8
                );
            }
        }
    }

    #[test]
    fn too_small_an_underlay_carries_nothing() {
        assert_eq!(inner_mtu(0, V6, Esp), None);
        assert_eq!(inner_mtu(117, V4, Plain), None);
        assert_eq!(inner_mtu(118, V4, Plain), Some(MIN_INNER));
        assert_eq!(inner_mtu(u32::MAX, V4, Plain), Some(u32::MAX - 50));
        assert_eq!(outer_len(u32::MAX, V6, Esp), u32::MAX);
    }

    proptest! {
        #[test]
        fn inner_mtu_is_the_largest_that_fits(outer in 0u32..70_000, v6: bool, encrypted: bool, port in 0u16..2) {
            let family = if v6 { V6 } else { V4 };
            let carrier = Carrier::of(encrypted, port);
            match inner_mtu(outer, family, carrier) {
                Some(inner) => {
                    prop_assert!(outer_len(inner, family, carrier) <= outer);
                    prop_assert!(outer_len(inner + 1, family, carrier) > outer);
                }
                None => prop_assert!(outer_len(MIN_INNER, family, carrier) > outer),
            }
        }
    }
}
