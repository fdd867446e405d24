//! SAs, maps and counters, as an operator sees them. Keys are never shown.

use std::{process::Command, time::Duration};

use anyhow::Result;

use super::report::Report;
use crate::{cluster::Cluster, lab::command};

const LIMIT: Duration = Duration::from_secs(30);
/// Lines of a map that make the point.
const LINES: usize = 24;

pub fn show(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let node = cluster.lab.node(1)?;
    for arguments in [&["status"][..], &["peers"], &["keys", "status"]] {
        report.title(&format!("overlay {} (node 1)", arguments.join(" ")));
        report.say(&cluster.overlay_or_reported(1, arguments)?);
    }

    report.title(
        "ip xfrm policy (node 1): one per peer, slot and lane; the block policies come last",
    );
    let policies = node.netns.run("ip", "xfrm policy")?;
    report.say(&policies);
    report.check(
        "a block policy guards the VTEP",
        policies.contains("action block"),
        "",
    );

    for map in ["peers", "drops"] {
        let path = node.map(map);
        report.title(&format!("bpftool map dump pinned {}", path.display()));
        let mut dump = Command::new("bpftool");
        dump.args(["map", "dump", "pinned"]).arg(path);
        let text = command::capture(&mut dump, LIMIT)?;
        let lines: Vec<&str> = text.lines().collect();
        report.say(&lines[..lines.len().min(LINES)].join("\n"));
        if lines.len() > LINES {
            report.say("…");
        }
        let named = text.contains("\"peer\"") || text.contains("\"reason\"");
        report.check("fields have names", named, "");
    }
    Ok(())
}
