//! What the agents say of keys and nodes while something goes on, in the order of time.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::report::Report;
use crate::cluster::Cluster;

/// The last event of each node at the beginning.
pub struct Timeline {
    seen: Vec<(u32, u64)>,
}

impl Timeline {
    pub fn begin(cluster: &Cluster) -> Result<Self> {
        let mut seen = Vec::new();
        for agent in cluster.agents.iter().filter(|agent| agent.is_running()) {
            let last = events(cluster, agent.node, 0)?
                .last()
                .and_then(|event| event["sequence"].as_u64());
            seen.push((agent.node, last.unwrap_or(0)));
        }
        Ok(Self { seen })
    }

    /// Prints the steps since then, with seconds from the first: events have no finer time.
    pub fn show(&self, cluster: &Cluster, report: &mut Report) -> Result<()> {
        let mut steps = Vec::new();
        for (node, seen) in &self.seen {
            for event in events(cluster, *node, *seen)? {
                if !matches!(event["kind"].as_str(), Some("keys" | "node")) {
                    continue;
                }
                let at = event["time"].as_str().context("an event has a time")?;
                let at = humantime::parse_rfc3339(at).context("read the time of an event")?;
                let word = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                steps.push((at, *node, word("kind"), word("action"), word("name")));
            }
        }
        steps.sort();
        let Some((first, ..)) = steps.first() else {
            return Ok(());
        };
        let first = *first;
        for (at, node, kind, action, name) in &steps {
            let after = at.duration_since(first).unwrap_or_default();
            report.say(&format!(
                "{:>4} s  node-{node}  {kind} {action} {name}",
                after.as_secs()
            ));
        }
        Ok(())
    }
}

fn events(cluster: &Cluster, node: u32, after: u64) -> Result<Vec<Value>> {
    let after = after.to_string();
    let text = cluster.overlay(node, &["events", "--after", &after, "--format", "json"])?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("read event {line}")))
        .collect()
}
