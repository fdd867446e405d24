//! What a router on the way says of its MTU.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{MARKER, drops, mtu};
use crate::lab::{
    Lab,
    addressing::Family,
    eventually,
    traffic::{Ping, transfer},
};

/// How long a packet, its answer and one more may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Behind the router, the link to node 2 narrows to `outside`. The container on node 1 is told `inside`
/// and goes on with packets of that size, and with TCP; no agent has a part in it. The lab is routed, and
/// its network has IPv4 inside.
pub fn narrowing_is_told(lab: &Lab, network: &str, outside: u32, inside: u32) -> Result<()> {
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    let there = lab.ip_of("b", network, Family::V4)?;
    let before = mtu(lab.container("a")?, network)?;
    ensure!(before > inside, "the MTU is {before} from the start");
    let ping = |bytes| Ping::new(a, there).packet(bytes);
    eventually(PATIENCE, || ping(before).count(1).lossless())?;
    lab.underlay.set_mtu(2, outside)?;
    // The router drops the first and tells the node; the node drops the next and tells the container.
    let told = format!("mtu = {inside}");
    eventually(PATIENCE, || {
        let result = ping(before).count(2).run()?;
        ensure!(result.output.contains(&told), "{}", result.output);
        Ok(())
    })
    .with_context(|| drops(lab))?;
    ping(inside).lossless().with_context(|| drops(lab))?;
    transfer(a, b, there, 1 << 20, MARKER)
        .context("TCP over the narrowed path")
        .map(drop)
}
