//! The outer headers of a packet to our port: Ethernet, IPv4 or IPv6, UDP, VXLAN.

use overlay_ebpf::{
    abi::{
        Config, Direction, DropReason, SecurityAssociationKey, VtepKey, VtepRole, ids::is_mapped,
    },
    packet::{
        ethernet::ether_type,
        ip_protocol,
        ipv4::Ipv4,
        ipv6::Ipv6,
        udp::Udp,
        vxlan::{self, VxlanError},
    },
};

use super::{frame::Frame, maps, report::Drop, words::mapped};

/// Bytes that [`classify`] reads at the most.
pub const MAX_LEN: usize = 14 + 40 + 8 + 8;

/// An outer header that is ours and well-formed.
#[derive(Clone, Copy)]
pub struct Outer {
    pub ipv6: bool,
    /// Traffic class or type of service, as received.
    pub dscp_ecn: u8,
    /// Node index of the source VTEP.
    pub peer: u32,
    /// 1 to 2^24−1; not yet known to be a network of this node.
    pub vni: u32,
}

/// What an underlay packet is to us.
pub enum Class {
    /// Not to our port on a VTEP of this node: the host's business.
    Foreign,
    Vxlan(Outer),
    /// ESP to a VTEP of this node.
    Esp {
        source: [u8; 16],
        spi: u32,
        /// RFC 3948 section 2.1; then the SPI is one that this node receives.
        in_udp: bool,
    },
}

/// Bytes of the shortest UDP datagram that holds ESP: what is shorter is a keep-alive (RFC 3948
/// section 2.3), or nothing of ours.
const ESP_IN_UDP_MIN: u16 = 8 + 8;

/// Classifies a packet that starts with an Ethernet header. `length` is the whole packet's.
///
/// An error is a packet to our port on our VTEP that must not go further.
#[inline(always)]
pub fn classify<F: Frame>(frame: &F, config: &Config, length: u32) -> Result<Class, DropReason> {
    let Some(&[high, low]) = frame.bytes::<2>(12) else {
        return Ok(Class::Foreign);
    };
    match u16::from_be_bytes([high, low]) {
        ether_type::IPV4 => ipv4(frame, config, length),
        ether_type::IPV6 => ipv6(frame, config, length),
        _ => Ok(Class::Foreign),
    }
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, config: &Config, length: u32) -> Result<Class, DropReason> {
    const L3: usize = 14;
    const L4: usize = L3 + 20;
    let Some(header) = frame.bytes::<20>(L3) else {
        return Ok(Class::Foreign);
    };
    let Ok(ip) = Ipv4::parse(header) else {
        return Ok(Class::Foreign);
    };
    let destination = mapped(ip.destination);
    let source = mapped(ip.source);
    match ip.protocol {
        ip_protocol::ESP if !ip.has_options() && !ip.is_fragment() => {
            esp(frame, L4, source, &destination)
        }
        ip_protocol::UDP if ip.fragment_offset == 0 => {
            if ip.has_options() {
                // With options the port stands elsewhere; ours never have any, and the kernel
                // would hand the datagram to `ovl-gro`, where it is dropped.
                return Ok(Class::Foreign);
            }
            let Some(udp) = udp(frame, L4) else {
                return Ok(Class::Foreign);
            };
            if udp.destination_port != config.port {
                return esp_in_udp(
                    frame,
                    config,
                    &udp,
                    &Datagram {
                        l4: L4,
                        ip_payload: ip.total_len.saturating_sub(20),
                        fragment: ip.is_fragment(),
                        length,
                    },
                    source,
                    &destination,
                );
            }
            if !is_local(&destination) {
                return Ok(Class::Foreign);
            }
            if ip.is_fragment() {
                return Err(DropReason::UnderlayFragment);
            }
            if u32::from(ip.total_len) + L3 as u32 > length {
                return Err(DropReason::TooShort);
            }
            if u32::from(udp.length) + 20 != u32::from(ip.total_len) {
                return Err(DropReason::BadUdpLength);
            }
            vxlan(frame, L4 + 8, ip.dscp << 2 | ip.ecn, source, false)
        }
        _ => Ok(Class::Foreign),
    }
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, config: &Config, length: u32) -> Result<Class, DropReason> {
    const L3: usize = 14;
    const L4: usize = L3 + 40;
    let Some(header) = frame.bytes::<40>(L3) else {
        return Ok(Class::Foreign);
    };
    let Ok(ip) = Ipv6::parse(header) else {
        return Ok(Class::Foreign);
    };
    match ip.next_header {
        ip_protocol::ESP => esp(frame, L4, ip.source, &ip.destination),
        ip_protocol::UDP => {
            let Some(udp) = udp(frame, L4) else {
                return Ok(Class::Foreign);
            };
            if udp.destination_port != config.port {
                return esp_in_udp(
                    frame,
                    config,
                    &udp,
                    &Datagram {
                        l4: L4,
                        ip_payload: ip.payload_len,
                        fragment: false,
                        length,
                    },
                    ip.source,
                    &ip.destination,
                );
            }
            if !is_local(&ip.destination) {
                return Ok(Class::Foreign);
            }
            if u32::from(ip.payload_len) + L4 as u32 > length {
                return Err(DropReason::TooShort);
            }
            if udp.length != ip.payload_len {
                return Err(DropReason::BadUdpLength);
            }
            if is_mapped(&ip.source) {
                // In the maps, an IPv4 VTEP looks the same; on the wire nobody has the address.
                return Err(DropReason::UnknownVtep);
            }
            vxlan(frame, L4 + 8, ip.traffic_class, ip.source, true)
        }
        // A fragment header or another extension header: the kernel reassembles and hands the
        // datagram to `ovl-gro`, where it is dropped.
        _ => Ok(Class::Foreign),
    }
}

