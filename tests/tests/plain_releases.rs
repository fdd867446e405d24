//! This release and the one before it in one cluster: as long as an update takes, and whoever leads.
//!
//! `cargo xtask test` builds the release before this one from the repository and names it in
//! `OVERLAY_PREVIOUS_BIN`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    cluster::{Cluster, SETTLE, nodes, previous_release},
    lab::{eventually, overlay_binary},
};

const THIS: &str = env!("CARGO_PKG_VERSION");

fn previous() -> Result<PathBuf> {
    previous_release().context(
        "OVERLAY_PREVIOUS_BIN does not name the `overlay` of the release before this one: run `cargo \
         xtask test plain_releases`, which builds it",
    )
}

/// Waits until every node is at rest in the epoch and has nothing to report, and those of this release are
/// known to be: 0.1.0 says once what it is, when it joins.
fn at_rest(cluster: &Cluster, epoch: u64, releases: &[(u32, &str)]) -> Result<()> {
    eventually(SETTLE, || {
        for &(node, release) in releases {
            cluster.stable(node, epoch..=epoch)?;
            cluster.good(node)?;
            if release != THIS {
                continue;
            }
            for &(asked, _) in releases {
                let known = cluster.release_of(node, asked)?;
                ensure!(
                    known == release,
                    "node {asked} believes that node {node} runs {known}, not {release}"
                );
            }
        }
        Ok(())
    })
    .with_context(|| cluster.explain())
}

fn rotate(cluster: &Cluster, node: u32) -> Result<()> {
    cluster.overlay(node, &["keys", "rotate", "--wait"])?;
    Ok(())
}

#[test]
fn a_cluster_is_updated_node_by_node_and_back_under_traffic() -> Result<()> {
    let old = previous()?;
    let mut cluster = Cluster::of_release(nodes(&["a", "b", "c"]), 3, &old)?;
    let before = cluster.release_of(1, 1)?;
    ensure!(
        before != THIS,
        "both releases are {THIS}: raise the version"
    );
    cluster.overlay(1, &["keys", "policy", "--grace", "1s"])?;
    cluster.connect("green", &[], &["a", "b", "c"])?;
    let mut epoch = cluster.epoch(1)?;
    let streams = [("a", "b"), ("c", "a"), ("b", "c")]
        .map(|(from, to)| cluster.stream(from, to, "green"))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;

    let mut releases = [
        (1, before.as_str()),
        (2, before.as_str()),
        (3, before.as_str()),
    ];
    // All to this release, two back, and forward again: every mixture, the leader in both.
    let this = overlay_binary()?;
    let steps = [
        (3, true),
        (1, true),
        (2, true),
        (1, false),
        (2, false),
        (1, true),
        (2, true),
    ];
    for (step, (node, forward)) in steps.into_iter().enumerate() {
        let (overlay, release) = match forward {
            true => (&this, THIS),
            false => (&old, before.as_str()),
        };
        println!("node {node} to {release}");
        cluster.agent_mut(node)?.update(overlay.clone())?;
        releases[node as usize - 1].1 = release;
        at_rest(&cluster, epoch, &releases)?;
        // What managers decide and what nodes tell each other, from either side.
        let asked = 1 + step as u32 % 3;
        rotate(&cluster, asked)?;
        epoch += 1;
        at_rest(&cluster, epoch, &releases)?;
        let network = format!("net-{step}");
        cluster.connect(&network, &[], &["a", "b", "c"])?;
    }
    for (_echo, stream) in streams {
        let result = stream.stop()?;
        result.lossless().with_context(|| cluster.explain())?;
        ensure!(result.duplicates == 0, "{result:?}");
    }
    Ok(())
}

#[test]
fn a_node_joins_managers_of_the_other_release() -> Result<()> {
    let (old, new) = (previous()?, overlay_binary()?);
    for (managers, joins) in [(&old, &new), (&new, &old)] {
        let mut cluster = Cluster::new(nodes(&["a", "b"]))?;
        cluster.agent_mut(1)?.set_release(managers.clone());
        cluster.agent_mut(2)?.set_release(joins.clone());
        for node in [1, 2] {
            cluster.agent_mut(node)?.start()?;
        }
        cluster.init(1, &[])?;
        cluster.join(2, 1, "worker")?;
        cluster.connect("green", &[], &["a", "b"])?;
        cluster.overlay(1, &["node", "promote", "node-2"])?;
        cluster.voters(1, 2)?;
        cluster.overlay(2, &["node", "update", "--availability", "drain", "node-1"])?;
        cluster.overlay(1, &["node", "demote", "node-2"])?;
        cluster.voters(1, 1)?;
        cluster.overlay(2, &["endpoint", "detach", "green", "b"])?;
        eventually(SETTLE, || {
            cluster.overlay(2, &["leave", "--yes"])?;
            Ok(())
        })?;
    }
    Ok(())
}
