//! TC egress of every device that can carry the underlay: the last barrier.
//!
//! What `endpoint_tx` sent to XFRM leaves as ESP, plain or in UDP, or not at all. That rests on its
//! origin and its bytes: no map, emptied or altered, lets VXLAN out.
//!
//! Of everything else it judges cleartext VXLAN and its fragments from or to a VTEP that we know. A
//! frame of a plain network passes if `endpoint_tx` made it; whatever else goes to our port was
//! made by a local process. So was ESP with an SPI of ours that comes from a socket: its mark, which
//! takes no more than `CAP_NET_RAW`, led it to our SA.
//!
//! There are two of it: on devices with an Ethernet header, and on those whose packets begin with
//! the IP header (tun, WireGuard, IP tunnels, PPP).

use aya_ebpf::programs::TcContext;
use overlay_ebpf::{
    abi::{
        Config, Direction, DropReason, NetworkFlags, NetworkKey, SecurityAssociationKey, VtepKey,
        VtepRole, ids::mapped,
    },
    packet::{ethernet::ether_type, ip_protocol, ipv4::Ipv4, ipv6::Ipv6, udp::Udp, vxlan},
};

use super::{
    TC_CONTINUE,
    frame::{self, Frame as _, SkBuffFields as _},
    maps, origin, outer,
    report::Drop,
};

/// Extension headers that may stand before UDP, apart from the fragment header.
macro_rules! extension {
    () => {
        ip_protocol::HOP_BY_HOP | ip_protocol::ROUTING | ip_protocol::DESTINATION_OPTIONS
    };
}

/// Length of the link-layer header: where the IP header begins.
pub const ETHERNET: usize = 14;
pub const NONE: usize = 0;

#[inline(always)]
pub fn underlay_audit<const L3: usize>(ctx: &TcContext) -> Result<i32, Drop> {
    frame::make_linear(ctx, outer::MAX_LEN);
    if ctx.tc_index() == origin::ENCRYPT {
        // It is encrypted: what the host's own tunnels put around it is not ours to judge.
        if is_esp::<L3>(ctx) {
            ctx.set_tc_index(0);
        } else if is_esp_in_udp::<L3>(ctx) {
            ctx.set_tc_index(origin::ESP_IN_UDP);
        } else {
            return Err(Drop::new(
                DropReason::CleartextEncryptedVni,
                Direction::ToUnderlay,
            ));
        }
        return Ok(TC_CONTINUE);
    }
    let Some(config) = maps::config() else {
        return Ok(TC_CONTINUE);
    };
    match ethertype::<L3>(ctx) {
        ether_type::IPV4 => {
            let Some(header) = ctx.bytes::<20>(L3) else {
                return Ok(TC_CONTINUE);
            };
            let Ok(ip) = Ipv4::parse(header) else {
                return Ok(TC_CONTINUE);
            };
            let (source, destination) = (mapped(ip.source), mapped(ip.destination));
            if ip.protocol == ip_protocol::ESP {
                return match ip.has_options() {
                    true => esp_behind_extension(ctx, &source, &destination),
                    false => esp(ctx, L3 + 20, &destination),
                };
            }
            if ip.protocol != ip_protocol::UDP {
                return Ok(TC_CONTINUE);
            }
            if ip.is_fragment() {
                return hidden(DropReason::UnderlayFragment, &source, &destination);
            }
            if ip.has_options() {
                // The port is not where it is read below: judge by the addresses alone.
                return hidden(DropReason::OuterIpOptions, &source, &destination);
            }
            datagram(ctx, L3 + 20, config, &source, &destination)
        }
        ether_type::IPV6 => {
            let Some(header) = ctx.bytes::<40>(L3) else {
                return Ok(TC_CONTINUE);
            };
            let Ok(ip) = Ipv6::parse(header) else {
                return Ok(TC_CONTINUE);
            };
            match ip.next_header {
                ip_protocol::UDP => datagram(ctx, L3 + 40, config, &ip.source, &ip.destination),
                ip_protocol::ESP => esp(ctx, L3 + 40, &ip.destination),
                ip_protocol::FRAGMENT => match ctx.bytes::<1>(L3 + 40) {
                    // First byte of every extension header: the protocol of what follows
                    // (RFC 8200 section 4).
                    Some(&[ip_protocol::UDP]) => {
                        hidden(DropReason::UnderlayFragment, &ip.source, &ip.destination)
                    }
                    // In all but the first there is no SPI here, and without the first they are nothing.
                    Some(&[ip_protocol::ESP]) => esp(ctx, L3 + 48, &ip.destination),
                    _ => Ok(TC_CONTINUE),
                },
                extension!() => match ctx.bytes::<1>(L3 + 40) {
                    // Behind a second extension header stands whatever its sender likes.
                    Some(&[ip_protocol::UDP | ip_protocol::FRAGMENT | extension!()]) => {
                        hidden(DropReason::OuterIpOptions, &ip.source, &ip.destination)
                    }
                    Some(&[ip_protocol::ESP]) => {
                        esp_behind_extension(ctx, &ip.source, &ip.destination)
                    }
                    _ => Ok(TC_CONTINUE),
                },
                _ => Ok(TC_CONTINUE),
            }
        }
        _ => Ok(TC_CONTINUE),
    }
}

