//! How much, how long and how many: so that nobody, let in or not, holds a node up.

use std::time::Duration;

/// How fast a message must come or go: a fixed time, and more for a long one. It bounds the whole
/// message, so that a byte now and then does not keep a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub base: Duration,
    /// Bytes per second.
    pub rate: u32,
}

impl Pace {
    /// The time for `len` bytes.
    pub fn time(self, len: usize) -> Duration {
        let rate = u64::from(self.rate.max(1));
        let millis = (len as u64).saturating_mul(1000) / rate;
        self.base.saturating_add(Duration::from_millis(millis))
    }
}

/// Limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections that are not yet, or never, a member's: handshakes, joins and renewals. They have
    /// places of their own, so that strangers do not take those of members.
    pub strangers: usize,
    /// Of them, from one address.
    pub strangers_per_source: usize,
    /// Connections of members.
    pub members: usize,
    /// Of them, of one node.
    pub per_member: usize,
    /// Connections of managers, for raft. They have places of their own.
    pub managers: usize,
    /// Of them, of one manager.
    pub per_manager: usize,
    /// From the first byte to the end of the handshake.
    pub handshake: Duration,
    /// A member may be silent for so long between two requests.
    pub idle: Duration,
    /// How often a silent member is looked up in the roster: so long after an eviction the
    /// connection is closed.
    pub recheck: Duration,
    /// For a request to come and an answer to go.
    pub pace: Pace,
    /// For the answer to be found.
    pub answer: Duration,
    /// For requests under way when the server stops.
    pub grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            strangers: 256,
            strangers_per_source: 32,
            members: 32_768,
            per_member: 8,
            managers: 256,
            per_manager: 16,
            handshake: Duration::from_secs(5),
            idle: Duration::from_secs(120),
            recheck: Duration::from_secs(2),
            pace: Pace {
                base: Duration::from_secs(10),
                rate: 64 * 1024,
            },
            answer: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

/// Limits of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// For TCP.
    pub connect: Duration,
    /// For TLS.
    pub handshake: Duration,
    /// Until the answer begins.
    pub answer: Duration,
    /// For a request to go and an answer to come.
    pub pace: Pace,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            // Longer than a server takes: its refusal says more than a timeout.
            answer: Duration::from_secs(35),
            pace: ServerLimits::default().pace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_has_more_time() {
        let pace = Pace {
            base: Duration::from_secs(10),
            rate: 1000,
        };
        assert_eq!(pace.time(0), Duration::from_secs(10));
        assert_eq!(pace.time(5000), Duration::from_secs(15));
        let stopped = Pace { rate: 0, ..pace };
        assert_eq!(stopped.time(2), Duration::from_secs(12));
    }
}
