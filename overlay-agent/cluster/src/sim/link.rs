//! What happens to a datagram on its way.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

/// Every link between two nodes. Datagrams overtake each other within `jitter`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// One way, at least.
    pub latency: Duration,
    /// Up to so much more, evenly.
    pub jitter: Duration,
    /// Share of datagrams that do not arrive.
    pub loss: f64,
    /// Share of datagrams that arrive twice.
    pub duplicated: f64,
    /// Share of datagrams that somebody recorded and sends again, any time later.
    pub replayed: f64,
    /// Bytes per second of an anti-entropy exchange.
    pub bandwidth: f64,
}

impl Link {
    /// A data centre's network that loses this share.
    pub const fn lossy(loss: f64) -> Self {
        Self {
            latency: Duration::from_micros(500),
            jitter: Duration::from_millis(2),
            loss,
            duplicated: 0.0,
            replayed: 0.0,
            bandwidth: 50e6,
        }
    }

    pub(super) fn delay(&self, rng: &mut StdRng) -> Duration {
        self.latency + self.jitter.mul_f64(rng.random())
    }

    /// Delay of a message over TCP: a lost segment costs a retransmission.
    pub(super) fn carry(&self, bytes: usize, rng: &mut StdRng) -> Duration {
        let mut delay = self.delay(rng) + Duration::from_secs_f64(bytes as f64 / self.bandwidth);
        while rng.random_bool(self.loss) {
            delay += Duration::from_millis(200);
        }
        delay
    }
}