/// As the Ethernet header says, or without one the IP version; 0 if there is neither.
#[inline(always)]
fn ethertype<const L3: usize>(ctx: &TcContext) -> u16 {
    if L3 == NONE {
        // Two bytes: the compiler turns the check for one at the very start into a comparison from
        // which the verifier learns nothing.
        return match ctx.bytes::<2>(0) {
            Some(&[first, _]) if first >> 4 == 4 => ether_type::IPV4,
            Some(&[first, _]) if first >> 4 == 6 => ether_type::IPV6,
            _ => 0,
        };
    }
    match ctx.bytes::<2>(ETHERNET - 2) {
        Some(bytes) => u16::from_be_bytes(*bytes),
        None => 0,
    }
}

/// Whether the packet, or the one of which it is a fragment, is ESP. Where that cannot be seen it is
/// not.
#[inline(always)]
fn is_esp<const L3: usize>(ctx: &TcContext) -> bool {
    match ethertype::<L3>(ctx) {
        ether_type::IPV4 => match ctx.bytes::<20>(L3).map(Ipv4::parse) {
            Some(Ok(ip)) => ip.protocol == ip_protocol::ESP,
            _ => false,
        },
        ether_type::IPV6 => match ctx.bytes::<40>(L3).map(Ipv6::parse) {
            Some(Ok(ip)) => match ip.next_header {
                ip_protocol::ESP => true,
                ip_protocol::FRAGMENT => {
                    matches!(ctx.bytes::<1>(L3 + 40), Some(&[ip_protocol::ESP]))
                }
                _ => false,
            },
            _ => false,
        },
        _ => false,
    }
}

#[inline(always)]
fn datagram(
    ctx: &TcContext,
    l4: usize,
    config: &Config,
    source: &[u8; 16],
    destination: &[u8; 16],
) -> Result<i32, Drop> {
    let Some(udp) = ctx.bytes::<8>(l4) else {
        return Ok(TC_CONTINUE);
    };
    let port = Udp::parse(udp).destination_port;
    if port != config.port {
        if outer::is_esp_in_udp(config, port) {
            return esp_in_udp(ctx, l4 + 8, destination);
        }
        return Ok(TC_CONTINUE);
    }
    if !has_role(source, VtepRole::Local) && !has_role(destination, VtepRole::Remote) {
        return Ok(TC_CONTINUE);
    }
    let drop = |reason| Drop::new(reason, Direction::ToUnderlay);
    let Some(header) = ctx.bytes::<8>(l4 + 8) else {
        return Err(drop(DropReason::TooShort));
    };
    let vni = match vxlan::parse(header) {
        Ok(vni) => vni,
        Err(error) => return Err(drop(error.into())),
    };
    let drop = |reason| Drop {
        vni,
        ..drop(reason)
    };
    match maps::network(&NetworkKey { vni }) {
        Some(network) if network.flags & NetworkFlags::ENCRYPTED == 0 => {
            if ctx.tc_index() == origin::PLAIN {
                Ok(TC_CONTINUE)
            } else {
                Err(drop(DropReason::LocalInjection))
            }
        }
        _ => Err(drop(DropReason::CleartextEncryptedVni)),
    }
}

