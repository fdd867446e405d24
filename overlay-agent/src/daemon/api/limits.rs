use std::time::Duration;

/// How much, how long and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of root.
    pub root: usize,
    /// Connections of all others: they do not take root's places.
    pub others: usize,
    /// Connections that read events, of anyone.
    pub events: usize,
    /// For the head of a request to come.
    pub head: Duration,
    /// For the body of a request to come.
    pub body: Duration,
    /// For the answer to be found.
    pub answer: Duration,
    /// For the caller to take the answer.
    pub take: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// The same where the body is a backup.
    pub backup_bytes: usize,
    /// For requests under way when the server stops.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root: 128,
            others: 64,
            events: 32,
            head: Duration::from_secs(5),
            body: Duration::from_secs(30),
            // A join waits for managers, and a manager for its quorum.
            answer: Duration::from_secs(120),
            take: Duration::from_secs(30),
            body_bytes: 256 * 1024,
            backup_bytes: 96 * 1024 * 1024,
            grace: Duration::from_secs(5),
        }
    }
}
