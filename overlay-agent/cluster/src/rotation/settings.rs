//! Durations and limits of one node.

use std::time::Duration;

/// The defaults suit a cluster of any size; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Lanes that this node asks for, 1 to 16.
    pub lanes: u8,
    /// A sender keeps SAs so long after it has switched away, for packets that carry their mark.
    pub drain: Duration,
    /// A receiver keeps SAs of a retired epoch so long, unless the sender has dropped them before:
    /// the sender may learn later that the epoch has retired.
    pub linger: Duration,
    /// A sender with nothing newer goes on so long in SAs of a retired epoch: the peer was slow, or its
    /// agent starts anew. Less than [`Self::linger`], and then the pair is closed.
    pub overtime: Duration,
    /// First wait before an acknowledgement is sent again; it doubles up to [`Self::resend_max`].
    pub resend: Duration,
    pub resend_max: Duration,
    /// Wait before an SA is made again that the kernel refused; it doubles up to [`Self::retry_max`]. It ends at a whole
    /// number of waits, so that all SAs that were refused are made together: it may take as long again.
    pub retry: Duration,
    pub retry_max: Duration,
    /// Refusals in a row after which a human is called.
    pub failures_alarm: u32,
    /// At most one digest in this time, and one at least in ten times of it while an epoch changes.
    pub digest: Duration,
    /// Sequence number of an SA at which a rotation is asked for. Default: half of ESN's 2⁶⁴
    /// (RFC 4303 section 2.2.1).
    pub sequence_limit: u64,
    /// Bytes of an SA at which a rotation is asked for. Default: half of the data plane's hard limit.
    pub byte_limit: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lanes: 4,
            drain: Duration::from_secs(2),
            linger: Duration::from_secs(15),
            overtime: Duration::from_secs(10),
            resend: Duration::from_millis(500),
            resend_max: Duration::from_secs(60),
            retry: Duration::from_secs(1),
            retry_max: Duration::from_secs(10),
            failures_alarm: 5,
            digest: Duration::from_millis(500),
            sequence_limit: 1 << 63,
            byte_limit: 1 << 45,
        }
    }
}
