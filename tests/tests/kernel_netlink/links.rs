//! Devices, addresses, sysctls.

use std::net::UdpSocket;

use overlay_agent::{
    dataplane::objects::{DeviceAddress, GRO, HOP, Link, REENTRY, XFRM},
    kernel::{
        addresses,
        links::{self, Error},
        rtnl::Handle,
        sysctl,
    },
};

use crate::namespace::{attempt, command, inside, is_up, json};

fn hop() -> Link {
    Link::Veth {
        peer: REENTRY.into(),
        mtu: 65535,
        segments_ipv6: false,
    }
}

#[test]
fn hop_segments_ipv6_where_asked_and_is_changed_in_place() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        links::create(&handle, HOP, &hop()).await.unwrap();
        let index = links::index(&handle, HOP).await.unwrap();
        let segmenting = Link::Veth {
            peer: REENTRY.into(),
            mtu: 65535,
            segments_ipv6: true,
        };
        for link in [&segmenting, &hop()] {
            links::create(&handle, HOP, link).await.unwrap();
            assert_eq!(links::observe(&handle).await.unwrap().get(HOP), Some(link));
        }
        assert_eq!(links::index(&handle, HOP).await.unwrap(), index);
    });
}

#[test]
fn hop_pair_is_up_without_addresses_and_created_once() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        assert!(links::observe(&handle).await.unwrap().is_empty());
        links::create(&handle, HOP, &hop()).await.unwrap();
        let index = links::index(&handle, HOP).await.unwrap();
        links::create(&handle, HOP, &hop()).await.unwrap();
        assert_eq!(links::index(&handle, HOP).await.unwrap(), index);
        let observed = links::observe(&handle).await.unwrap();
        assert_eq!(
            observed.into_iter().collect::<Vec<_>>(),
            [(HOP.into(), hop())]
        );
        for name in [HOP, REENTRY] {
            let device = &json(&format!("ip -j -d link show {name}"))[0];
            assert_eq!(device["mtu"], 65535);
            assert!(is_up(device), "{device}");
            assert_eq!(device["linkinfo"]["info_kind"], "veth");
            assert_eq!(device["inet6_addr_gen_mode"], "none");
            assert_eq!(command(&format!("ip -o addr show {name}")), "");
        }
        let mac = links::mac(&handle, REENTRY).await.unwrap().to_string();
        assert_eq!(json("ip -j link show ovl-in")[0]["address"], mac);
        assert_eq!(
            links::name_of(&handle, index).await.unwrap().as_deref(),
            Some(HOP)
        );
        assert_eq!(links::name_of(&handle, 99_999).await.unwrap(), None);

        links::delete(&handle, HOP).await.unwrap();
        links::delete(&handle, HOP).await.unwrap();
        assert!(links::observe(&handle).await.unwrap().is_empty());
        assert!(matches!(
            links::index(&handle, HOP).await,
            Err(Error::Missing(_))
        ));
    });
}

#[test]
fn changed_hop_pair_is_seen_and_repaired_in_place() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        links::create(&handle, HOP, &hop()).await.unwrap();
        let index = links::index(&handle, HOP).await.unwrap();
        command("ip link add br0 type bridge");
        for change in [
            "ip link set ovl-hop down",
            "ip link set ovl-in down",
            "ip link set ovl-in addrgenmode eui64",
            "ip link set ovl-hop mtu 1500",
            "ip link set ovl-hop master br0",
        ] {
            command(change);
            let observed = links::observe(&handle).await.unwrap();
            assert_ne!(observed[HOP], hop(), "{change}");
            links::create(&handle, HOP, &hop()).await.unwrap();
            assert_eq!(
                links::observe(&handle).await.unwrap()[HOP],
                hop(),
                "{change}"
            );
        }
        assert_eq!(links::index(&handle, HOP).await.unwrap(), index);
    });
}

#[test]
fn hop_pair_keeps_tunnel_segmentation() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        links::create(&handle, HOP, &hop()).await.unwrap();
        if attempt("ethtool --version").status.success() {
            let features = command("ethtool -k ovl-hop");
            assert!(
                features.contains("tx-udp_tnl-segmentation: on"),
                "{features}"
            );
        } else {
            println!("ethtool is missing: offloads are left to the GSO tests on the wire");
        }
        assert_eq!(json("ip -j -d link show ovl-hop")[0]["gso_max_size"], 65536);
    });
}

#[test]
fn device_of_another_with_our_name_is_refused_by_name() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        command("ip link add ovl-hop type bridge");
        let refused = links::create(&handle, HOP, &hop()).await.unwrap_err();
        assert!(matches!(&refused, Error::Foreign { name, .. } if name == HOP));
        assert!(refused.to_string().contains("a bridge device"), "{refused}");
        command("ip link del ovl-hop");
        command("ip link add ovl-in type veth peer name other");
        assert!(matches!(
            links::observe(&handle).await,
            Err(Error::Foreign { name, .. }) if name == REENTRY
        ));
    });
}

