//! Bulk TCP by iperf3.

use std::time::Duration;

use anyhow::Result;

use super::{Ends, Measured};
use crate::lab::traffic::Iperf;

pub(super) fn run(ends: &Ends<'_>, streams: u32, duration: Duration) -> Result<Measured> {
    // iperf3 knows whole seconds.
    let seconds = duration.as_millis().div_ceil(1000).max(1) as u64;
    let result = Iperf::new(ends.client, ends.server, ends.address)
        .seconds(seconds)
        .options(&format!("--parallel {streams}"))
        .run()?;
    Ok(Measured {
        value: result.bits_per_second,
        details: [("retransmits", result.retransmits as f64)].into(),
    })
}
