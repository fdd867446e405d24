//! Giving a packet back its Ethernet header.
//!
//! Generic XDP of kernels from 6.9 copies packets and forgets `mac_len` on the way
//! (`skb_pp_cow_data`, net/core/skbuff.c, by way of `netif_receive_generic_xdp`, net/core/dev.c).
//! TC programs then see them from the IP header on, and BEET rebuilds no header before what it
//! decrypts.

use aya_ebpf::{helpers::bpf_skb_change_head, programs::TcContext};
use overlay_ebpf::{
    abi::Config,
    packet::{ethernet::ether_type, ip_protocol, ipv4::Ipv4, ipv6::Ipv6},
};

use super::{
    frame::{Frame as _, SkBuffFields as _, store},
    outer,
};

/// Puts an Ethernet header in front of a packet for the overlay that lacks one. The addresses in it
/// are zero: nothing reads them on the way to an endpoint. Whatever else the host gets stays as it
/// is, because a bridge may still want its addresses.
#[inline(always)]
pub fn restore(ctx: &TcContext, config: &Config) {
    let kind = ctx.protocol();
    if !matches!(kind, ether_type::IPV4 | ether_type::IPV6) {
        return;
    }
    let [high, low] = kind.to_be_bytes();
    match ctx.bytes::<2>(12) {
        Some(&[h, l]) if h == high && l == low => return,
        _ => {}
    }
    let for_us = match kind {
        ether_type::IPV4 => match ctx.bytes::<20>(0).map(Ipv4::parse) {
            Some(Ok(ip)) if !ip.has_options() => is_ours(ctx, config, ip.protocol, 20),
            _ => false,
        },
        _ => match ctx.bytes::<40>(0).map(Ipv6::parse) {
            Some(Ok(ip)) => is_ours(ctx, config, ip.next_header, 40),
            _ => false,
        },
    };
    if !for_us {
        return;
    }
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_change_head(ctx.skb.skb, 14, 0) } == 0 {
        // If it fails, the packet is nobody's and ends at `ovl-gro`.
        let _ = store(ctx, 12, &[high, low]);
    }
}

#[inline(always)]
fn is_ours(ctx: &TcContext, config: &Config, protocol: u8, l4: usize) -> bool {
    match protocol {
        ip_protocol::ESP => true,
        ip_protocol::UDP => match outer::udp(ctx, l4) {
            Some(udp) => {
                let port = udp.destination_port;
                port == config.port || outer::is_esp_in_udp(config, port)
            }
            None => false,
        },
        _ => false,
    }
}
