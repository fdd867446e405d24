//! Entries of pinned maps, changed behind the agent's back with bpftool.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::{
    Node,
    command::{self, QUICK},
};

/// Offset of `lanes` in a value of `peers`: epoch (4 bytes), slot, lanes.
const LANES: usize = 5;

/// Offset of `peer` in a value of `sas`: direction (4 bytes).
const SA_PEER: usize = 4;

struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Deletes every entry of a hash map; an error if there was none.
pub fn empty(node: &Node, map: &str) -> Result<()> {
    let entries = entries(node, map)?;
    ensure!(!entries.is_empty(), "`{map}` was empty already");
    let path = node.map(map);
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| {
            format!(
                "map delete pinned {} key hex {}",
                path.display(),
                hex(&entry.key)
            )
        })
        .collect();
    batch(&lines)
}

/// Overwrites the configuration with zeros.
pub fn zero_config(node: &Node) -> Result<()> {
    change(node, "config", |value| value.fill(0))
}

/// Makes `endpoint_tx` believe that no peer has, or that every peer has, one live outbound SA.
pub fn set_lanes(node: &Node, lanes: u8) -> Result<()> {
    change(node, "peers", |value| value[LANES] = lanes)
}

/// Makes `decrypted_rx` believe that every SA is of another node.
pub fn set_sa_peer(node: &Node, peer: u32) -> Result<()> {
    change(node, "sas", |value| {
        value[SA_PEER..SA_PEER + 4].copy_from_slice(&peer.to_ne_bytes());
    })
}

fn change(node: &Node, map: &str, change: impl Fn(&mut [u8])) -> Result<()> {
    let path = node.map(map);
    let lines: Vec<String> = entries(node, map)?
        .into_iter()
        .map(|Entry { key, mut value }| {
            change(&mut value);
            format!(
                "map update pinned {} key hex {} value hex {}",
                path.display(),
                hex(&key),
                hex(&value)
            )
        })
        .collect();
    ensure!(!lines.is_empty(), "`{map}` has no entry to change");
    batch(&lines)
}

fn entries(node: &Node, map: &str) -> Result<Vec<Entry>> {
    let mut dump = Command::new("bpftool");
    dump.args(["-j", "map", "dump", "pinned"])
        .arg(node.map(map));
    let text = command::capture(&mut dump, QUICK)?;
    let dumped: Value =
        serde_json::from_str(&text).with_context(|| format!("read the dump of {map}: {text}"))?;
    dumped
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            let bytes = |field| bytes(&entry[field]).with_context(|| format!("{map}: {entry}"));
            Ok(Entry {
                key: bytes("key")?,
                value: bytes("value")?,
            })
        })
        .collect()
}

/// bpftool writes bytes as `"0x2a"`.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    value
        .as_array()?
        .iter()
        .map(|byte| u8::from_str_radix(byte.as_str()?.strip_prefix("0x")?, 16).ok())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    words.join(" ")
}

/// One process for all: an emulated machine starts few in a second.
fn batch(lines: &[String]) -> Result<()> {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["batch", "file", "-"]);
    command::feed(&mut bpftool, &format!("{}\n", lines.join("\n"))).map(drop)
}
