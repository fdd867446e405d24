//! What the keeper of a node, which runs in the benchmark itself, begins with.

use std::net::Ipv4Addr;

use anyhow::Result;
use overlay_agent::{
    dataplane::desired::{DataPlane, Network, Node, Peer, Settings},
    kernel::host::Directories,
};
use overlay_ebpf::abi::{PeerIndex, Vni};

use crate::lab::{self, Family, Lab};

/// Those of a node's keeper.
pub fn directories(lab: &Lab, node: &lab::Node) -> Directories {
    Directories {
        pins: node.pins().to_owned(),
        state: lab.directory().join("state"),
        run: lab.directory().join("run"),
    }
}

/// What the keeper on node 1 begins with: so many peers, from 2 on, without an SA, on one network.
pub fn base(lab: &Lab, peers: u32, encrypted: bool) -> Result<DataPlane> {
    let vni = Vni::new(4097)?;
    let network = Network {
        name: "net".to_owned(),
        vni,
        encrypted,
        replicate: false,
        mtu: None,
        mtu_at_most: None,
    };
    let peers = (2..peers + 2).map(|number| {
        let index = PeerIndex::new(number)?;
        let [_, _, c, d] = number.to_be_bytes();
        let peer = Peer {
            index,
            name: format!("node-{number}"),
            vtep: Ipv4Addr::new(198, 18, c, d).into(),
            networks: [vni].into(),
            transmit: None,
            sas: Vec::new(),
        };
        Ok((index, peer))
    });
    Ok(DataPlane {
        node: Node {
            index: PeerIndex::new(1)?,
            name: "node-1".to_owned(),
            vteps: vec![lab.underlay.vtep(1, Family::V4)?],
        },
        settings: Settings::default(),
        networks: [(vni, network)].into(),
        peers: peers.collect::<Result<_>>()?,
        local_endpoints: Vec::new(),
        remote_endpoints: Default::default(),
    })
}
