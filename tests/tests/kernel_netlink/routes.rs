//! Underlay routes and neighbours.

use std::{net::IpAddr, time::Duration};

use overlay_agent::{
    dataplane::objects::{Neighbour, UnderlayRoute},
    kernel::{neighbours, routes, rtnl::Handle},
};

use crate::namespace::{Namespace, attempt, command, inside, json};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `up0` with two addresses; its other end stands in the namespace that is returned.
fn underlay() -> Namespace {
    let other = Namespace::new();
    command("ip link set lo up");
    command("ip link add up0 mtu 9000 type veth peer name up1");
    let overlay_agent::dataplane::desired::NetnsRef::Path(path) = other.reference() else {
        unreachable!("namespaces of tests have paths");
    };
    command(&format!("ip link set up1 netns {}", path.display()));
    command("ip addr add 10.0.0.1/24 dev up0");
    command("ip addr add 2001:db8::1/64 dev up0 nodad");
    command("ip link set up0 up");
    other.command("ip addr add 10.0.0.2/24 dev up1");
    other.command("ip addr add 2001:db8::2/64 dev up1 nodad");
    other.command("ip link set up1 up");
    // The routes of IPv6 addresses come when a work queue has heard of the carrier.
    for _ in 0..300 {
        if command("ip -6 route show 2001:db8::/64").contains("up0") {
            return other;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("no route to 2001:db8::/64 after 30 s")
}

#[test]
fn connected_and_routed_vteps_resolve_with_next_hop_and_mtu() {
    inside(|| async {
        let _other = underlay();
        let handle = Handle::open().unwrap();
        command("ip route add 192.0.2.0/24 via 10.0.0.254 mtu 1400");
        command("ip route add 198.51.100.0/24 via inet6 2001:db8::ff dev up0");
        command("ip -6 route add 2001:db8:1::/64 via 2001:db8::ff mtu lock 1380");
        for (vtep, source, next_hop, mtu) in [
            ("10.0.0.2", "10.0.0.1", "10.0.0.2", 9000),
            ("192.0.2.7", "10.0.0.1", "10.0.0.254", 1400),
            ("198.51.100.7", "10.0.0.1", "2001:db8::ff", 9000),
            ("2001:db8::2", "2001:db8::1", "2001:db8::2", 9000),
            ("2001:db8:1::7", "2001:db8::1", "2001:db8::ff", 1380),
        ] {
            let route = routes::resolve(&handle, ip(vtep), ip(source))
                .await
                .unwrap();
            let expected = UnderlayRoute {
                device: "up0".into(),
                next_hop: ip(next_hop),
                mtu,
            };
            assert_eq!(route, expected, "{vtep}");
        }
    });
}

#[test]
fn vtep_without_a_usable_route_is_named() {
    inside(|| async {
        let _other = underlay();
        let handle = Handle::open().unwrap();
        command("ip route add prohibit 192.0.2.0/24");
        command("ip route add blackhole 198.51.100.0/24");
        command("ip -6 route add unreachable 2001:db8:2::/64");
        for (vtep, source) in [
            ("203.0.113.1", "10.0.0.1"),
            ("192.0.2.7", "10.0.0.1"),
            ("198.51.100.7", "10.0.0.1"),
            ("2001:db8:2::7", "2001:db8::1"),
            ("10.0.0.1", "10.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("10.0.0.2", "10.9.9.9"),
            ("10.0.0.2", "2001:db8::1"),
        ] {
            let refused = routes::resolve(&handle, ip(vtep), ip(source))
                .await
                .unwrap_err();
            assert!(refused.to_string().contains(vtep), "{refused}");
        }
    });
}

#[test]
fn neighbours_are_kept_resolved_and_those_of_others_left_alone() {
    inside(|| async {
        let other = underlay();
        let handle = Handle::open().unwrap();
        let wanted = ["10.0.0.2", "2001:db8::2"].map(|address| Neighbour {
            device: "up0".into(),
            address: ip(address),
        });
        let managed = attempt("ip neigh add 10.0.0.77 dev up0 managed")
            .status
            .success();
        assert!(managed, "this kernel has no managed neighbours");
        // Entries that traffic has made before.
        let _ = attempt("ping -c 1 -W 1 10.0.0.2");
        for neighbour in &wanted {
            neighbours::add(&handle, neighbour).await.unwrap();
            neighbours::add(&handle, neighbour).await.unwrap();
        }
        let observed = neighbours::observe(&handle).await.unwrap();
        assert_eq!(observed.into_iter().collect::<Vec<_>>(), wanted);

        let mac = other.json("ip -j link show up1")[0]["address"].clone();
        for attempt in 0.. {
            let resolutions = neighbours::resolutions(&handle).await.unwrap();
            if resolutions
                .iter()
                .all(|found| found.mac.is_some_and(|found| found.to_string() == mac))
            {
                break;
            }
            assert!(attempt < 50, "{resolutions:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let shown = json("ip -j neigh show 10.0.0.2 dev up0");
        assert!(shown[0].get("managed").is_some(), "{shown}");

        for neighbour in &wanted {
            neighbours::remove(&handle, neighbour).await.unwrap();
            neighbours::remove(&handle, neighbour).await.unwrap();
        }
        assert!(neighbours::observe(&handle).await.unwrap().is_empty());
        assert_ne!(
            json("ip -j neigh show 10.0.0.77 dev up0"),
            serde_json::json!([])
        );
        command("ip link del up0");
        neighbours::remove(&handle, &wanted[0]).await.unwrap();
    });
}
