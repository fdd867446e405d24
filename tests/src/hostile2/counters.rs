//! Counters that a refusal leaves behind.

use std::{collections::BTreeMap, fmt, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::{Netns, Node, command};

/// Drops of a node, in packets, by reason and direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<(String, String), u64>);

impl Counts {
    /// Reads those of a node: from its map, as `show` looks at much more and takes its time.
    pub fn of(node: &Node) -> Result<Self> {
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["-j", "map", "dump", "pinned"]);
        bpftool.arg(node.map("drops"));
        let text = command::capture(&mut bpftool, command::QUICK)?;
        let listing: Value = serde_json::from_str(&text).context("read what bpftool says")?;
        let mut counts = Self::default();
        for entry in listing.as_array().into_iter().flatten() {
            let entry = &entry["formatted"];
            let word = |name: &str| {
                let word = entry["key"][name].as_str().map(str::to_owned);
                word.with_context(|| format!("no {name} in {entry}"))
            };
            let packets: u64 = entry["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|cpu| cpu["value"]["packets"].as_u64())
                .sum();
            if packets > 0 {
                counts
                    .0
                    .insert((word("reason")?, word("direction")?), packets);
            }
        }
        Ok(counts)
    }

    /// Packets.
    pub fn get(&self, reason: &str, direction: &str) -> u64 {
        let key = (reason.to_owned(), direction.to_owned());
        self.0.get(&key).copied().unwrap_or(0)
    }

    /// What was added since an earlier reading.
    pub fn since(&self, before: &Self) -> Self {
        Self(
            self.0
                .iter()
                .map(|(key, count)| {
                    let earlier = before.0.get(key).copied().unwrap_or(0);
                    (key.clone(), count.saturating_sub(earlier))
                })
                .filter(|(_, count)| *count > 0)
                .collect(),
        )
    }

    /// An error unless a reason rose by at least this many packets.
    pub fn at_least(&self, count: u64, reason: &str, direction: &str) -> Result<()> {
        ensure!(
            self.get(reason, direction) >= count,
            "{reason} of {direction} did not rise by {count}: {self}"
        );
        Ok(())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing was dropped");
        }
        for ((reason, direction), count) in &self.0 {
            write!(f, "[{reason} {direction}: {count}] ")?;
        }
        Ok(())
    }
}

/// A counter of `/proc/net/xfrm_stat` of a namespace (Documentation/networking/xfrm_proc.rst).
pub fn xfrm_statistic(netns: &Netns, name: &str) -> Result<u64> {
    let text = netns.run("cat", "/proc/net/xfrm_stat")?;
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find(|(found, _)| *found == name)
        .and_then(|(_, count)| count.trim().parse().ok())
        .with_context(|| format!("no {name} in `{text}`"))
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
