//! The XDP and TC programs. Each program's path is one file of [`programs`]; here they get their
//! names, and a drop becomes a verdict.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("the BPF programs build for a BPF target only: run `cargo xtask build`");
    std::process::exit(1);
}

#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{
        bindings::xdp_action,
        macros::{classifier, xdp},
        programs::{TcContext, XdpContext},
    };

    use crate::programs::{
        TC_DROP,
        decrypted_rx::decrypted_rx as decrypted_rx_path,
        endpoint_tx::endpoint_tx as endpoint_tx_path,
        reentry::reentry as reentry_path,
        report,
        sink::sink as sink_path,
        underlay_audit::{self as audit, underlay_audit as underlay_audit_path},
        underlay_rx::underlay_rx as underlay_rx_path,
        underlay_rx_xdp::underlay_rx_xdp as underlay_rx_xdp_path,
    };

    #[classifier]
    pub fn endpoint_tx(ctx: TcContext) -> i32 {
        endpoint_tx_path(&ctx).unwrap_or_else(|drop| report::dropped_skb(&ctx, drop, TC_DROP))
    }

    #[classifier]
    pub fn reentry(ctx: TcContext) -> i32 {
        reentry_path(&ctx).unwrap_or_else(|drop| report::dropped_skb(&ctx, drop, TC_DROP))
    }

    #[xdp(frags)]
    pub fn underlay_rx_xdp(ctx: XdpContext) -> u32 {
        underlay_rx_xdp_path(&ctx)
            .unwrap_or_else(|drop| report::dropped_xdp(&ctx, drop, xdp_action::XDP_DROP))
    }

    #[classifier]
    pub fn underlay_rx(ctx: TcContext) -> i32 {
        underlay_rx_path(&ctx).unwrap_or_else(|drop| report::dropped_skb(&ctx, drop, TC_DROP))
    }

    #[classifier]
    pub fn decrypted_rx(ctx: TcContext) -> i32 {
        decrypted_rx_path(&ctx).unwrap_or_else(|drop| report::dropped_skb(&ctx, drop, TC_DROP))
    }

    #[classifier]
    pub fn underlay_audit(ctx: TcContext) -> i32 {
        underlay_audit_path::<{ audit::ETHERNET }>(&ctx)
            .unwrap_or_else(|drop| report::dropped_skb(&ctx, drop, TC_DROP))
    }

    #[classifier]
    pub fn underlay_audit_l3(ctx: TcContext) -> i32 {
        underlay_audit_path::<{ audit::NONE }>(&ctx)
            .unwrap_or_else(|drop| report::dropped_bare_skb(&ctx, drop, TC_DROP))
    }

    #[classifier]
    pub fn sink(ctx: TcContext) -> i32 {
        sink_path(&ctx).unwrap_or_else(|drop| report::dropped_skb(&ctx, drop, TC_DROP))
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that the programs call are GPL-only in the kernel; the source is dual-licensed.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
