//! `config`: the one entry that every program reads.

use bytemuck::{Pod, Zeroable};

/// Value of the `config` array (one entry, index 0).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// [`crate::abi::ABI_VERSION`] of the agent that wrote the entry; 0 before the first apply.
    pub abi_version: u32,
    /// [`ConfigFlags`].
    pub flags: u32,
    /// `ovl-hop`: the veth whose transmit path recomputes `gso_segs`.
    pub hop_ifindex: u32,
    /// `ovl-in`: its other end, where encapsulated packets re-enter the IP stack.
    pub reentry_ifindex: u32,
    /// `ovl-xfrm`.
    pub xfrm_ifindex: u32,
    /// Index of this node, 20 bits.
    pub node: u32,
    /// One drop in this many is reported to `events`; 0 reports none, 1 all.
    pub event_sample: u32,
    pub mark: MarkLayout,
    /// UDP destination port of the underlay, host byte order.
    pub port: u16,
    /// MAC of `ovl-in`, so that re-entering packets are for this host.
    pub reentry_mac: [u8; 6],
    /// UDP destination port of ESP in UDP (RFC 3948), host byte order; 0 is plain ESP.
    pub esp_in_udp_port: u16,
    pub reserved: [u8; 2],
}

/// How a packet on its way to XFRM carries its slot and lane in `skb->mark`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct MarkLayout {
    /// Fixed bits.
    pub value: u32,
    /// All bits that are ours: fixed bits and the twelve of slot and lane.
    pub mask: u32,
    /// Position of the lowest bit of `slot << 4 | lane`.
    pub shift: u32,
}

impl MarkLayout {
    /// Clear of Docker (0xD0C4E3), kube-proxy (0x4000, 0x8000) and Cilium (0x0F00).
    pub const DEFAULT: Self = Self {
        value: 0x6000_00a7,
        mask: 0xffff_00ff,
        shift: 16,
    };

    /// Twelve bits: slot (8) and lane (4).
    pub const SLOT_LANE_MASK: u32 = 0xfff;

    /// The mark for a slot and lane.
    #[inline(always)]
    pub const fn mark(&self, slot: u8, lane: u8) -> u32 {
        self.value | ((slot as u32) << 4 | lane as u32) << (self.shift & 31)
    }

    /// Whether a mark has the fixed bits.
    #[inline(always)]
    pub const fn is_ours(&self, mark: u32) -> bool {
        mark & self.mask & !(Self::SLOT_LANE_MASK << (self.shift & 31)) == self.value
    }

    /// Whether value, mask and shift fit together.
    pub const fn is_consistent(&self) -> bool {
        if self.shift > 20 {
            return false;
        }
        let field = Self::SLOT_LANE_MASK << self.shift;
        self.value & field == 0
            && field & !self.mask == 0
            && self.value & !self.mask == 0
            && self.value != 0
    }
}

/// Bits of [`Config::flags`].
pub struct ConfigFlags;

impl ConfigFlags {
    /// Deliver frames by `bpf_redirect_peer` (a start-up probe showed it right).
    pub const REDIRECT_PEER: u32 = 1 << 0;
    /// XDP decapsulates plain frames that gain nothing from GRO.
    pub const XDP_DECAP: u32 = 1 << 1;
    /// `bpf_skb_adjust_room` knows `BPF_F_ADJ_ROOM_DECAP_L3_*` (kernel 6.3).
    pub const DECAP_L3: u32 = 1 << 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_mark_is_clear_of_the_neighbours() {
        let layout = MarkLayout::DEFAULT;
        assert!(layout.is_consistent());
        for slot in 0..=255 {
            for lane in 0..16 {
                let mark = layout.mark(slot, lane);
                assert_eq!(mark & (0x4000 | 0x8000 | 0x0f00), 0);
                assert_ne!(mark, 0x00d0_c4e3);
                assert_ne!(0x00d0_c4e3 & layout.mask, mark & layout.mask);
            }
        }
    }
}
