//! Endpoint pairs.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    process::{Child, Command},
};

use overlay_agent::{
    dataplane::{
        desired::{NetnsRef, Route},
        endpoint_name::host_device_name,
        objects::EndpointLink,
    },
    kernel::{
        endpoint_link::{self, Error},
        rtnl::Handle,
    },
};
use overlay_ebpf::abi::{MacAddr, Vni};

use crate::namespace::{Namespace, attempt, command, inside, is_up, json};

const MAC: MacAddr = MacAddr([2, 0x42, 10, 0, 9, 2]);

fn device() -> String {
    host_device_name(Vni::new(4097).unwrap(), MAC)
}

fn endpoint(netns: NetnsRef) -> EndpointLink {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    EndpointLink {
        netns,
        interface: "eth0".into(),
        mac: MAC,
        addresses: BTreeSet::from([(address("10.0.9.2"), 24), (address("fd00:9::2"), 64)]),
        routes: BTreeSet::new(),
        mtu: 1420,
        altered: None,
    }
}

async fn create(handle: &Handle, wanted: &EndpointLink) {
    endpoint_link::create(handle, &device(), wanted)
        .await
        .unwrap();
}

async fn refusal(handle: &Handle, wanted: &EndpointLink) -> Error {
    endpoint_link::create(handle, &device(), wanted)
        .await
        .unwrap_err()
}

async fn observed(handle: &Handle) -> EndpointLink {
    endpoint_link::observe(handle).await.unwrap()[&device()].clone()
}

#[test]
fn pair_is_created_observed_and_detached() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let container = Namespace::new();
        let wanted = endpoint(container.reference());
        let device = device();
        for _ in 0..2 {
            create(&handle, &wanted).await;
            let observed = endpoint_link::observe(&handle).await.unwrap();
            assert_eq!(observed, [(device.clone(), wanted.clone())].into());
        }
        let eth0 = &container.json("ip -j -d addr show eth0")[0];
        assert_eq!(eth0["address"], "02:42:0a:00:09:02");
        assert_eq!(eth0["mtu"], 1420);
        assert!(is_up(eth0), "{eth0}");
        let shown = container.command("ip -o addr show eth0");
        assert!(
            shown.contains("10.0.9.2/24 brd 10.0.9.255 scope global"),
            "{shown}"
        );
        assert!(shown.contains("fd00:9::2/64 scope global nodad"), "{shown}");
        assert!(
            container
                .command("ip -o addr show lo")
                .contains("127.0.0.1")
        );
        if attempt("ethtool --version").status.success() {
            let features = container.command("ethtool -k eth0");
            assert!(
                features.contains("generic-receive-offload: on"),
                "{features}"
            );
            assert!(
                features.contains("generic-segmentation-offload: on"),
                "{features}"
            );
        }

        let host = &json(&format!("ip -j -d link show {device}"))[0];
        assert!(is_up(host), "{host}");
        assert_eq!(command(&format!("ip -o addr show {device}")), "");
        for (name, value) in [
            ("ipv6/conf/DEV/disable_ipv6", "1"),
            ("ipv4/conf/DEV/arp_ignore", "8"),
            ("ipv4/conf/DEV/rp_filter", "1"),
            ("ipv4/conf/DEV/forwarding", "0"),
        ] {
            let name = name.replace("DEV", &device);
            assert_eq!(
                command(&format!("sysctl -n net/{name}")).trim(),
                value,
                "{name}"
            );
        }

        for _ in 0..2 {
            endpoint_link::detach(&handle, &device).await.unwrap();
        }
        assert!(endpoint_link::observe(&handle).await.unwrap().is_empty());
        assert!(!container.command("ip -o link").contains("eth0"));
    });
}

#[test]
fn container_cannot_reach_the_host_without_a_program() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let container = Namespace::new();
        command("ip link set lo up");
        command("ip link add up0 type veth peer name up1");
        command("ip addr add 10.0.9.1/24 dev up0");
        command("ip link set up0 up");
        create(&handle, &endpoint(container.reference())).await;
        let path = container.reference();
        let NetnsRef::Path(path) = path else {
            unreachable!()
        };
        let ping = attempt(&format!(
            "nsenter --net={} ping -c 1 -W 1 10.0.9.1",
            path.display()
        ));
        assert!(!ping.status.success());
        // With the host side's own MAC, which the container cannot learn.
        let mac = json(&format!("ip -j link show {}", device()))[0]["address"].clone();
        container.command(&format!(
            "ip neigh replace 10.0.9.1 lladdr {} dev eth0 nud permanent",
            mac.as_str().unwrap()
        ));
        let ping = attempt(&format!(
            "nsenter --net={} ping -c 1 -W 1 10.0.9.1",
            path.display()
        ));
        assert!(!ping.status.success());
    });
}

