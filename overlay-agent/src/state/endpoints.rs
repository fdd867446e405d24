//! The endpoints of this node, so that the next start of the agent takes them over. They end with a
//! reboot, as their devices do.

use std::path::Path;

use overlay_ebpf::abi::Vni;
use serde::{Deserialize, Serialize};

use super::{StateError, atomic_file};
use crate::dataplane::{
    desired::{self, LocalEndpoint},
    file::schema::{Destination, Mac, Netns, Prefix, Route},
};

const NAME: &str = "endpoints.json";
const REMEDY: &str = "remove it and attach the endpoints again";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    vni: u32,
    name: String,
    netns: Netns,
    interface: String,
    mac: Mac,
    addresses: Vec<Prefix>,
    #[serde(default)]
    routes: Vec<Route>,
}

impl From<&LocalEndpoint> for Kept {
    fn from(endpoint: &LocalEndpoint) -> Self {
        Self {
            vni: endpoint.vni.get(),
            name: endpoint.name.clone(),
            netns: Netns(endpoint.netns.clone()),
            interface: endpoint.interface.clone(),
            mac: Mac(endpoint.mac),
            addresses: endpoint
                .addresses
                .iter()
                .map(|&(ip, prefix_length)| Prefix { ip, prefix_length })
                .collect(),
            routes: endpoint.routes.iter().copied().map(Into::into).collect(),
        }
    }
}

impl Kept {
    fn endpoint(self) -> Result<LocalEndpoint, String> {
        let routes = self.routes.into_iter().map(|route| match route.to {
            Destination::Network(to) => Ok(desired::Route {
                to: (to.ip, to.prefix_length),
                via: route.via,
            }),
            Destination::Default => Err("a route of no family".to_owned()),
        });
        Ok(LocalEndpoint {
            vni: Vni::new(self.vni).map_err(|error| error.to_string())?,
            name: self.name,
            netns: self.netns.0,
            interface: self.interface,
            mac: self.mac.0,
            addresses: self
                .addresses
                .into_iter()
                .map(|address| (address.ip, address.prefix_length))
                .collect(),
            routes: routes.collect::<Result<_, _>>()?,
        })
    }
}

/// The endpoints of the agent before; none if there is no file.
pub fn read(run_dir: &Path) -> Result<Vec<LocalEndpoint>, StateError> {
    let path = run_dir.join(NAME);
    let Some(text) = atomic_file::read(&path)? else {
        return Ok(Vec::new());
    };
    let damaged = |reason: String| StateError::Content {
        path: path.clone(),
        reason,
        remedy: REMEDY,
    };
    let kept: Vec<Kept> =
        serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    kept.into_iter()
        .map(|kept| kept.endpoint().map_err(damaged))
        .collect()
}

pub fn write<'a>(
    run_dir: &Path,
    endpoints: impl Iterator<Item = &'a LocalEndpoint>,
) -> Result<(), StateError> {
    let path = run_dir.join(NAME);
    let kept: Vec<Kept> = endpoints.map(Into::into).collect();
    let text = serde_json::to_vec(&kept).map_err(|error| StateError::Content {
        path: path.clone(),
        reason: error.to_string(),
        remedy: "report this",
    })?;
    atomic_file::replace(&path, &text)
}

pub fn remove(run_dir: &Path) -> Result<(), StateError> {
    atomic_file::remove(&run_dir.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataplane::testing, state::atomic_file::testing::Directory};

    #[test]
    fn endpoints_come_back_as_they_were_and_a_damaged_file_is_named() {
        let directory = Directory::new();
        assert_eq!(read(directory.path()).unwrap(), []);
        let mut endpoints = vec![testing::local(4096, 1), testing::local(4097, 2)];
        endpoints[0].routes = vec![testing::route(4096, Some(3)), testing::route(4097, None)];
        endpoints[1].netns = desired::NetnsRef::Pid(7);
        write(directory.path(), endpoints.iter()).unwrap();
        assert_eq!(read(directory.path()).unwrap(), endpoints);
        std::fs::write(directory.path().join(NAME), "[{}]").unwrap();
        let error = read(directory.path()).unwrap_err().to_string();
        assert!(error.contains(NAME) && error.contains("attach"), "{error}");
        remove(directory.path()).unwrap();
        assert_eq!(read(directory.path()).unwrap(), []);
    }
}
