//! A pair of nodes under traffic, damaged and repaired while a capture watches the wire.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use super::{MARKER, Pressure};
use crate::lab::{
    Family, Lab, NetworkSpec, NodeSpec, Spec, Transmit,
    wire::{Capture, Kind, Wire},
};

/// The encrypted network.
pub const VNI: u32 = 4096;
const NETWORK: &str = "blue";

/// Time for packets to meet the damage.
const MEANWHILE: Duration = Duration::from_millis(700);
/// For traffic to come back on an emulated machine.
const RECOVERY: Duration = Duration::from_secs(60);

/// Two nodes with an encrypted network between containers `a` and `b`, not yet applied.
fn pair(family: Family) -> Spec {
    let node = || NodeSpec::new().family(family);
    Spec::new()
        .network(NetworkSpec::encrypted(NETWORK, VNI))
        .node(node().container("a", &[NETWORK]))
        .node(node().container("b", &[NETWORK]))
        .lanes(2)
}

/// An error if anything of the encrypted network was on the wire in clear.
pub fn stays_encrypted(wire: &Wire) -> Result<()> {
    let vxlan = wire.count(|kind| matches!(kind, Kind::Vxlan(_)));
    let fragments = wire.count(|kind| matches!(kind, Kind::Fragment { .. }));
    let markers = wire.frames_with(MARKER);
    ensure!(
        (vxlan, fragments, markers) == (0, 0, 0),
        "IN CLEAR: {vxlan} VXLAN frames, {fragments} fragments, {markers} frames with the plaintext:\n{}{}",
        wire.summary(),
        examples(wire)
    );
    wire.complete().map(drop)
}

/// The first frames with the plaintext.
fn examples(wire: &Wire) -> String {
    wire.frames()
        .filter_map(|frame| {
            let at = frame
                .bytes
                .windows(MARKER.len())
                .position(|bytes| bytes == MARKER)?;
            Some(format!(
                "{} at {} ms on {}, {} bytes, plaintext from {at}: {:02x?}\n",
                frame.kind(),
                frame.at.as_millis(),
                frame.device,
                frame.bytes.len(),
                &frame.bytes[..frame.bytes.len().min(130)]
            ))
        })
        .take(4)
        .collect()
}

/// The pair, its traffic, and what went wrong so far.
#[derive(Debug)]
pub struct Siege {
    // Dropped first: its threads are in the lab's namespaces.
    pub pressure: Pressure,
    pub lab: Lab,
    /// Slot, and epoch, that the nodes send in.
    slot: u8,
    /// Nodes to apply again.
    struck: BTreeSet<u32>,
    failures: Vec<String>,
}

impl Siege {
    /// Sets the pair up and waits for its traffic.
    pub fn lay(family: Family) -> Result<Self> {
        let siege = Self::with(Lab::up(pair(family))?)?;
        siege.flows()?;
        Ok(siege)
    }

    /// As [`Siege::lay`], without applying anything.
    pub fn prepare(family: Family) -> Result<Self> {
        Self::with(Lab::new(pair(family))?)
    }

    fn with(lab: Lab) -> Result<Self> {
        Ok(Self {
            pressure: Pressure::start(&lab, "a", "b", NETWORK)?,
            lab,
            slot: 1,
            struck: BTreeSet::new(),
            failures: Vec::new(),
        })
    }

    /// Ends a capture while the wire is quiet.
    pub fn stop(&self, capture: Capture) -> Result<Wire> {
        self.pressure.paused(|| capture.stop())
    }

    /// Everything gets through.
    pub fn flows(&self) -> Result<()> {
        self.pressure
            .arrives(RECOVERY)
            .and_then(|()| self.pressure.tcp_arrives(RECOVERY))
            .map_err(|error| {
                let drops: Vec<String> = self
                    .lab
                    .nodes
                    .iter()
                    .map(|node| node.drop_summary())
                    .collect();
                error.context(drops.join("\n"))
            })
    }

    /// Damages node 1 under traffic, and whichever [`Siege::strikes`] names, then repairs them: nothing may be in clear meanwhile, and
    /// traffic must come back. Failures are kept for [`Siege::lift`], so that one does not hide others.
    pub fn strike(&mut self, name: &str, damage: impl FnOnce(&mut Self) -> Result<()>) {
        eprintln!("strike: {name}");
        if let Err(error) = self.try_strike(damage) {
            eprintln!("  failed: {error:#}");
            self.failures.push(format!("{name}: {error:#}"));
        }
    }

    fn try_strike(&mut self, damage: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let capture = self.lab.capture()?;
        self.strikes(1);
        let struck = damage(self).context("damage");
        thread::sleep(MEANWHILE);
        let repaired = self.repair().context("repair");
        let flows = self.flows();
        let wire = self.stop(capture)?;
        stays_encrypted(&wire)?;
        struck?;
        repaired?;
        flows?;
        ensure!(wire.esp() > 0, "no ESP: {}", wire.summary());
        Ok(())
    }

    /// The damage at hand is done to this node, too.
    pub fn strikes(&mut self, node: u32) {
        self.struck.insert(node);
    }

    /// Applies again to what was struck. An SA that was lost is lost for good, as its nonces were used or its replay
    /// window is gone, and so is one whose name is gone from the maps: then the report must say so,
    /// and new keys repair.
    pub fn repair(&mut self) -> Result<()> {
        let mut refused = false;
        let struck = std::mem::take(&mut self.struck);
        for node in self
            .lab
            .nodes
            .iter()
            .filter(|node| struck.contains(&node.index))
        {
            let applied = node.try_apply(&self.lab.keyring)?;
            match applied.status {
                0 => {}
                1 => {
                    const LOST: [&str; 3] = [
                        "repeat nonces",
                        "accept replayed packets",
                        "not known to be ours",
                    ];
                    ensure!(
                        applied.stderr.contains("closed:")
                            && LOST.iter().any(|words| applied.stderr.contains(words)),
                        "node {} stays closed for another reason: {}{}",
                        node.index,
                        applied.stderr,
                        applied.stdout
                    );
                    refused = true;
                }
                status => bail!("apply ended with {status}: {}", applied.stderr),
            }
        }
        if refused {
            self.rekey()?;
            self.struck.clear();
            self.lab.apply()?;
        }
        Ok(())
    }

    /// New keys in a new slot, to be applied; the old ones go.
    pub fn rekey(&mut self) -> Result<()> {
        let lanes = self.lab.spec.lanes;
        self.lab.keyring.remove_slot(self.slot);
        self.slot += 1;
        let (epoch, slot) = (u32::from(self.slot), self.slot);
        self.lab.keyring.generate(&[1, 2], epoch, slot, lanes)?;
        for node in &mut self.lab.nodes {
            for peer in &mut node.desired.peers {
                peer.transmit = Some(Transmit { epoch, slot, lanes });
            }
        }
        self.struck.extend([1, 2]);
        Ok(())
    }

    /// Ends it; an error with everything that went wrong.
    pub fn lift(self) -> Result<()> {
        ensure!(
            self.failures.is_empty(),
            "{} failures:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
        Ok(())
    }
}
