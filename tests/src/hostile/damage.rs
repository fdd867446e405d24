//! Taking away what keeps a node's frames from leaving in clear.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Node, WIRE, command};

/// Deletes every XFRM policy.
pub fn flush_policies(node: &Node) -> Result<()> {
    node.netns.ip("xfrm policy flush").map(drop)
}

/// Deletes every SA.
pub fn flush_states(node: &Node) -> Result<()> {
    node.netns.ip("xfrm state flush").map(drop)
}

/// Deletes the policies that lead into SAs, and leaves the block policies.
pub fn delete_allow_policies(node: &Node) -> Result<()> {
    delete_policies(node, "allow")?;
    ensure!(
        !policies(node)?.contains("tmpl"),
        "a policy with a template is left"
    );
    Ok(())
}

/// Deletes the block policies (barrier 2), and leaves the others.
pub fn delete_block_policies(node: &Node) -> Result<()> {
    ensure!(
        policies(node)?.contains("action block"),
        "there is no block policy"
    );
    delete_policies(node, "block")?;
    ensure!(
        !policies(node)?.contains("action block"),
        "a block policy is left"
    );
    Ok(())
}

fn delete_policies(node: &Node, action: &str) -> Result<()> {
    node.netns
        .ip(&format!("xfrm policy deleteall dir out action {action}"))
        .map(drop)
}

fn policies(node: &Node) -> Result<String> {
    node.netns.ip("xfrm policy list")
}

/// Takes `underlay_audit` (barrier 3) off the wire.
pub fn detach_audit(node: &Node) -> Result<()> {
    // Before TCX (6.6) it is a filter of clsact.
    if !unpin_audit(node)? {
        node.netns
            .run("tc", &format!("filter del dev {WIRE} egress"))?;
    }
    Ok(())
}

/// As [`detach_audit`]; before TCX with the qdisc that holds it, and all else that is there.
pub fn detach_audit_with_qdisc(node: &Node) -> Result<()> {
    if !unpin_audit(node)? {
        node.netns
            .run("tc", &format!("qdisc del dev {WIRE} clsact"))?;
    }
    Ok(())
}

/// Removes the audit's links; false if there are none.
fn unpin_audit(node: &Node) -> Result<bool> {
    let mut found = false;
    let links = node.pins().join(version()).join("links");
    for entry in fs::read_dir(links).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("underlay_audit") {
            fs::remove_file(&path).with_context(|| format!("unpin {}", path.display()))?;
            found = true;
        }
    }
    Ok(found)
}

/// Flushes every rule, table and chain of the firewall.
pub fn flush_firewall(node: &Node) -> Result<()> {
    node.netns.run("nft", "flush ruleset").map(drop)
}

/// Another's firewall rule that takes our mark off packets on their way to XFRM.
pub fn clear_marks(node: &Node) -> Result<()> {
    let mut nft = node.netns.command("nft");
    nft.args(["-f", "-"]);
    command::feed(
        &mut nft,
        "table inet meddler {
           chain pre {
             type filter hook prerouting priority mangle;
             iifname ovl-in meta mark set 0
           }
         }\n",
    )
    .map(drop)
}

/// Takes [`clear_marks`] back.
pub fn keep_marks(node: &Node) -> Result<()> {
    node.netns.run("nft", "delete table inet meddler").map(drop)
}

/// Deletes a device.
pub fn delete_device(node: &Node, device: &str) -> Result<()> {
    node.netns.ip(&format!("link del {device}")).map(drop)
}

fn version() -> String {
    format!("v{}", overlay_ebpf::abi::ABI_VERSION)
}
