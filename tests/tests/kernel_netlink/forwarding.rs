//! The global IPv6 forwarding switch, which overwrites that of every device.

use std::{collections::BTreeMap, path::PathBuf};

use overlay_agent::{
    dataplane::{
        desired::{DataPlane, Node, Settings},
        reconcile::Kernel as _,
        step::Step,
    },
    kernel::{
        host::{Directories, Host},
        sysctl,
    },
};
use overlay_ebpf::abi::PeerIndex;

use crate::namespace::{command, inside};

const ALL: &str = "net/ipv6/conf/all/forwarding";

/// A directory for the state of a node, removed on drop.
struct State(PathBuf);

impl State {
    fn new(test: &str) -> Self {
        let name = format!("ovl-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn host(&self) -> Host {
        let directories = Directories {
            pins: self.0.join("pins"),
            state: self.0.join("state"),
            run: self.0.join("run"),
        };
        Host::open(directories, &Settings::default(), &[]).unwrap()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn forwarding() -> BTreeMap<String, String> {
    let mut values = sysctl::overwritten_by(ALL).unwrap();
    values.insert(ALL.into(), sysctl::read(ALL).unwrap().unwrap());
    values
}

fn device(name: &str, forwarding: &str) {
    command(&format!("ip link add {name} type bridge"));
    command(&format!("ip link set {name} up"));
    sysctl::write(&format!("net/ipv6/conf/{name}/forwarding"), forwarding).unwrap();
}

#[test]
fn devices_forward_again_as_before_the_global_switch() {
    inside(|| async {
        let state = State::new("forwarding");
        sysctl::write(ALL, "0").unwrap();
        sysctl::write("net/ipv6/conf/default/forwarding", "1").unwrap();
        device("router0", "1");
        device("host0", "0");
        device("gone0", "1");
        let mut before = forwarding();
        assert_eq!(before["net/ipv6/conf/router0/forwarding"], "1");

        let mut host = state.host();
        let set = Step::SetSysctl(ALL.into(), "1".into());
        host.execute(&set).await.unwrap();
        assert!(forwarding().values().all(|value| value == "1"));
        // What others undid and we repaired is not what was before.
        sysctl::write(ALL, "0").unwrap();
        host.execute(&set).await.unwrap();
        assert!(forwarding().values().all(|value| value == "1"));
        // Only the switch is ours: the next apply would restore what else it saw.
        let observed = host.observe().await.unwrap();
        assert_eq!(observed.sysctls, [(ALL.into(), "1".into())].into());

        command("ip link del gone0");
        before.remove("net/ipv6/conf/gone0/forwarding");
        // Another process clears.
        let mut host = state.host();
        host.execute(&Step::RestoreSysctl(ALL.into()))
            .await
            .unwrap();
        assert_eq!(forwarding(), before);
        assert!(host.observe().await.unwrap().sysctls.is_empty());
    });
}

#[test]
fn a_device_that_forwarded_before_is_not_made_to_accept_router_advertisements() {
    inside(|| async {
        let state = State::new("accept-ra");
        sysctl::write(ALL, "0").unwrap();
        for (name, forwarding, accept_ra) in [
            ("host0", "0", "1"),
            ("deaf0", "0", "0"),
            ("router0", "1", "1"),
            ("asked0", "1", "2"),
        ] {
            device(name, forwarding);
            sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), accept_ra).unwrap();
        }
        let desired = DataPlane {
            node: Node {
                index: PeerIndex::new(1).unwrap(),
                name: "node1".into(),
                vteps: Vec::new(),
            },
            settings: Settings::default(),
            networks: BTreeMap::new(),
            peers: BTreeMap::new(),
            local_endpoints: Vec::new(),
            remote_endpoints: Default::default(),
        };
        let accepting = ["asked0".to_owned(), "host0".to_owned()].into();
        let mut host = state.host();
        assert_eq!(host.facts(&desired).await.unwrap().accept_ra, accepting);
        host.execute(&Step::SetSysctl(ALL.into(), "1".into()))
            .await
            .unwrap();
        assert_eq!(host.facts(&desired).await.unwrap().accept_ra, accepting);
    });
}
