//! What of an endpoint cannot be observed stands in the alias of its host-side device.

use std::{fmt, path::PathBuf};

use crate::dataplane::desired::NetnsRef;

/// Bytes of an alias (`IFALIASZ` of linux/if.h, with its NUL).
pub(super) const LIMIT: usize = 255;
const PREFIX: &str = "overlay endpoint ";

/// How the operator named the container's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alias {
    pub(super) interface: String,
    pub(super) netns: NetnsRef,
}

impl Alias {
    /// `None` if it is not one of ours.
    pub(super) fn parse(alias: &str) -> Option<Self> {
        let (interface, netns) = alias.strip_prefix(PREFIX)?.split_once(' ')?;
        let (kind, netns) = netns.strip_prefix("netns-")?.split_once('=')?;
        Some(Self {
            interface: interface.strip_prefix("interface=")?.to_owned(),
            netns: match kind {
                "name" => NetnsRef::Name(netns.to_owned()),
                "pid" => NetnsRef::Pid(netns.parse().ok()?),
                "path" => NetnsRef::Path(PathBuf::from(netns)),
                _ => return None,
            },
        })
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}interface={} netns-", self.interface)?;
        match &self.netns {
            NetnsRef::Name(name) => write!(f, "name={name}"),
            NetnsRef::Pid(pid) => write!(f, "pid={pid}"),
            NetnsRef::Path(path) => write!(f, "path={}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alias_is_read_back_as_written() {
        for netns in [
            NetnsRef::Name("blue".to_owned()),
            NetnsRef::Pid(4711),
            NetnsRef::Path("/run/a b=c/ns".into()),
        ] {
            let alias = Alias {
                interface: "eth0".to_owned(),
                netns,
            };
            assert_eq!(Alias::parse(&alias.to_string()), Some(alias));
        }
    }

    #[test]
    fn alias_of_another_is_not_ours() {
        for alias in [
            "",
            "uplink",
            "overlay endpoint x",
            "overlay endpoint interface=a netns-x=y",
        ] {
            assert_eq!(Alias::parse(alias), None, "{alias:?}");
        }
    }
}
