//! Nodes of ours with a node of the stock kernel's bridge and vxlan device.

use anyhow::{Result, ensure};
use overlay_tests::lab::{
    Family, Lab, NetworkSpec, NodeSpec, Spec,
    checks::{self, Load},
};

const VNI: u32 = 4097;

#[test]
fn a_stock_vxlan_node_and_ours_exchange_all_traffic() -> Result<()> {
    for family in Family::BOTH {
        let lab = Lab::up(
            Spec::new()
                .network(NetworkSpec::plain("green", VNI).mtu(1390))
                .node(NodeSpec::new().family(family).container("ours", &["green"]))
                .node(
                    NodeSpec::stock()
                        .family(family)
                        .container("theirs", &["green"]),
                ),
        )?;
        let capture = lab.capture()?;
        checks::traffic(&lab, "ours", "theirs", "green", Load::FULL)?;
        checks::traffic(&lab, "theirs", "ours", "green", Load::LIGHT)?;
        let wire = capture.stop()?;
        ensure!(wire.vxlan(VNI) > 1000, "{}", wire.summary());
    }
    Ok(())
}
