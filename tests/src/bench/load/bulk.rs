//! Bulk TCP by iperf3.

use std::time::Duration;

use anyhow::Result;

use super::{Ends, Measured};
use crate::lab::traffic::Iperf;

/// Sent where there is less than a second, the least that iperf3 knows.
const BYTES: u64 = 16 << 20;
/// How often, the median being taken: a queue that overflows costs a short transfer a third of its rate.
const TRANSFERS: usize = 3;

pub(super) fn run(ends: &Ends<'_>, streams: u32, duration: Duration) -> Result<Measured> {
    let iperf = Iperf::new(ends.client, ends.server, ends.address)
        .options(&format!("--parallel {streams}"));
    let result = match duration.as_secs() {
        0 => {
            let mut results = Vec::new();
            for _ in 0..TRANSFERS {
                results.push(iperf.clone().bytes(BYTES).run()?);
            }
            results.sort_by(|a, b| a.bits_per_second.total_cmp(&b.bits_per_second));
            results.swap_remove(TRANSFERS / 2)
        }
        seconds => iperf.seconds(seconds).run()?,
    };
    Ok(Measured {
        value: result.bits_per_second,
        details: [("retransmits", result.retransmits as f64)].into(),
    })
}
