//! What the three barriers have dropped.

use anyhow::{Result, ensure};
use overlay_ebpf::abi::{Direction, DropReason};

use super::DropCounts;
use crate::lab::{Counters, Node};

/// What each barrier of a node has dropped, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barriers {
    /// 1: `endpoint_tx`, no live outbound SA.
    pub no_outbound_sa: u64,
    /// 2: XFRM block policy, `XfrmOutPolBlock`.
    pub block_policy: u64,
    /// 3: `underlay_audit`, cleartext VXLAN of an encrypted VNI.
    pub audit: u64,
}

impl Barriers {
    pub fn of(node: &Node) -> Result<Self> {
        let drops = DropCounts::of(node)?;
        Ok(Self {
            no_outbound_sa: drops.get(DropReason::NoOutboundSa, Direction::FromEndpoint),
            block_policy: Counters::of(&node.netns)?.get("XfrmOutPolBlock")?,
            audit: drops.get(DropReason::CleartextEncryptedVni, Direction::ToUnderlay),
        })
    }

    /// What was dropped since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            no_outbound_sa: self.no_outbound_sa - earlier.no_outbound_sa,
            block_policy: self.block_policy - earlier.block_policy,
            audit: self.audit - earlier.audit,
        }
    }

    /// An error unless the barrier with this number dropped packets, and no other did.
    pub fn only(self, number: usize) -> Result<()> {
        let counts = [self.no_outbound_sa, self.block_policy, self.audit];
        for (barrier, count) in (1..).zip(counts) {
            ensure!(
                (count > 0) == (barrier == number),
                "barrier {number} alone was to drop packets: {self:?}"
            );
        }
        Ok(())
    }
}
