//! This project: the lab's nodes, as the `overlay` command sets them up.

use anyhow::Result;

use super::VNI;
use crate::{
    bench::{Cipher, cipher},
    lab::{Family, Lab, NetworkSpec, NodeSpec, Spec},
};

pub(super) const NETWORK: &str = "net";

/// Settings are the defaults, but for one lane, as the others have one SA.
pub(super) fn build(cipher: Cipher) -> Result<Lab> {
    let network = if cipher.is_encrypted() {
        NetworkSpec::encrypted(NETWORK, VNI)
    } else {
        NetworkSpec::plain(NETWORK, VNI)
    };
    let mut spec = Spec::new()
        .cabled()
        .network(network.only(Family::V4))
        .node(NodeSpec::new().container("a", &[NETWORK]))
        .node(NodeSpec::new().container("b", &[NETWORK]));
    spec.settings.clear();
    let lab = Lab::up(spec)?;
    if cipher == Cipher::Null {
        for node in &lab.nodes {
            cipher::replace(&node.netns, cipher)?;
        }
    }
    Ok(lab)
}
