//! What the choice of lane, source port and path needs to know of an inner frame.

use aya_ebpf::programs::TcContext;
use overlay_ebpf::{
    abi::{Config, DropReason, Network, NetworkFlags, Peer, ids::is_mapped},
    packet::{
        ethernet::ether_type,
        flow, ip_protocol,
        ipv4::Ipv4,
        ipv6::Ipv6,
        mtu::{self, Carrier, Family},
    },
};

use crate::programs::frame::{Frame as _, SkBuffFields as _};

/// An inner frame as the outer headers see it.
pub struct Flow {
    pub vni: u32,
    /// Whether the network is.
    pub encrypted: bool,
    /// Bytes of the frame with its Ethernet header.
    pub frame_len: u32,
    pub hash: u32,
    /// Inner traffic class; 0 for other Ethertypes.
    pub dscp_ecn: u8,
    /// Whether `bpf_skb_adjust_room` knows the protocol.
    pub ip: bool,
    /// Length of the network-layer packet, of one segment if the frame is GSO.
    pub packet_len: u32,
}

impl Flow {
    /// What carries the frame to a peer.
    #[inline(always)]
    pub fn carrier(&self, config: &Config) -> Carrier {
        Carrier::of(self.encrypted, config.esp_in_udp_port)
    }

    /// Length of the outer IP packet that carries the packet, or a segment of it, to `peer`.
    #[inline(always)]
    pub fn outer_len(&self, config: &Config, peer: &Peer) -> u16 {
        let len = mtu::outer_len(self.packet_len, family(peer), self.carrier(config));
        if len > u32::from(u16::MAX) {
            u16::MAX
        } else {
            len as u16
        }
    }
}

/// Outer family of a peer.
#[inline(always)]
pub fn family(peer: &Peer) -> Family {
    if is_mapped(&peer.vtep) {
        Family::V4
    } else {
        Family::V6
    }
}

/// Reads the frame.
#[inline(always)]
pub fn inner_flow(
    ctx: &TcContext,
    kind: u16,
    vni: u32,
    network: &Network,
) -> Result<Flow, DropReason> {
    let l3 = 14;
    let encrypted = network.flags & NetworkFlags::ENCRYPTED != 0;
    let whole = ctx.len() - l3 as u32;
    match kind {
        ether_type::IPV4 => {
            let header = ctx.bytes::<20>(l3).ok_or(DropReason::TooShort)?;
            let ip = Ipv4::parse(header).map_err(|_| DropReason::TooShort)?;
            if u32::from(ip.total_len) > whole {
                return Err(DropReason::TooShort);
            }
            // Fragments of one datagram must stay on one lane: only the first has ports.
            let ports = if ip.is_fragment() || ip.has_options() {
                0
            } else {
                ports(ctx, l3 + 20, ip.protocol)
            };
            Ok(Flow {
                vni,
                encrypted,
                frame_len: whole + 14,
                hash: flow::hash_v4(ip.source, ip.destination, ip.protocol, ports),
                dscp_ecn: ip.dscp << 2 | ip.ecn,
                ip: true,
                packet_len: segment_len(ctx, l3, 20, ip.protocol, whole),
            })
        }
        ether_type::IPV6 => {
            let header = ctx.bytes::<40>(l3).ok_or(DropReason::TooShort)?;
            let ip = Ipv6::parse(header).map_err(|_| DropReason::TooShort)?;
            if u32::from(ip.payload_len) + 40 > whole {
                return Err(DropReason::TooShort);
            }
            let ports = ports(ctx, l3 + 40, ip.next_header);
            Ok(Flow {
                vni,
                encrypted,
                frame_len: whole + 14,
                hash: flow::hash_v6(ip.source, ip.destination, ip.next_header, ports),
                dscp_ecn: ip.traffic_class,
                ip: true,
                packet_len: segment_len(ctx, l3, 40, ip.next_header, whole),
            })
        }
        _ => Ok(Flow {
            vni,
            encrypted,
            frame_len: whole + 14,
            hash: flow::hash_ethernet(ctx.bytes::<14>(0).ok_or(DropReason::TooShort)?),
            dscp_ecn: 0,
            ip: false,
            packet_len: whole,
        }),
    }
}

/// Source and destination port, as they stand on the wire.
#[inline(always)]
fn ports(ctx: &TcContext, l4: usize, protocol: u8) -> u32 {
    match protocol {
        ip_protocol::TCP | ip_protocol::UDP => match ctx.bytes::<4>(l4) {
            Some(bytes) => u32::from_be_bytes(*bytes),
            None => 0,
        },
        _ => 0,
    }
}

/// Length of the packet, or of each segment that GSO will make of it: `gso_size` counts what
/// stands behind the transport header.
#[inline(always)]
fn segment_len(ctx: &TcContext, l3: usize, ip_header: u32, protocol: u8, whole: u32) -> u32 {
    let segment = ctx.gso_size();
    if segment == 0 {
        return whole;
    }
    let transport = match protocol {
        ip_protocol::TCP => match ctx.bytes::<1>(l3 + ip_header as usize + 12) {
            Some(&[offset]) => u32::from(offset >> 4) * 4,
            None => 20,
        },
        _ => 8,
    };
    ip_header + transport + segment
}