#[test]
fn changes_inside_and_outside_are_seen_and_repaired() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let container = Namespace::new();
        let wanted = endpoint(container.reference());
        let device = device();
        create(&handle, &wanted).await;
        let index = json(&format!("ip -j link show {device}"))[0]["ifindex"].clone();
        let within = |line: &str| {
            container.command(line);
        };
        let changes: [(&str, &dyn Fn()); 9] = [
            ("down inside", &|| within("ip link set eth0 down")),
            ("MTU inside", &|| within("ip link set eth0 mtu 1300")),
            ("MAC inside", &|| {
                within("ip link set eth0 address 02:00:00:00:00:01")
            }),
            ("address gone", &|| {
                within("ip addr del 10.0.9.2/24 dev eth0")
            }),
            ("addresses flushed", &|| within("ip addr flush dev eth0")),
            ("replaced by an equal address", &|| {
                within("ip addr flush dev eth0");
                within("ip addr add 10.0.9.2/24 dev eth0");
            }),
            ("down outside", &|| {
                command(&format!("ip link set {device} down"));
            }),
            ("MTU outside", &|| {
                command(&format!("ip link set {device} mtu 1300"));
            }),
            ("forwarding outside", &|| {
                command(&format!("sysctl -w net/ipv4/conf/{device}/forwarding=1"));
            }),
        ];
        for (name, change) in changes {
            change();
            assert_ne!(observed(&handle).await, wanted, "{name}");
            create(&handle, &wanted).await;
            assert_eq!(observed(&handle).await, wanted, "{name}");
        }
        assert_eq!(
            json(&format!("ip -j link show {device}"))[0]["ifindex"],
            index
        );
        within("ip addr add 192.168.5.5/24 dev eth0");
        assert_eq!(
            observed(&handle).await,
            wanted,
            "an address of the container's own is no drift"
        );
    });
}

fn route(to: &str, length: u8, via: Option<&str>) -> Route {
    Route {
        to: (to.parse().unwrap(), length),
        via: via.map(|via| via.parse().unwrap()),
    }
}

#[test]
fn routes_are_set_repaired_and_removed_and_those_of_others_stay() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let container = Namespace::new();
        let mut wanted = endpoint(container.reference());
        wanted.routes = [
            route("10.9.0.0", 16, Some("10.0.9.254")),
            route("10.8.0.0", 16, None),
            route("0.0.0.0", 0, Some("10.0.9.254")),
            route("fd00:99::", 32, Some("fd00:9::fe")),
            route("fd00:98::", 32, None),
            route("::", 0, Some("fd00:9::fe")),
        ]
        .into();
        let device = device();
        let shown = || {
            let [v4, v6] = ["-4", "-6"].map(|family| {
                let routes = container.command(&format!("ip {family} route show dev eth0"));
                let routes = routes.lines().filter(|line| !line.contains("proto kernel"));
                // Until a work queue has heard of the carrier.
                let words = |line: &'_ str| -> Vec<_> {
                    let words = line.split_whitespace();
                    words
                        .filter(|word| *word != "linkdown")
                        .map(str::to_owned)
                        .collect()
                };
                routes.map(|line| words(line).join(" ")).collect::<Vec<_>>()
            });
            [v4, v6].concat()
        };
        let (create, observe) = (
            async |wanted: &EndpointLink| endpoint_link::create(&handle, &device, wanted).await,
            async || endpoint_link::observe(&handle).await.unwrap()[&device].clone(),
        );
        create(&wanted).await.unwrap();
        assert_eq!(observe().await, wanted);
        assert_eq!(
            shown(),
            [
                "default via 10.0.9.254 proto 111",
                "10.8.0.0/16 proto 111 scope link",
                "10.9.0.0/16 via 10.0.9.254 proto 111",
                "fd00:98::/32 proto 111 metric 1024 pref medium",
                "fd00:99::/32 via fd00:9::fe proto 111 metric 1024 pref medium",
                "default via fd00:9::fe proto 111 metric 1024 pref medium",
            ]
        );

        for change in [
            "ip route del 10.9.0.0/16",
            "ip -6 route del default",
            "ip route flush dev eth0 proto 111",
            "ip addr flush dev eth0",
            "ip link set eth0 down",
        ] {
            container.command(change);
            assert_ne!(observe().await, wanted, "{change}");
            create(&wanted).await.unwrap();
            assert_eq!(observe().await, wanted, "{change}");
        }

        let foreign = [
            "10.7.0.0/16 via 10.0.9.253",
            "fd00:97::/32 via fd00:9::fd metric 1024 pref medium",
        ];
        for route in foreign {
            container.command(&format!(
                "ip route add {}",
                route.split(" pref").next().unwrap()
            ));
        }
        assert_eq!(observe().await, wanted, "a container's own is no drift");
        wanted.routes = [
            route("10.9.0.0", 16, Some("10.0.9.253")),
            route("fd00:98::", 32, None),
        ]
        .into();
        assert_ne!(observe().await, wanted);
        create(&wanted).await.unwrap();
        assert_eq!(observe().await, wanted);
        assert_eq!(
            shown(),
            [
                foreign[0],
                "10.9.0.0/16 via 10.0.9.253 proto 111",
                foreign[1],
                "fd00:98::/32 proto 111 metric 1024 pref medium",
            ]
        );

        let before = shown();
        for taken in [
            route("10.7.0.0", 16, None),
            route("fd00:97::", 32, Some("fd00:9::fe")),
        ] {
            let mut wanted = wanted.clone();
            wanted.routes.insert(taken);
            let refused = create(&wanted).await.unwrap_err();
            assert!(
                matches!(refused, Error::RouteTaken { route, .. } if route == taken),
                "{refused}"
            );
            assert_eq!(shown(), before);
        }
    });
}

