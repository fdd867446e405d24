//! Counters that a refusal leaves behind.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, Result, ensure};
use overlay_agent::kernel::bpf::Pinned;
use overlay_ebpf::abi::{Direction, DropReason};
use serde_json::Value;

use crate::lab::{Netns, Node};

/// Drops of a node, in packets, by reason and direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DropCounts(BTreeMap<(DropReason, Direction), u64>);

impl DropCounts {
    /// Reads those of a node: from its map, as `show` looks at much more and takes its time.
    pub fn of(node: &Node) -> Result<Self> {
        let drops = Pinned::open(node.pins())?
            .context("no data plane is pinned")?
            .drops()?;
        let packets = drops.into_iter().map(|(key, count)| (key, count.packets));
        Ok(Self(packets.filter(|(_, count)| *count > 0).collect()))
    }

    /// Packets.
    pub fn get(&self, reason: DropReason, direction: Direction) -> u64 {
        self.0.get(&(reason, direction)).copied().unwrap_or(0)
    }

    /// What was added since an earlier reading.
    pub fn since(&self, before: &Self) -> Self {
        Self(
            self.0
                .iter()
                .map(|(key, count)| {
                    let earlier = before.0.get(key).copied().unwrap_or(0);
                    (*key, count.saturating_sub(earlier))
                })
                .filter(|(_, count)| *count > 0)
                .collect(),
        )
    }

    /// An error unless a reason rose by at least this many packets.
    pub fn at_least(&self, count: u64, reason: DropReason, direction: Direction) -> Result<()> {
        ensure!(
            self.get(reason, direction) >= count,
            "{reason:?} of {direction:?} did not rise by {count}: {self}"
        );
        Ok(())
    }
}

impl fmt::Display for DropCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing was dropped");
        }
        for ((reason, direction), count) in &self.0 {
            write!(f, "[{reason:?} {direction:?}: {count}] ")?;
        }
        Ok(())
    }
}

/// Packets that the firewall dropped as made by a local process.
pub fn local_injections(netns: &Netns) -> Result<u64> {
    let text = netns.run("nft", "-j list counter inet overlay local_injection")?;
    let listing: Value = serde_json::from_str(&text).context("read what nft says")?;
    listing["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|object| object["counter"]["packets"].as_u64())
        .with_context(|| format!("no counter in `{text}`"))
}
