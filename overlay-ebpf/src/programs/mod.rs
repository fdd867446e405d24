//! The programs, one file per path, in the order a frame meets them:
//!
//! [`endpoint_tx`] → [`reentry`] → (IP stack, XFRM) → [`underlay_audit`] → wire →
//! [`underlay_rx_xdp`] → [`underlay_rx`] (plain) or [`decrypted_rx`] (after IPsec).
//!
//! Shared steps: [`source`] (anti-spoofing), [`outer`] and [`arrival`] (what both receive paths
//! check), [`deliver`] (to a local endpoint), [`report`] (counting drops).

pub mod arrival;
pub mod decrypted_rx;
pub mod deliver;
pub mod endpoint_tx;
mod ethernet_header;
pub mod frame;
pub mod maps;
pub mod outer;
pub mod reentry;
pub mod report;
pub mod sink;
pub mod source;
pub mod underlay_audit;
pub mod underlay_rx;
pub mod underlay_rx_xdp;
mod words;

/// `TC_ACT_UNSPEC`: go on with the next program, then with the stack. `TC_ACT_OK` would end the
/// chain and, under TCX, overwrite `tc_index`.
pub const TC_CONTINUE: i32 = -1;
/// `TC_ACT_SHOT`.
pub const TC_DROP: i32 = 2;

/// `skb->tc_index` of a packet that `endpoint_tx` made. User space cannot set the field, so it
/// proves the origin where a mark, which any process with `CAP_NET_RAW` can set, does not.
pub mod origin {
    /// On its way to XFRM by `ovl-in`.
    pub const ENCRYPT: u16 = 0x6f76;
    /// Plain, on its way to the NIC.
    pub const PLAIN: u16 = 0x6f70;
    /// ESP in UDP, seen by `underlay_audit`: a further device need not take it for injected.
    pub const ESP_IN_UDP: u16 = 0x6f75;
    /// Decapsulated, on its way to the endpoint whose device is in the mark (see `deliver`).
    pub const DELIVER: u16 = 0x6f64;
}