#[test]
fn renamed_or_moved_interface_is_replaced() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let (container, elsewhere) = (Namespace::new(), Namespace::new());
        let wanted = endpoint(container.reference());
        create(&handle, &wanted).await;
        container.command("ip link set eth0 down");
        container.command("ip link set eth0 name eth7");
        assert_ne!(observed(&handle).await, wanted);
        create(&handle, &wanted).await;
        assert_eq!(observed(&handle).await, wanted);

        let NetnsRef::Path(path) = elsewhere.reference() else {
            unreachable!()
        };
        container.command(&format!("ip link set eth0 netns {}", path.display()));
        assert!(observed(&handle).await.altered.is_some());
        create(&handle, &wanted).await;
        assert_eq!(observed(&handle).await, wanted);
        assert!(!elsewhere.command("ip -o link").contains("eth0"));
    });
}

#[test]
fn end_of_the_namespace_ends_the_pair() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let container = Namespace::new();
        let wanted = endpoint(container.reference());
        create(&handle, &wanted).await;
        drop(container);
        for attempt in 0.. {
            if endpoint_link::observe(&handle).await.unwrap().is_empty() {
                break;
            }
            assert!(attempt < 50, "the host side is still there");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let refused = refusal(&handle, &wanted).await;
        assert!(matches!(refused, Error::Netns(_)), "{refused}");
        assert!(!command("ip -o link").contains("ovle"));
    });
}

#[test]
fn taken_names_are_refused_and_nothing_is_left() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let container = Namespace::new();
        let wanted = endpoint(container.reference());
        container.command("ip link add eth0 type bridge");
        let refused = refusal(&handle, &wanted).await;
        assert!(
            matches!(&refused, Error::InterfaceTaken { interface, .. } if interface == "eth0"),
            "{refused}"
        );
        assert!(!command("ip -o link").contains("ovle"));
        container.command("ip link del eth0");

        command(&format!("ip link add {} type bridge", device()));
        let refused = refusal(&handle, &wanted).await;
        assert!(matches!(refused, Error::DeviceTaken { .. }), "{refused}");
        assert!(!container.command("ip -o link").contains("eth0"));
        command(&format!("ip link del {}", device()));

        let mut bad = wanted;
        bad.addresses.insert(("0.0.0.0".parse().unwrap(), 99));
        refusal(&handle, &bad).await;
        assert!(!command("ip -o link").contains("ovle"));
        assert!(!container.command("ip -o link").contains("eth0"));
    });
}

#[test]
fn hosts_own_namespace_is_refused() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let own = NetnsRef::Path("/proc/thread-self/ns/net".into());
        let refused = refusal(&handle, &endpoint(own)).await;
        assert!(matches!(refused, Error::HostNetns { .. }), "{refused}");
    });
}

/// A process in a namespace of its own, ended on drop.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace with a name, removed on drop.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        let _ = attempt(&format!("ip netns del {}", self.0));
    }
}

#[test]
fn namespaces_are_found_by_pid_and_by_name() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let host = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let sleeper = Sleeper(
            Command::new("unshare")
                .args(["-n", "sleep", "60"])
                .spawn()
                .unwrap(),
        );
        let pid = sleeper.0.id();
        let elsewhere = || std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() != host;
        for _ in 0..3000 {
            if elsewhere() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(elsewhere(), "unshare is not done after 30 s");
        let name = format!("ovl-test-{}", std::process::id());
        command(&format!("ip netns add {name}"));
        let named = Named(name.clone());
        for netns in [NetnsRef::Pid(pid), NetnsRef::Name(name)] {
            let wanted = endpoint(netns);
            create(&handle, &wanted).await;
            assert_eq!(observed(&handle).await, wanted);
            endpoint_link::detach(&handle, &device()).await.unwrap();
        }
        drop((sleeper, named));
    });
}
