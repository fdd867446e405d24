//! The MTU inside a network, from the routes outside.

use std::net::IpAddr;

use overlay_ebpf::packet::{
    mtu::{
        Carrier, ESP_ALIGNMENT, ESP_HEADER_LEN, ESP_ICV_LEN, ESP_IV_LEN, ESP_TRAILER_LEN, Family,
        MIN_INNER, TUNNEL_LEN, inner_mtu,
    },
    udp,
};

/// One path that frames of a network take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    /// Whose path, for the operator: a peer's name, or the device that holds the VTEP.
    pub to: &'a str,
    pub family: Family,
    /// Largest outer IP packet, bytes.
    pub outer_mtu: u32,
}

/// Why a network has no MTU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MtuError {
    #[error(
        "the path to {to} has MTU {outer_mtu}, which leaves less than {MIN_INNER} bytes inside: {arithmetic}"
    )]
    PathTooSmall {
        to: String,
        outer_mtu: u32,
        arithmetic: String,
    },
    #[error(
        "mtu = {wanted} is too small: IPv4 needs {MIN_INNER} (RFC 791 section 3.2), IPv6 1280 (RFC 8200 section 5)"
    )]
    ManualTooSmall { wanted: u32 },
    #[error("mtu = {wanted} is too large: the path to {to} has MTU {outer_mtu}, and {arithmetic}")]
    ManualTooLarge {
        wanted: u32,
        to: String,
        outer_mtu: u32,
        arithmetic: String,
    },
}

pub fn family(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

/// The largest inner IP packet that every path carries, or `manual` if it is not larger than that.
///
/// `None` if there is neither a path nor a manual value.
pub fn network_mtu<'a>(
    paths: impl IntoIterator<Item = Path<'a>>,
    carrier: Carrier,
    manual: Option<u32>,
) -> Result<Option<u32>, MtuError> {
    if let Some(wanted) = manual.filter(|&wanted| wanted < MIN_INNER) {
        return Err(MtuError::ManualTooSmall { wanted });
    }
    let mut smallest: Option<(u32, Path<'a>)> = None;
    for path in paths {
        let inner = inner_mtu(path.outer_mtu, path.family, carrier).ok_or_else(|| {
            MtuError::PathTooSmall {
                to: path.to.to_owned(),
                outer_mtu: path.outer_mtu,
                arithmetic: arithmetic(path.outer_mtu, path.family, carrier),
            }
        })?;
        if smallest.is_none_or(|(known, _)| inner < known) {
            smallest = Some((inner, path));
        }
    }
    match (smallest, manual) {
        (Some((derived, path)), Some(wanted)) if wanted > derived => {
            Err(MtuError::ManualTooLarge {
                wanted,
                to: path.to.to_owned(),
                outer_mtu: path.outer_mtu,
                arithmetic: arithmetic(path.outer_mtu, path.family, carrier),
            })
        }
        (_, Some(wanted)) => Ok(Some(wanted)),
        (derived, None) => Ok(derived.map(|(mtu, _)| mtu)),
    }
}

/// The calculation of [`inner_mtu`], spelled out.
fn arithmetic(outer_mtu: u32, family: Family, carrier: Carrier) -> String {
    let ip = family.header_len();
    let result = match inner_mtu(outer_mtu, family, carrier) {
        Some(mtu) => mtu.to_string(),
        None => format!("less than {MIN_INNER}"),
    };
    if let Some(esp) = carrier.esp_len() {
        let ciphertext = outer_mtu.saturating_sub(ip + esp) & !(ESP_ALIGNMENT - 1);
        let udp = match carrier {
            Carrier::EspInUdp => format!(" − {} (UDP)", udp::HEADER_LEN),
            Carrier::Plain | Carrier::Esp => String::new(),
        };
        format!(
            "{outer_mtu} − {ip} (outer IP){udp} − {ESP_HEADER_LEN} (ESP) − {ESP_IV_LEN} (IV) − \
             {ESP_ICV_LEN} (ICV), down to a multiple of {ESP_ALIGNMENT} = {ciphertext}; \
             {ciphertext} − {TUNNEL_LEN} (UDP, VXLAN, Ethernet) − {ESP_TRAILER_LEN} (ESP trailer) \
             = {result}"
        )
    } else {
        format!("{outer_mtu} − {ip} (outer IP) − {TUNNEL_LEN} (UDP, VXLAN, Ethernet) = {result}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: Path<'static> = Path {
        to: "b",
        family: Family::V4,
        outer_mtu: 1500,
    };
    const SMALL: Path<'static> = Path {
        to: "c",
        family: Family::V6,
        outer_mtu: 1400,
    };

    #[test]
    fn network_mtu_is_that_of_the_narrowest_path() {
        assert_eq!(network_mtu([ETHERNET], Carrier::Esp, None), Ok(Some(1416)));
        assert_eq!(
            network_mtu([ETHERNET], Carrier::Plain, None),
            Ok(Some(1450))
        );
        assert_eq!(
            network_mtu([ETHERNET, SMALL], Carrier::Plain, None),
            Ok(Some(1330))
        );
        assert_eq!(network_mtu([], Carrier::Plain, None), Ok(None));
    }

    #[test]
    fn manual_mtu_up_to_the_derived_one_is_taken() {
        assert_eq!(
            network_mtu([ETHERNET], Carrier::Esp, Some(1416)),
            Ok(Some(1416))
        );
        assert_eq!(
            network_mtu([ETHERNET], Carrier::Esp, Some(1300)),
            Ok(Some(1300))
        );
    }

    #[test]
    fn manual_mtu_too_large_is_refused_with_the_arithmetic() {
        let error = network_mtu([ETHERNET, SMALL], Carrier::Esp, Some(1500)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mtu = 1500 is too large: the path to c has MTU 1400, and 1400 − 40 (outer IP) − 8 (ESP) \
             − 8 (IV) − 16 (ICV), down to a multiple of 4 = 1328; 1328 − 30 (UDP, VXLAN, Ethernet) − \
             2 (ESP trailer) = 1296"
        );
        let error = network_mtu([ETHERNET], Carrier::Plain, Some(1451)).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("1500 − 20 (outer IP) − 30 (UDP, VXLAN, Ethernet) = 1450")
        );
    }

    #[test]
    fn esp_in_udp_is_named_in_the_arithmetic() {
        let error = network_mtu([ETHERNET], Carrier::EspInUdp, Some(1416)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mtu = 1416 is too large: the path to b has MTU 1500, and 1500 − 20 (outer IP) − 8 (UDP) \
             − 8 (ESP) − 8 (IV) − 16 (ICV), down to a multiple of 4 = 1440; 1440 − 30 (UDP, VXLAN, \
             Ethernet) − 2 (ESP trailer) = 1408"
        );
    }

    #[test]
    fn manual_value_below_what_ip_needs_is_an_error() {
        let refused = |paths: &[Path<'static>]| {
            network_mtu(paths.iter().copied(), Carrier::Plain, Some(67)).unwrap_err()
        };
        for paths in [&[][..], &[ETHERNET]] {
            assert_eq!(refused(paths), MtuError::ManualTooSmall { wanted: 67 });
        }
        assert_eq!(
            network_mtu([ETHERNET], Carrier::Plain, Some(68)),
            Ok(Some(68))
        );
    }

    #[test]
    fn path_too_small_for_any_packet_is_an_error() {
        let tiny = Path {
            outer_mtu: 100,
            ..ETHERNET
        };
        assert!(matches!(
            network_mtu([tiny], Carrier::Plain, None),
            Err(MtuError::PathTooSmall { outer_mtu: 100, .. })
        ));
    }
}
