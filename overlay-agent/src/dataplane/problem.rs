//! What the desired data plane asks for and this host cannot give.

use std::fmt;

use overlay_ebpf::abi::{PeerIndex, Vni};

/// Something that stays closed, or that an operator should know. Never silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub subject: Subject,
    /// Whether traffic stays closed because of it; `false` is a warning.
    pub closes: bool,
    /// What is wrong, with the values that show it.
    pub reason: String,
    /// What the operator can do.
    pub remedy: String,
}

/// What a [`Problem`] concerns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Node,
    Network(Vni, String),
    Peer(PeerIndex, String),
    Endpoint(String),
}

impl Problem {
    pub fn closes(subject: Subject, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            subject,
            closes: true,
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }

    pub fn warning(subject: Subject, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            closes: false,
            ..Self::closes(subject, reason, remedy)
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Network(vni, name) => write!(f, "network {name} (VNI {vni})"),
            Self::Peer(index, name) => write!(f, "peer {name} ({index})"),
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.closes { "closed" } else { "warning" };
        write!(
            f,
            "{}: {verdict}: {}; remedy: {}",
            self.subject, self.reason, self.remedy
        )
    }
}
