//! The counters of the three barriers.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use overlay_agent::kernel::bpf::Pinned;
use overlay_ebpf::abi::{Direction, DropReason};

use crate::lab::Node;

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
    pub fn read(node: &Node) -> Result<Self> {
        let drops = Pinned::open(node.pins())?
            .context("no data plane is pinned")?
            .drops()?;
        let count = |reason, direction| {
            drops
                .get(&(reason, direction))
                .map_or(0, |count| count.packets)
        };
        Ok(Self {
            no_outbound_sa: count(DropReason::NoOutboundSa, Direction::FromEndpoint),
            block_policy: blocked(node)?,
            audit: count(DropReason::CleartextEncryptedVni, Direction::ToUnderlay),
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

/// `XfrmOutPolBlock` (net/xfrm/xfrm_proc.c).
fn blocked(node: &Node) -> Result<u64> {
    // `/proc/net` is that of the process, which is in another namespace than this thread.
    let text = node
        .netns
        .enter(|| fs::read_to_string("/proc/thread-self/net/xfrm_stat"))?
        .context("read xfrm_stat")?;
    text.lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "XfrmOutPolBlock").then(|| words.next()?.parse().ok())?
        })
        .with_context(|| format!("no XfrmOutPolBlock in {text}"))
}
