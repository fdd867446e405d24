use std::{fmt, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use overlay_cluster::log::names::Labels;
use overlay_ebpf::abi::{MacAddr, Vni};
use serde::{Deserialize, Serialize};

use super::{ApiError, Code};
use crate::{
    dataplane::desired::{NetnsRef, Route},
    member::attach,
};

/// Name of a container's interface if nobody says otherwise.
pub const DEFAULT_INTERFACE: &str = "eth0";

/// `POST /v1/endpoints`, answered by the [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointAttach {
    /// Name of a network.
    pub network: String,
    /// A DNS label, unique in the network on this node; `None` is the name of the network namespace.
    #[serde(default)]
    pub name: Option<String>,
    pub netns: Netns,
    /// Name of the container's interface; `None` is [`DEFAULT_INTERFACE`].
    #[serde(default)]
    pub interface: Option<String>,
    /// `None` is made of the address.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// For families that are not named here, an address is chosen.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Beside those to the subnets of the network.
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
    #[serde(default)]
    pub labels: Labels,
    /// Whether an orchestrator asks: networks that are not attachable take no others.
    #[serde(default)]
    pub managed: bool,
}

impl EndpointAttach {
    /// The request to the member, with what was left out.
    pub fn into_request(self) -> Result<attach::Request, ApiError> {
        let name = match (self.name, &self.netns) {
            (Some(name), _) => name,
            (None, Netns::Name(name)) => name.clone(),
            (None, Netns::Pid(_) | Netns::Path(_)) => {
                return Err(ApiError::new(
                    Code::BadRequest,
                    format!(
                        "an endpoint in the network namespace of {} has no name",
                        self.netns
                    ),
                    "give one (`--name`)",
                ));
            }
        };
        let routes = self.routes.into_iter().map(RouteSpec::checked);
        Ok(attach::Request {
            network: self.network,
            name,
            netns: self.netns.into(),
            interface: self.interface.unwrap_or_else(|| DEFAULT_INTERFACE.into()),
            mac: self.mac,
            addresses: self.addresses,
            routes: routes.collect::<Result<_, _>>()?,
            labels: self.labels,
            managed: self.managed,
        })
    }
}

/// A network namespace: `{"name": "a"}`, `{"pid": 7}` or `{"path": "/proc/7/ns/net"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Netns {
    /// `/run/netns/NAME`.
    Name(String),
    /// The namespace of a process.
    Pid(u32),
    Path(PathBuf),
}

impl From<Netns> for NetnsRef {
    fn from(netns: Netns) -> Self {
        match netns {
            Netns::Name(name) => Self::Name(name),
            Netns::Pid(pid) => Self::Pid(pid),
            Netns::Path(path) => Self::Path(path),
        }
    }
}

impl From<NetnsRef> for Netns {
    fn from(netns: NetnsRef) -> Self {
        match netns {
            NetnsRef::Name(name) => Self::Name(name),
            NetnsRef::Pid(pid) => Self::Pid(pid),
            NetnsRef::Path(path) => Self::Path(path),
        }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A route in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    pub to: IpNet,
    /// The next hop; `None` if the destinations are on the link.
    #[serde(default)]
    pub via: Option<IpAddr>,
}

impl RouteSpec {
    fn checked(self) -> Result<Route, ApiError> {
        let Self { to, via } = self;
        if to != to.trunc() {
            return Err(ApiError::new(
                Code::BadRequest,
                format!("route to {to} has bits behind its prefix"),
                format!("did you mean {}?", to.trunc()),
            ));
        }
        if via.is_some_and(|via| via.is_ipv4() != to.addr().is_ipv4()) {
            return Err(ApiError::new(
                Code::BadRequest,
                format!("route to {to} goes over an address of the other family"),
                "name a next hop of the same family",
            ));
        }
        Ok(Route {
            to: (to.addr(), to.prefix_len()),
            via,
        })
    }
}

/// `GET /v1/endpoints` lists them, `GET /v1/endpoints/{network}/{name}` is one of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub network: String,
    pub vni: Vni,
    pub name: String,
    /// Name of the node that it is on.
    pub node: String,
    /// Whether that is this node.
    pub local: bool,
    pub mac: MacAddr,
    pub addresses: Vec<IpAddr>,
    /// Of endpoints of this node.
    #[serde(default)]
    pub netns: Option<Netns>,
    /// Of endpoints of this node.
    #[serde(default)]
    pub interface: Option<String>,
    #[serde(default)]
    pub labels: Labels,
    /// What keeps it from sending and receiving, and what to do.
    #[serde(default)]
    pub problem: Option<String>,
}

/// Parameters of `GET /v1/endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointQuery {
    /// Only those of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Those of other nodes too.
    #[serde(default)]
    pub all: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(json: &str) -> Result<attach::Request, ApiError> {
        serde_json::from_str::<EndpointAttach>(json)
            .map_err(|error| ApiError::bad_request(&error))?
            .into_request()
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let request = attach(r#"{"network":"n","netns":{"name":"web-1"}}"#).unwrap();
        assert_eq!(request.name, "web-1");
        assert_eq!(request.interface, "eth0");
        assert_eq!(request.netns, NetnsRef::Name("web-1".into()));
        let error = attach(r#"{"network":"n","netns":{"pid":7}}"#).unwrap_err();
        assert!(error.to_string().contains("process 7"), "{error}");
        assert!(error.to_string().contains("--name"), "{error}");
    }

    #[test]
    fn routes_are_checked() {
        let route = |route: &str| {
            attach(&format!(
                r#"{{"network":"n","netns":{{"name":"a"}},"routes":[{route}]}}"#
            ))
        };
        let request = route(r#"{"to":"10.1.0.0/16","via":"10.0.9.1"}"#).unwrap();
        assert_eq!(request.routes[0].to.1, 16);
        for (bad, why) in [
            (r#"{"to":"10.1.0.1/16"}"#, "10.1.0.0/16"),
            (r#"{"to":"10.1.0.0/16","via":"fd00::1"}"#, "family"),
            (r#"{"to":"10.1.0.0/16","dev":"eth0"}"#, "dev"),
        ] {
            let error = route(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
