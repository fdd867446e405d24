//! What the agent does as a daemon, beyond the data plane of its node.

pub mod tls;