#[test]
fn gro_device_takes_the_port_for_both_families() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let wanted = Link::VxlanExternal { port: 4790 };
        links::create(&handle, GRO, &wanted).await.unwrap();
        assert_eq!(links::observe(&handle).await.unwrap()[GRO], wanted);
        let device = &json("ip -j -d link show ovl-gro")[0];
        let data = &device["linkinfo"]["info_data"];
        assert_eq!(data["port"], 4790);
        assert_eq!(data["external"], true);
        assert_eq!(data["udp_zero_csum6_rx"], true);
        assert_eq!(data["learning"], false);
        assert_eq!(device["inet6_addr_gen_mode"], "none");
        for socket in ["0.0.0.0:4790", "[::]:4790"] {
            assert!(UdpSocket::bind(socket).is_err(), "{socket} is free");
        }
        let other_port = Link::VxlanExternal { port: 4791 };
        links::create(&handle, GRO, &other_port).await.unwrap();
        assert_eq!(links::observe(&handle).await.unwrap()[GRO], other_port);
        assert!(UdpSocket::bind("0.0.0.0:4790").is_ok());
    });
}

#[test]
fn other_user_of_the_port_is_named() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let wanted = Link::VxlanExternal { port: 4789 };
        command("ip link add flannel.1 type vxlan id 1 dstport 4789");
        let refused = links::create(&handle, GRO, &wanted).await.unwrap_err();
        assert!(refused.to_string().contains("flannel.1"), "{refused}");
        assert!(matches!(refused, Error::PortTaken { .. }));
        command("ip link del flannel.1");
        let socket = UdpSocket::bind("0.0.0.0:4789").unwrap();
        let refused = links::create(&handle, GRO, &wanted).await.unwrap_err();
        assert!(
            matches!(refused, Error::PortBound { port: 4789 }),
            "{refused}"
        );
        drop(socket);
        links::create(&handle, GRO, &wanted).await.unwrap();
        assert_eq!(links::observe(&handle).await.unwrap()[GRO], wanted);
    });
}

#[test]
fn xfrm_interface_has_the_if_id() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        let wanted = Link::Xfrm {
            if_id: 0x6f766c,
            mtu: 65535,
        };
        match links::create(&handle, XFRM, &wanted).await {
            Err(Error::Netlink(error)) if error.errno() == Some(libc::EOPNOTSUPP) => {
                println!("this kernel has no xfrm interfaces: only the refusal is tested: {error}");
                assert!(error.to_string().contains("lacks"), "{error}");
                return;
            }
            created => created.unwrap(),
        }
        assert_eq!(links::observe(&handle).await.unwrap()[XFRM], wanted);
        let device = &json("ip -j -d link show ovl-xfrm")[0];
        assert_eq!(device["linkinfo"]["info_data"]["if_id"], "0x6f766c");
        assert_eq!(device["mtu"], 65535);
        assert_eq!(device["inet6_addr_gen_mode"], "none");
        let other = Link::Xfrm {
            if_id: 5,
            mtu: 9000,
        };
        links::create(&handle, XFRM, &other).await.unwrap();
        assert_eq!(links::observe(&handle).await.unwrap()[XFRM], other);
        links::delete(&handle, XFRM).await.unwrap();
        assert!(links::observe(&handle).await.unwrap().is_empty());
    });
}

#[test]
fn underlay_candidates_are_all_but_loopback_and_ours() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        links::create(&handle, HOP, &hop()).await.unwrap();
        command("ip link add up0 type veth peer name up1");
        command("ip link add ovle0123456789 type veth peer name c0");
        command("ip link add ovle-bridge type bridge");
        let found: Vec<_> = links::underlay_candidates(&handle)
            .await
            .unwrap()
            .into_keys()
            .collect();
        assert_eq!(found, ["c0", "ovle-bridge", "up0", "up1"]);
    });
}

#[test]
fn host_address_is_added_observed_and_removed() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        links::create(&handle, HOP, &hop()).await.unwrap();
        let address = DeviceAddress {
            device: REENTRY.into(),
            address: "192.0.0.8".parse().unwrap(),
            prefix_length: 32,
        };
        for _ in 0..2 {
            addresses::add(&handle, &address).await.unwrap();
        }
        command("ip addr add 192.0.2.1/32 dev ovl-in");
        let observed = addresses::observe(&handle, &links::all(&handle).await.unwrap())
            .await
            .unwrap();
        assert_eq!(observed, [address.clone()].into());
        let shown = command("ip -o addr show ovl-in to 192.0.0.8");
        assert!(shown.contains("192.0.0.8/32 scope host"), "{shown}");
        let holder = addresses::holder_of(&handle, address.address)
            .await
            .unwrap();
        assert_eq!(holder.unwrap().device, REENTRY);
        for _ in 0..2 {
            addresses::remove(&handle, &address).await.unwrap();
        }
        assert!(
            addresses::observe(&handle, &links::all(&handle).await.unwrap())
                .await
                .unwrap()
                .is_empty()
        );
        links::delete(&handle, HOP).await.unwrap();
        addresses::remove(&handle, &address).await.unwrap();
        assert!(
            addresses::holder_of(&handle, address.address)
                .await
                .unwrap()
                .is_none()
        );
    });
}

#[test]
fn sysctls_are_of_the_calling_threads_namespace() {
    inside(|| async {
        let handle = Handle::open().unwrap();
        links::create(&handle, HOP, &hop()).await.unwrap();
        let name = "net/ipv4/conf/ovl-in/accept_local";
        assert_eq!(sysctl::read(name).unwrap().as_deref(), Some("0"));
        sysctl::write(name, "1").unwrap();
        assert_eq!(sysctl::observe([name]).unwrap()[name], "1");
        assert_eq!(
            command("sysctl -n net/ipv4/conf/ovl-in/accept_local").trim(),
            "1"
        );
        let missing = sysctl::write("net/ipv4/conf/gone/accept_local", "1").unwrap_err();
        assert!(missing.to_string().contains("no such device"), "{missing}");
    });
}