/// Whether the packet, as a whole, is ESP in UDP of this node. VXLAN is not, whatever `config` says
/// of the port: its first word stands where the SPI would.
#[inline(always)]
fn is_esp_in_udp<const L3: usize>(ctx: &TcContext) -> bool {
    let Some(config) = maps::config() else {
        return false;
    };
    let l4 = match ethertype::<L3>(ctx) {
        ether_type::IPV4 => match ctx.bytes::<20>(L3).map(Ipv4::parse) {
            Some(Ok(ip))
                if ip.protocol == ip_protocol::UDP && !ip.has_options() && !ip.is_fragment() =>
            {
                L3 + 20
            }
            _ => return false,
        },
        ether_type::IPV6 => match ctx.bytes::<40>(L3).map(Ipv6::parse) {
            Some(Ok(ip)) if ip.next_header == ip_protocol::UDP => L3 + 40,
            _ => return false,
        },
        _ => return false,
    };
    match (outer::udp(ctx, l4), ctx.bytes::<4>(l4 + 8)) {
        (Some(udp), Some(spi)) => {
            let spi = u32::from_be_bytes(*spi);
            outer::is_esp_in_udp(config, udp.destination_port)
                && spi != vxlan::FLAGS
                && spi >> 12 == config.node
        }
        _ => false,
    }
}

/// ESP in UDP of an outbound SA of ours that XFRM did not make. Sending to the port takes no
/// capability, other than ESP itself by a raw socket. What has no such SPI is an IKE daemon's.
#[inline(always)]
fn esp_in_udp(ctx: &TcContext, l5: usize, destination: &[u8; 16]) -> Result<i32, Drop> {
    if ctx.tc_index() == origin::ESP_IN_UDP {
        return Ok(TC_CONTINUE);
    }
    of_outbound_sa(ctx, l5, destination)
}

/// ESP without the origin that the first device's barrier takes from it. Other software may put its TC
/// program between two devices of one path, so that the socket is asked and not the origin.
#[inline(always)]
fn esp(ctx: &TcContext, l4: usize, destination: &[u8; 16]) -> Result<i32, Drop> {
    if !ctx.is_from_socket() {
        return Ok(TC_CONTINUE);
    }
    of_outbound_sa(ctx, l4, destination)
}

/// Ours has neither IP options nor extension headers: a socket may ask for both.
#[inline(always)]
fn esp_behind_extension(
    ctx: &TcContext,
    source: &[u8; 16],
    destination: &[u8; 16],
) -> Result<i32, Drop> {
    if !ctx.is_from_socket() {
        return Ok(TC_CONTINUE);
    }
    hidden(DropReason::OuterIpOptions, source, destination)
}

/// Drops what has the SPI of an outbound SA of ours at `spi`.
#[inline(always)]
fn of_outbound_sa(ctx: &TcContext, spi: usize, destination: &[u8; 16]) -> Result<i32, Drop> {
    let Some(spi) = ctx.bytes::<4>(spi) else {
        return Ok(TC_CONTINUE);
    };
    let Some(vtep) = maps::vtep(&VtepKey {
        address: *destination,
    }) else {
        return Ok(TC_CONTINUE);
    };
    let key = SecurityAssociationKey {
        spi: u32::from_be_bytes(*spi),
        receiver: vtep.peer,
    };
    if maps::security_association(&key).is_none() {
        return Ok(TC_CONTINUE);
    }
    Err(Drop {
        peer: vtep.peer,
        ..Drop::new(DropReason::LocalInjection, Direction::ToUnderlay)
    })
}

/// Encapsulated packets carry DF and no options: between VTEPs, what hides its port hides what it
/// is.
#[inline(always)]
fn hidden(reason: DropReason, source: &[u8; 16], destination: &[u8; 16]) -> Result<i32, Drop> {
    if has_role(source, VtepRole::Local) && has_role(destination, VtepRole::Remote) {
        return Err(Drop::new(reason, Direction::ToUnderlay));
    }
    Ok(TC_CONTINUE)
}

#[inline(always)]
fn has_role(address: &[u8; 16], role: VtepRole) -> bool {
    match maps::vtep(&VtepKey { address: *address }) {
        Some(vtep) => vtep.role == role,
        None => false,
    }
}
