//! foca's parameters, found by the simulation (docs/benchmarks/gossip.md).

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{Config, PeriodicParams};

use crate::gossip::envelope::MAX_PAYLOAD;

const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// Parameters for a roster of this many nodes.
///
/// - One probe per second and node: a ping and an answer, whatever the size.
/// - Every change is sent to so many by each node that all hear of it without waiting for anti-entropy. A
///   node is missed by all of n nodes that tell t random others each with probability e⁻ᵗ, any of n nodes
///   with n · e⁻ᵗ: t = 9 + ln n makes that 10⁻⁴.
/// - A suspect has time for its refutation to reach everybody.
/// - A node that is down is asked now and then, so that a healed partition is noticed; nothing is
///   forgotten by time, since [`crate::gossip::roster`] says who exists.
pub fn config(nodes: usize) -> Config {
    let magnitude = (nodes.max(9) as f64 + 1.0).log10();
    let transmissions = (9.0 + (nodes.max(2) as f64).ln()).ceil() as u8;
    let several = ONE.saturating_add(2);
    Config {
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(300),
        num_indirect_probes: several,
        max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: Duration::from_secs_f64(3.0 * magnitude),
        remove_down_after: None,
        max_packet_size: ONE.saturating_add(MAX_PAYLOAD - 1),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: Duration::from_secs(10),
            num_members: ONE,
        }),
        periodic_gossip: Some(PeriodicParams {
            frequency: Duration::from_millis(200),
            num_members: several,
        }),
    }
}