#[inline(always)]
pub fn udp<F: Frame>(frame: &F, l4: usize) -> Option<Udp> {
    frame.bytes::<8>(l4).map(Udp::parse)
}

/// Whether ESP in UDP is on and goes to this port.
#[inline(always)]
pub fn is_esp_in_udp(config: &Config, port: u16) -> bool {
    port != 0 && port == config.esp_in_udp_port
}

/// What the IP header says of a datagram that may hold ESP.
struct Datagram {
    l4: usize,
    ip_payload: u16,
    fragment: bool,
    /// Of the whole packet.
    length: u32,
}

/// The port may be shared with an IKE daemon: what has no SPI of ours is its business, key exchange
/// behind the non-ESP marker (SPI 0, RFC 3948 section 2.2) and keep-alives included.
#[inline(always)]
fn esp_in_udp<F: Frame>(
    frame: &F,
    config: &Config,
    udp: &Udp,
    ip: &Datagram,
    source: [u8; 16],
    destination: &[u8; 16],
) -> Result<Class, DropReason> {
    if !is_esp_in_udp(config, udp.destination_port)
        || udp.length < ESP_IN_UDP_MIN
        || !is_local(destination)
    {
        return Ok(Class::Foreign);
    }
    let Some(spi) = frame.bytes::<4>(ip.l4 + 8) else {
        return Ok(Class::Foreign);
    };
    let spi = u32::from_be_bytes(*spi);
    let key = SecurityAssociationKey {
        spi,
        receiver: config.node,
    };
    if maps::security_association(&key).is_none() {
        return Ok(Class::Foreign);
    }
    if ip.fragment {
        return Err(DropReason::UnderlayFragment);
    }
    if u32::from(ip.ip_payload) + ip.l4 as u32 > ip.length {
        return Err(DropReason::TooShort);
    }
    if udp.length != ip.ip_payload {
        return Err(DropReason::BadUdpLength);
    }
    if ip.l4 == 14 + 40 && is_mapped(&source) {
        return Err(DropReason::UnknownVtep);
    }
    Ok(Class::Esp {
        source,
        spi,
        in_udp: true,
    })
}

/// ESP with an SPI of ours comes from the peer whose it is.
#[inline(always)]
pub fn check_esp_source(config: &Config, source: [u8; 16], spi: u32) -> Result<(), Drop> {
    let key = SecurityAssociationKey {
        spi,
        receiver: config.node,
    };
    let Some(sa) = maps::security_association(&key) else {
        return Ok(());
    };
    match maps::vtep(&VtepKey { address: source }) {
        Some(vtep) if vtep.peer == sa.peer => Ok(()),
        _ => Err(Drop {
            peer: sa.peer,
            ..Drop::new(DropReason::UnknownVtep, Direction::FromUnderlay)
        }),
    }
}

#[inline(always)]
fn is_local(address: &[u8; 16]) -> bool {
    match maps::vtep(&VtepKey { address: *address }) {
        Some(vtep) => vtep.role == VtepRole::Local,
        None => false,
    }
}

#[inline(always)]
fn esp<F: Frame>(
    frame: &F,
    l4: usize,
    source: [u8; 16],
    destination: &[u8; 16],
) -> Result<Class, DropReason> {
    match frame.bytes::<4>(l4) {
        Some(spi) if is_local(destination) => Ok(Class::Esp {
            source,
            spi: u32::from_be_bytes(*spi),
            in_udp: false,
        }),
        _ => Ok(Class::Foreign),
    }
}

#[inline(always)]
fn vxlan<F: Frame>(
    frame: &F,
    l5: usize,
    dscp_ecn: u8,
    source: [u8; 16],
    ipv6: bool,
) -> Result<Class, DropReason> {
    let header = frame.bytes::<8>(l5).ok_or(DropReason::TooShort)?;
    let vni = vxlan::parse(header).map_err(|error| match error {
        VxlanError::Flags => DropReason::BadVxlanFlags,
        VxlanError::VniZero => DropReason::VniZero,
    })?;
    match maps::vtep(&VtepKey { address: source }) {
        Some(vtep) if vtep.role == VtepRole::Remote => Ok(Class::Vxlan(Outer {
            ipv6,
            dscp_ecn,
            peer: vtep.peer,
            vni,
        })),
        _ => Err(DropReason::UnknownVtep),
    }
}
