//! A node of ours: a namespace in which the `overlay` command keeps the data plane.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    Desired, Endpoint, Family, Keyring, Lab, Netns, Network, Peer, RemoteEndpoint, Transmit,
    Watcher, addressing::prefix_length, command, sweep,
};

/// How long the `overlay` command may take, on an emulated machine that has other work.
const LIMIT: Duration = Duration::from_secs(240);

/// A namespace with VTEPs and our data plane.
#[derive(Debug)]
pub struct Node {
    /// In the cluster, from 1.
    pub index: u32,
    pub netns: Netns,
    /// What the next [`Node::apply`] applies.
    pub desired: Desired,
    files: PathBuf,
    pins: PathBuf,
}

/// What `overlay dataplane apply` said.
#[derive(Debug, Clone)]
pub struct Applied {
    /// 0: as asked for; 1: something stays closed; 2: the input makes no sense.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Applied {
    /// The number of changes it reports.
    pub fn changes(&self) -> Result<usize> {
        self.stdout
            .lines()
            .rev()
            .find_map(|line| {
                let (number, word) = line.split_once(' ')?;
                word.starts_with("change").then(|| number.parse().ok())?
            })
            .with_context(|| format!("no number of changes in {self:?}"))
    }
}

impl Node {
    pub(super) fn new(lab: &Lab, prefix: &str, index: u32, netns: Netns) -> Result<Self> {
        let files = lab.directory().join(format!("n{index}"));
        fs::create_dir(&files).with_context(|| format!("create {}", files.display()))?;
        Ok(Self {
            index,
            desired: desired(lab, index)?,
            netns,
            files,
            pins: Path::new(sweep::PINS).join(format!("{prefix}-n{index}")),
        })
    }

    /// Directory of its pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// A pinned map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.pins
            .join(format!("v{}", overlay_ebpf::abi::ABI_VERSION))
            .join("maps")
            .join(name)
    }

    /// The `overlay` command for this node, to be given a verb.
    pub fn overlay(&self) -> Result<Command> {
        let mut command = self.netns.command(overlay_binary()?);
        command.arg("--pin-dir").arg(&self.pins);
        command.arg("--state-dir").arg(self.files.join("state"));
        command.arg("--run-dir").arg(self.files.join("run"));
        Ok(command)
    }

    /// Applies what is desired, with these keys; an error if it is not as asked for.
    pub fn apply(&self, keys: &Keyring) -> Result<Applied> {
        let applied = self.try_apply(keys)?;
        ensure!(
            applied.status == 0,
            "node {}: apply ended with {}: {}{}",
            self.index,
            applied.status,
            applied.stderr,
            applied.stdout
        );
        Ok(applied)
    }

    /// Applies what is desired, with these keys.
    pub fn try_apply(&self, keys: &Keyring) -> Result<Applied> {
        let output = command::run(&mut self.apply_command(keys)?, LIMIT)?;
        Ok(Applied {
            status: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    /// Writes the files; the command that applies them.
    pub fn apply_command(&self, keys: &Keyring) -> Result<Command> {
        self.file_command("apply", keys)
    }

    /// Writes the files, and keeps the data plane by them in the background.
    pub fn watch(&self, keys: &Keyring) -> Result<Watcher> {
        Watcher::start(&mut self.file_command("watch", keys)?, "watching ")
    }

    fn file_command(&self, verb: &str, keys: &Keyring) -> Result<Command> {
        keys.write(self.index, &self.files.join("keys.toml"))?;
        let file = self.files.join("node.json");
        fs::write(&file, format!("{:#}", self.desired.to_json("keys.toml")))
            .with_context(|| format!("write {}", file.display()))?;
        let mut command = self.overlay()?;
        command.args(["dataplane", verb]).arg(file);
        Ok(command)
    }

    /// What `overlay dataplane show` shows.
    pub fn show(&self) -> Result<Value> {
        let mut command = self.overlay()?;
        command.args(["dataplane", "show", "--format", "json"]);
        let output = command::run(&mut command, LIMIT)?;
        // Status 1 says that there are differences, which are part of the output.
        if !matches!(output.status.code(), Some(0 | 1)) {
            bail!("show ended with {}: {}", output.status, output.stderr);
        }
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("read what show says: {}{}", output.stdout, output.stderr))
    }

    /// Drops of a reason in all directions, in packets.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let shown = self.show()?;
        Ok(shown["drops"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|drop| drop["reason"] == reason)
            .filter_map(|drop| drop["packets"].as_u64())
            .sum())
    }

    /// Reasons and packets of all that was dropped, for messages.
    pub fn drop_summary(&self) -> String {
        match self.show() {
            Ok(shown) => format!("drops of node {}: {}", self.index, shown["drops"]),
            Err(error) => format!("drops of node {}: {error:#}", self.index),
        }
    }

    /// Removes the data plane; what the command said.
    pub fn clear(&self) -> Result<String> {
        let mut command = self.overlay()?;
        command.args(["dataplane", "clear", "--yes"]);
        command::capture(&mut command, LIMIT)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        sweep::remove_pins(&self.pins);
        sweep::remove_lock(&self.pins);
    }
}

