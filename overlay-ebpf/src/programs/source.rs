//! Anti-spoofing, for both directions: the addresses a frame claims belong to the MAC it comes from.

use overlay_ebpf::{
    abi::{AddressKey, DropReason, MacAddr, ids::is_mapped},
    packet::{
        arp::Arp,
        ethernet::ether_type,
        ip_protocol,
        ipv4::Ipv4,
        ipv6::Ipv6,
        ndp::{self, NeighbourAdvertisement},
    },
};

use super::{frame::Frame, maps, words::mapped};

/// Checks the network-layer source of the frame whose payload begins at `L3`.
///
/// `mac` has been checked to be the endpoint's. Ethertypes other than IP and ARP carry no address
/// that could be checked: they pass by MAC.
///
/// Not inlined: its stack frame is given back to what follows.
#[inline(never)]
pub fn check<F: Frame, const L3: usize>(
    frame: &F,
    kind: u16,
    vni: u32,
    mac: &[u8; 6],
) -> Result<(), DropReason> {
    let (l3, mac) = (L3, *mac);
    match kind {
        ether_type::IPV4 => {
            let header = frame.bytes::<20>(l3).ok_or(DropReason::TooShort)?;
            let ip = Ipv4::parse(header).map_err(|_| DropReason::TooShort)?;
            owned(vni, mapped(ip.source), mac)
        }
        ether_type::IPV6 => check_ipv6(frame, l3, vni, mac),
        ether_type::ARP => {
            let body = frame.bytes::<28>(l3).ok_or(DropReason::TooShort)?;
            let arp = Arp::parse(body).map_err(|_| DropReason::SpoofedAddress)?;
            if arp.sender_mac != mac {
                return Err(DropReason::SpoofedAddress);
            }
            // A probe asks whether an address is free and claims none (RFC 5227 section 2.1.1).
            if arp.is_probe() {
                Ok(())
            } else {
                owned(vni, mapped(arp.sender_ip), mac)
            }
        }
        _ => Ok(()),
    }
}

#[inline(always)]
fn check_ipv6<F: Frame>(frame: &F, l3: usize, vni: u32, mac: [u8; 6]) -> Result<(), DropReason> {
    let header = frame.bytes::<40>(l3).ok_or(DropReason::TooShort)?;
    let ip = Ipv6::parse(header).map_err(|_| DropReason::TooShort)?;
    if ip.source == [0; 16] {
        // Duplicate address detection and multicast reports come from `::`, to groups only.
        return if ip.destination[0] == 0xff {
            Ok(())
        } else {
            Err(DropReason::SpoofedAddress)
        };
    }
    if is_mapped(&ip.source) {
        // In the maps, an IPv4 address looks the same; as an IPv6 one nobody has it.
        return Err(DropReason::SpoofedAddress);
    }
    if !is_own_link_local(&ip.source, mac) {
        owned(vni, ip.source, mac)?;
    }
    if ndp::valid_hop_limit(ip.hop_limit)
        && matches!(
            ip.next_header,
            ip_protocol::HOP_BY_HOP | ip_protocol::ROUTING | ip_protocol::DESTINATION_OPTIONS
        )
    {
        // An advertisement could hide behind the extension header (RFC 7113 section 3). ND alone
        // needs this hop limit (RFC 4861 section 7.1), and sends no such headers. Fragments of ND
        // are ignored by receivers (RFC 6980).
        return Err(DropReason::SpoofedAddress);
    }
    if ip.next_header == ip_protocol::ICMPV6
        && let Some(icmp) = frame.bytes::<24>(l3 + 40)
        && let Ok(advertisement) = NeighbourAdvertisement::parse(icmp)
        && !is_own_link_local(&advertisement.target, mac)
    {
        // An advertisement speaks for its target: a neighbour's address must not be claimed.
        return owned(vni, advertisement.target, mac);
    }
    Ok(())
}

/// The link-local address that the kernel forms from the MAC (RFC 4291 appendix A).
#[inline(always)]
pub fn is_own_link_local(address: &[u8; 16], mac: [u8; 6]) -> bool {
    let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h] = *address;
    ndp::is_link_local(*address) && [a, b, c, d, e, f, g, h] == MacAddr(mac).eui64()
}

#[inline(always)]
fn owned(vni: u32, address: [u8; 16], mac: [u8; 6]) -> Result<(), DropReason> {
    match maps::address(&AddressKey { vni, address }) {
        Some(entry) if entry.mac == mac => Ok(()),
        _ => Err(DropReason::SpoofedAddress),
    }
}
