//! Bulk TCP by iperf3.

use std::time::Duration;

use anyhow::Result;

use super::{Ends, Measured};
use crate::lab::traffic::Iperf;

/// Sent where there is less than a second, the least that iperf3 knows.
const BYTES: u64 = 16 << 20;

pub(super) fn run(ends: &Ends<'_>, streams: u32, duration: Duration) -> Result<Measured> {
    let iperf = Iperf::new(ends.client, ends.server, ends.address)
        .options(&format!("--parallel {streams}"));
    let result = match duration.as_secs() {
        0 => iperf.bytes(BYTES).run()?,
        seconds => iperf.seconds(seconds).run()?,
    };
    Ok(Measured {
        value: result.bits_per_second,
        details: [("retransmits", result.retransmits as f64)].into(),
    })
}