/// `OVERLAY_BIN`, else the newest `overlay` that cargo built beside this program.
pub fn overlay_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OVERLAY_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find this program")?;
    let candidates = own.ancestors().flat_map(|directory| {
        ["overlay", "debug/overlay", "release/overlay"].map(|name| directory.join(name))
    });
    candidates
        .filter(|path| path.is_file())
        .max_by_key(|path| {
            path.metadata()
                .and_then(|metadata| metadata.modified())
                .unwrap_or(SystemTime::UNIX_EPOCH)
        })
        .context("there is no `overlay` program: run `cargo xtask build`, or set OVERLAY_BIN")
}

/// The data plane of a node that follows from the spec.
fn desired(lab: &Lab, index: u32) -> Result<Desired> {
    let spec = &lab.spec;
    let vteps = |index: u32| -> Result<Vec<_>> {
        let node = &spec.nodes[index as usize - 1];
        node.families()
            .map(|family| lab.underlay.vtep(index, family))
            .collect()
    };
    let own = vteps(index)?;
    let mut peers = Vec::new();
    for other in (1..).take(spec.nodes.len()).filter(|&other| other != index) {
        // The first family that both have; without one they cannot be peers.
        let theirs = vteps(other)?;
        let common = theirs
            .into_iter()
            .find(|vtep| own.iter().any(|o| Family::of(*o) == Family::of(*vtep)));
        if let Some(vtep) = common {
            peers.push(Peer {
                index: other,
                vtep,
                networks: Vec::new(),
                transmit: Some(Transmit {
                    epoch: 1,
                    slot: 1,
                    lanes: spec.lanes,
                }),
            });
        }
    }
    let (mut endpoints, mut remote_endpoints) = (Vec::new(), Vec::new());
    for (name, container) in lab.all_containers() {
        for (network, attachment) in container.attachments() {
            if container.node == index {
                endpoints.push(Endpoint {
                    network: network.to_owned(),
                    name: format!("{name}-{network}"),
                    netns: container.netns.name().to_owned(),
                    interface: attachment.interface.clone(),
                    mac: attachment.mac,
                    addresses: attachment
                        .addresses
                        .iter()
                        .map(|&ip| (ip, prefix_length(ip)))
                        .collect(),
                });
            } else if peers.iter().any(|peer| peer.index == container.node) {
                remote_endpoints.push(RemoteEndpoint {
                    network: network.to_owned(),
                    peer: container.node,
                    mac: attachment.mac,
                    addresses: attachment.addresses.clone(),
                });
            }
        }
    }
    Ok(Desired {
        index,
        name: format!("node-{index}"),
        vteps: own,
        settings: spec.settings.clone(),
        networks: spec
            .networks
            .iter()
            .map(|network| Network {
                name: network.name.clone(),
                vni: network.vni,
                encrypted: network.encrypted,
                replicate: network.replicate,
                mtu: network.mtu,
            })
            .collect(),
        peers,
        endpoints,
        remote_endpoints,
    })
}
