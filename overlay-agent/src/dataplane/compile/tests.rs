use std::collections::BTreeSet;

use overlay_ebpf::abi::{self, ConfigFlags, NetworkFlags, VtepRole, network::FLOOD_TARGETS_MAX};

use super::*;
use crate::dataplane::{
    desired::{Direction, Route, XdpMode},
    endpoint_name::host_device_name,
    guard::block_policy_key,
    objects::{
        Attachment, Conflict, EndpointEntry, FloodEntry, HOP, Link, PolicyAction, Program,
        StateMode, XFRM,
    },
    problem::Subject,
    testing::*,
    validate::Invalid,
};

fn compiled(desired: &DataPlane) -> Compiled {
    compile(desired, &facts(desired)).unwrap()
}

fn blue() -> abi::NetworkKey {
    abi::NetworkKey { vni: 4096 }
}

fn lanes(compiled: &Compiled, peer: u32) -> Option<u8> {
    let entry = compiled.objects.maps.peers.get(&abi::PeerKey { peer })?;
    Some(entry.tx.lanes)
}

fn attached(compiled: &Compiled, program: Program) -> BTreeSet<&str> {
    compiled
        .objects
        .attachments
        .iter()
        .filter(|a| a.program == program)
        .map(|a| a.device.as_str())
        .collect()
}

fn closes(compiled: &Compiled, words: &str) -> bool {
    compiled.problems.iter().any(|problem| {
        problem.closes && problem.reason.contains(words) && !problem.remedy.is_empty()
    })
}

#[test]
fn of_an_endpoint_without_a_namespace_nothing_is_wanted() {
    let desired = example();
    let endpoint = &desired.local_endpoints[0];
    let device = host_device_name(endpoint.vni, endpoint.mac);
    let mut facts = facts(&desired);
    let whole = compile(&desired, &facts).unwrap().objects;
    facts.gone.insert(device.clone());
    let compiled = compile(&desired, &facts).unwrap();
    assert!(closes(&compiled, "network namespace is not there"));
    let Objects {
        endpoints,
        attachments,
        maps,
        ..
    } = &compiled.objects;
    assert!(!endpoints.contains_key(&device));
    assert!(attachments.iter().all(|a| a.device != device));
    assert!(!maps.local_ports.contains_key(&device));
    assert_eq!(maps.endpoints.len(), whole.maps.endpoints.len() - 1);
    assert!(maps.addresses.len() < whole.maps.addresses.len());
}

#[test]
fn example_compiles_without_a_problem() {
    let compiled = compiled(&example());
    assert_eq!(compiled.problems, []);
    let objects = &compiled.objects;
    let network = objects.maps.networks[&blue()];
    assert_eq!(
        (network.flags, network.mtu),
        (NetworkFlags::ENCRYPTED, 1416)
    );
    let plain = objects.maps.networks[&abi::NetworkKey { vni: 4097 }];
    assert_eq!((plain.flags, plain.mtu), (0, 1450));
    // Two lanes, both directions, only with the peer that shares the encrypted network.
    assert_eq!(objects.states.len(), 4);
    assert_eq!(objects.maps.sas.len(), 4);
    assert_eq!(objects.policies.len(), 2 + 1);
    assert_eq!(lanes(&compiled, 2), Some(2));
    assert_eq!(lanes(&compiled, 3), Some(0));
    // Both share the plain network.
    assert_eq!(objects.neighbours.len(), 2);
    assert_eq!(objects.maps.vteps.len(), 3);
    let own = objects
        .maps
        .vteps
        .values()
        .find(|vtep| vtep.role == VtepRole::Local);
    assert_eq!(own.map(|vtep| vtep.peer), Some(1));
    assert_eq!(
        attached(&compiled, Program::UnderlayAudit),
        ["eth0", "eth1"].into()
    );
    assert_eq!(attached(&compiled, Program::UnderlayRx), ["eth0"].into());
    assert_eq!(attached(&compiled, Program::DecryptedRx), [XFRM].into());
    assert_eq!(attached(&compiled, Program::EndpointTx).len(), 2);
    assert!(attached(&compiled, Program::Sink).contains(HOP));
}

#[test]
fn each_policy_selects_one_mark_and_names_one_sa() {
    let desired = example();
    let compiled = compiled(&desired);
    let local = desired.node.vteps[0];
    let block = &compiled.objects.policies[&block_policy_key(local, 4789)];
    assert_eq!(block.action, PolicyAction::Block);
    for (key, policy) in &compiled.objects.policies {
        let PolicyAction::Encrypt { spi, .. } = policy.action else {
            continue;
        };
        assert!(
            policy.priority < block.priority,
            "the smaller matches first"
        );
        assert_eq!(
            key.mark,
            desired
                .settings
                .mark
                .mark(spi.slot().get(), spi.lane().get())
        );
        assert_eq!(key.mark_mask, desired.settings.mark.mask);
        assert_eq!(spi.sender().unwrap(), desired.node.index);
    }
    for (key, state) in &compiled.objects.states {
        let outbound = key.source == local;
        assert_eq!(outbound, state.mode == StateMode::Transport);
    }
}

#[test]
fn installed_slots_keep_their_policies_beside_the_one_in_use() {
    let mut desired = example();
    desired.peers.insert(index(2), peer(2, &[0, 1], 2, Some(1)));
    let compiled = compiled(&desired);
    assert_eq!(compiled.objects.policies.len(), 4 + 1);
    let entry = &compiled.objects.maps.peers[&abi::PeerKey { peer: 2 }];
    assert_eq!((entry.tx.slot, entry.tx.lanes, entry.tx.epoch), (1, 2, 1));
}

#[test]
fn kernel_without_esp_keeps_encrypted_networks_closed_and_plain_ones_open() {
    let desired = example();
    let mut facts = facts(&desired);
    facts.features.ipsec = false;
    let compiled = compile(&desired, &facts).unwrap();
    assert!(!compiled.objects.maps.networks.contains_key(&blue()));
    assert_eq!(compiled.objects.maps.networks.len(), 1);
    assert!(compiled.objects.states.is_empty());
    assert_eq!(lanes(&compiled, 2), Some(0));
    assert!(closes(&compiled, "cannot do IPsec"));
    // The barriers stand all the same.
    assert_eq!(compiled.objects.policies.len(), 1);
    assert_eq!(attached(&compiled, Program::UnderlayAudit).len(), 2);
}

#[test]
fn device_without_a_link_layer_carries_encrypted_networks_only() {
    let desired = example();
    let mut facts = facts(&desired);
    let whole = compile(&desired, &facts).unwrap();
    facts.layer3.insert("eth0".into());
    let compiled = compile(&desired, &facts).unwrap();
    assert_eq!(
        attached(&compiled, Program::UnderlayAuditL3),
        ["eth0"].into()
    );
    assert_eq!(attached(&compiled, Program::UnderlayAudit), ["eth1"].into());
    assert!(attached(&compiled, Program::UnderlayRx).is_empty());
    assert!(closes(&compiled, "carries no Ethernet frames"));
    assert!(compiled.objects.neighbours.is_empty());
    assert_eq!(lanes(&compiled, 2), Some(2));
    // Nothing leads to what the peers host in the plain network, and nothing comes from it.
    let remote = |compiled: &Compiled, vni| {
        let endpoints = compiled.objects.maps.endpoints.iter();
        endpoints
            .filter(|(key, entry)| key.vni == vni && matches!(entry, EndpointEntry::Remote { .. }))
            .count()
    };
    assert_eq!((remote(&whole, 4096), remote(&whole, 4097)), (1, 2));
    assert_eq!((remote(&compiled, 4096), remote(&compiled, 4097)), (1, 0));
}

#[test]
fn device_that_cannot_be_audited_closes_the_peers_behind_it() {
    let desired = example();
    let mut facts = facts(&desired);
    facts.unreadable.insert("eth0".into(), "INFINIBAND".into());
    let compiled = compile(&desired, &facts).unwrap();
    assert_eq!(lanes(&compiled, 2), Some(0));
    assert!(closes(&compiled, "INFINIBAND header"));
    assert!(closes(&compiled, "carries no Ethernet frames"));
    assert_eq!(attached(&compiled, Program::UnderlayAudit).len(), 2);
}

#[test]
fn missing_firewall_tool_closes_encrypted_networks() {
    let desired = example();
    let mut facts = facts(&desired);
    facts.features.nft = false;
    let compiled = compile(&desired, &facts).unwrap();
    assert!(!compiled.objects.maps.networks.contains_key(&blue()));
    assert_eq!(compiled.objects.firewall, None);
    assert!(closes(&compiled, "`nft` command is missing"));
}

#[test]
fn peer_without_a_route_has_no_entry() {
    let desired = example();
    let mut facts = facts(&desired);
    facts.routes.remove(&desired.peers[&index(2)].vtep);
    let compiled = compile(&desired, &facts).unwrap();
    assert_eq!(lanes(&compiled, 2), None);
    assert_eq!(lanes(&compiled, 3), Some(0));
    assert!(closes(&compiled, "no route to its VTEP 192.0.2.2"));
}

#[test]
fn vtep_on_no_device_closes_its_peers_and_keeps_the_endpoints() {
    let desired = example();
    let mut facts = facts(&desired);
    facts.vteps.clear();
    let compiled = compile(&desired, &facts).unwrap();
    assert!(compiled.objects.maps.peers.is_empty());
    assert!(compiled.objects.maps.networks.is_empty());
    assert_eq!(compiled.objects.endpoints.len(), 2);
    assert!(closes(&compiled, "VTEP 192.0.2.1 is on no device"));
}

#[test]
fn peer_without_transmit_slot_is_closed_and_still_heard() {
    let mut desired = example();
    desired.peers.get_mut(&index(2)).unwrap().transmit = None;
    let compiled = compiled(&desired);
    assert_eq!(lanes(&compiled, 2), Some(0));
    assert_eq!(compiled.objects.states.len(), 4);
    assert!(closes(&compiled, "no transmit slot"));
}

#[test]
fn host_settings_that_break_or_bypass_ipsec_close_the_peers() {
    let desired = example();
    let mut strict = facts(&desired);
    strict.rp_filter_all = 1;
    let compiled = compile(&desired, &strict).unwrap();
    assert_eq!(lanes(&compiled, 2), Some(0));
    assert!(closes(&compiled, "all.rp_filter = 1"));

    let mut bypass = facts(&desired);
    bypass.disable_xfrm.insert("eth0".into());
    let compiled = compile(&desired, &bypass).unwrap();
    assert_eq!(lanes(&compiled, 2), Some(0));
    assert!(closes(&compiled, "disable_xfrm"));

    let mut foreign = facts(&desired);
    foreign.conflicts.push(Conflict {
        opens: true,
        object: "policy out".into(),
        effect: "matches first".into(),
    });
    let compiled = compile(&desired, &foreign).unwrap();
    assert!(!compiled.objects.maps.networks.contains_key(&blue()));
    assert!(closes(&compiled, "policies of other software"));
}

#[test]
fn loose_filtering_for_all_devices_gives_the_reentry_device_an_address() {
    let desired = example();
    let mut facts = facts(&desired);
    facts.rp_filter_all = 2;
    let compiled = compile(&desired, &facts).unwrap();
    assert_eq!(compiled.objects.addresses.len(), 1);
    assert_eq!(lanes(&compiled, 2), Some(2));
}

#[test]
fn ipv6_vteps_forward_globally_and_keep_router_advertisements() {
    let mut desired = example();
    desired.node.vteps.push("2001:db8::1".parse().unwrap());
    desired.peers.get_mut(&index(2)).unwrap().vtep = "2001:db8::2".parse().unwrap();
    let mut facts = facts(&desired);
    let sysctls = |facts: &UnderlayFacts| compile(&desired, facts).unwrap().objects.sysctls;
    let set = sysctls(&facts);
    assert_eq!(set["net/ipv6/conf/all/forwarding"], "1");
    assert_eq!(set["net/ipv6/conf/eth0/accept_ra"], "2");
    assert!(!set.contains_key("net/ipv4/ip_forward"));
    facts.features.force_forwarding = true;
    let set = sysctls(&facts);
    assert_eq!(set["net/ipv6/conf/ovl-in/force_forwarding"], "1");
    assert!(!set.contains_key("net/ipv6/conf/all/forwarding"));
    let mtu = compile(&desired, &facts).unwrap().objects.maps.networks[&blue()].mtu;
    assert_eq!(mtu, 1396);
}

#[test]
fn routes_reach_the_endpoint_and_go_with_the_family_that_the_mtu_takes() {
    let mut desired = example();
    let endpoint = &mut desired.local_endpoints[0];
    endpoint.addresses.push(("fd00::1".parse().unwrap(), 64));
    let to = |to: &str| Route {
        to: (to.parse().unwrap(), 32),
        via: None,
    };
    endpoint.routes = vec![to("10.9.0.1"), to("fd00:9::")];
    let routes = |desired: &DataPlane| {
        let endpoints = compiled(desired).objects.endpoints;
        let mut routes = endpoints.into_values().flat_map(|link| link.routes);
        (routes.next(), routes.next(), routes.next())
    };
    assert_eq!(
        routes(&desired),
        (Some(to("10.9.0.1")), Some(to("fd00:9::")), None)
    );
    desired.networks.get_mut(&vni(4096)).unwrap().mtu = Some(1000);
    assert_eq!(routes(&desired), (Some(to("10.9.0.1")), None, None));
}

#[test]
fn a_derived_mtu_is_lowered_to_the_limit_and_one_that_was_chosen_is_not() {
    let mtu = |chosen: Option<u32>, at_most: Option<u32>| {
        let mut desired = example();
        let network = desired.networks.get_mut(&vni(4096)).unwrap();
        (network.mtu, network.mtu_at_most) = (chosen, at_most);
        compiled(&desired).objects.maps.networks[&blue()].mtu
    };
    assert_eq!(mtu(None, None), 1416);
    assert_eq!(mtu(None, Some(1400)), 1400);
    assert_eq!(mtu(None, Some(1500)), 1416);
    assert_eq!(mtu(Some(1410), Some(1400)), 1410);
}

#[test]
fn flood_lists_are_dense_and_local_first() {
    let mut desired = example();
    desired.networks.get_mut(&vni(4097)).unwrap().replicate = true;
    remotes(&mut desired).push(remote(4097, 3, 9));
    let compiled = compiled(&desired);
    let list: Vec<&FloodEntry> = compiled.objects.maps.flood_lists.values().collect();
    assert!(matches!(list[0], FloodEntry::Local { .. }));
    assert_eq!(
        list[1..],
        [
            &FloodEntry::Remote { peer: 2 },
            &FloodEntry::Remote { peer: 3 }
        ]
    );
    for (position, key) in (0..).zip(compiled.objects.maps.flood_lists.keys()) {
        assert_eq!(key.position, position);
    }
    let members = compiled.objects.maps.memberships[&abi::MembershipKey { vni: 4097, peer: 3 }];
    assert_eq!(members.endpoints, 2);
}

#[test]
fn network_with_too_many_flood_targets_stays_closed() {
    let mut desired = example();
    desired.networks.get_mut(&vni(4097)).unwrap().replicate = true;
    for host in 0..=FLOOD_TARGETS_MAX {
        let mut endpoint = local(4097, 100 + host as u8);
        endpoint.interface = format!("many{host}");
        desired.local_endpoints.push(endpoint);
    }
    let compiled = compiled(&desired);
    assert!(
        !compiled
            .objects
            .maps
            .networks
            .contains_key(&abi::NetworkKey { vni: 4097 })
    );
    assert!(compiled.objects.maps.networks.contains_key(&blue()));
    assert!(closes(&compiled, "at most 64"));
}

#[test]
fn manual_mtu_too_large_closes_the_network_with_the_arithmetic() {
    let mut desired = example();
    desired.networks.get_mut(&vni(4096)).unwrap().mtu = Some(1417);
    let compiled = compiled(&desired);
    assert!(!compiled.objects.maps.networks.contains_key(&blue()));
    assert!(closes(&compiled, "1500 − 20 (outer IP)"));
    assert!(
        compiled
            .objects
            .endpoints
            .values()
            .all(|link| link.mtu <= 1450)
    );
}

#[test]
fn below_the_least_mtu_of_ipv6_endpoints_have_no_ipv6_addresses_and_it_is_told() {
    let mut desired = example();
    let ipv6 = ("fd00::1".parse().unwrap(), 64);
    desired.local_endpoints[0].addresses.push(ipv6);
    let device = host_device_name(
        desired.local_endpoints[0].vni,
        desired.local_endpoints[0].mac,
    );
    for (least, told) in [(1280, false), (1279, true)] {
        let network = desired.networks.values_mut();
        network.for_each(|network| network.mtu = Some(least));
        let compiled = compiled(&desired);
        let addresses = &compiled.objects.endpoints[&device].addresses;
        assert_eq!(addresses.contains(&ipv6), !told);
        assert!(!addresses.is_empty());
        let problem = |problem: &Problem| problem.reason.contains("no IPv6 addresses");
        assert_eq!(compiled.problems.iter().any(problem), told);
    }
}

#[test]
fn xdp_is_attached_as_the_setting_says() {
    let mut desired = example();
    let mut facts = facts(&desired);
    let programs = |desired: &DataPlane, facts: &UnderlayFacts| {
        let compiled = compile(desired, facts).unwrap();
        let native = Attachment {
            program: Program::UnderlayRxXdpNative,
            device: "eth0".into(),
        };
        let generic = Attachment {
            program: Program::UnderlayRxXdpGeneric,
            device: "eth0".into(),
        };
        let flags = compiled.objects.maps.config.unwrap().flags;
        let attachments = &compiled.objects.attachments;
        assert_eq!(
            attachments.contains(&native),
            flags & ConfigFlags::XDP_DECAP != 0
        );
        (
            attachments.contains(&native),
            attachments.contains(&generic),
        )
    };
    assert_eq!(programs(&desired, &facts), (false, false));
    facts.native_xdp.insert("eth0".into());
    assert_eq!(programs(&desired, &facts), (true, false));
    desired.settings.xdp = XdpMode::Off;
    assert_eq!(programs(&desired, &facts), (false, false));
    desired.settings.xdp = XdpMode::Generic;
    assert_eq!(programs(&desired, &facts), (false, true));
}

#[test]
fn map_too_small_is_an_error_that_names_map_and_setting() {
    let mut desired = example();
    desired.settings.map_sizes.endpoints = 2;
    let errors = compile(&desired, &facts(&desired)).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "settings: map endpoints would need 5 entries and holds 2: raise map_sizes.endpoints"
    );
}

#[test]
fn marks_of_other_software_are_warned_of() {
    let mut desired = example();
    desired.settings.mark.mask |= 0x4f00;
    let compiled = compiled(&desired);
    let warnings: Vec<&str> = compiled
        .problems
        .iter()
        .filter(|problem| !problem.closes && problem.subject == Subject::Node)
        .map(|problem| problem.reason.as_str())
        .collect();
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].contains("kube-proxy") && warnings[1].contains("Cilium"));
}

#[test]
fn links_carry_the_settings() {
    let mut desired = example();
    desired.settings.if_id = 5;
    let compiled = compiled(&desired);
    assert!(matches!(
        compiled.objects.links[XFRM],
        Link::Xfrm { if_id: 5, .. }
    ));
    assert!(
        compiled
            .objects
            .states
            .values()
            .any(|s| s.mode == StateMode::Beet { if_id: 5 })
    );
}

#[test]
fn esp_in_udp_gives_each_outbound_sa_a_port_and_costs_eight_bytes() {
    let mut desired = example();
    desired.settings.esp_in_udp_port = Some(4500);
    let compiled = compiled(&desired);
    assert_eq!(compiled.problems, []);
    let objects = &compiled.objects;
    assert_eq!(objects.maps.networks[&blue()].mtu, 1408);
    assert_eq!(
        objects.maps.networks[&abi::NetworkKey { vni: 4097 }].mtu,
        1450
    );
    let config = objects.maps.config.unwrap();
    assert_eq!((config.port, config.esp_in_udp_port), (4789, 4500));
    let firewall = objects.firewall.as_ref().unwrap();
    assert_eq!(
        (firewall.port, firewall.esp_in_udp_port),
        (4789, Some(4500))
    );
    let mut ports = BTreeSet::new();
    for state in objects.states.values() {
        match (state.mode, state.encap) {
            (StateMode::Transport, Some(encap)) => {
                assert_eq!(encap.destination_port, 4500);
                assert!(ports.insert(encap.source_port), "{encap:?}");
            }
            (StateMode::Beet { .. }, None) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ports.len(), 2);
}

#[test]
fn esp_in_udp_needs_an_ethernet_device() {
    let mut desired = example();
    let mut facts = facts(&desired);
    facts.layer3.insert("eth0".into());
    assert_eq!(lanes(&compile(&desired, &facts).unwrap(), 2), Some(2));
    desired.settings.esp_in_udp_port = Some(4500);
    let compiled = compile(&desired, &facts).unwrap();
    assert_eq!(lanes(&compiled, 2), Some(0));
    assert!(closes(&compiled, "has no Ethernet header"));
}

#[test]
fn other_software_on_the_port_of_esp_in_udp_is_named() {
    let mut desired = example();
    let mut facts = facts(&desired);
    facts.esp_in_udp_sockets = ["0.0.0.0".parse().unwrap()].into();
    assert_eq!(compile(&desired, &facts).unwrap().problems, []);
    desired.settings.esp_in_udp_port = Some(4500);
    let problems = compile(&desired, &facts).unwrap().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].reason.contains("0.0.0.0:4500"), "{problems:?}");
    assert!(!problems[0].closes);
}

#[test]
fn contradictions_are_refused_by_name() {
    type Spoil = fn(&mut DataPlane);
    fn route(to: &str, length: u8, via: Option<&str>) -> Route {
        Route {
            to: (to.parse().unwrap(), length),
            via: via.map(|via| via.parse().unwrap()),
        }
    }
    let cases: [(&str, Spoil); 27] = [
        ("own", |d| {
            let mut peer = d.peers.remove(&index(3)).unwrap();
            peer.index = index(1);
            remotes(d).retain(|e| e.peer != index(3));
            d.peers.insert(index(1), peer);
        }),
        ("address of its own", |d| {
            d.peers.get_mut(&index(3)).unwrap().vtep = "192.0.2.2".parse().unwrap();
        }),
        ("no IPv6 VTEP", |d| {
            d.peers.get_mut(&index(3)).unwrap().vtep = "2001:db8::3".parse().unwrap();
        }),
        ("at most one IPv4", |d| {
            d.node.vteps.push("192.0.2.9".parse().unwrap())
        }),
        ("cannot be a VTEP", |d| {
            d.node.vteps[0] = "127.0.0.1".parse().unwrap()
        }),
        ("belongs to endpoint local4096-1 and to", |d| {
            remotes(d)[0].mac = d.local_endpoints[0].mac;
        }),
        ("address 10.0.0.1 belongs to", |d| {
            remotes(d)[0].addresses = ["10.0.0.1".parse().unwrap()].into();
        }),
        ("there is no network with VNI 5000", |d| {
            remotes(d)[0].vni = vni(5000)
        }),
        ("there is no peer 9", |d| remotes(d)[0].peer = index(9)),
        ("no outbound SA for lane 1", |d| {
            d.peers
                .get_mut(&index(2))
                .unwrap()
                .sas
                .retain(|sa| sa.direction == Direction::In || sa.lane.get() == 0);
        }),
        ("used by epochs 0 and 7", |d| {
            d.peers.get_mut(&index(2)).unwrap().sas[3].epoch = abi::Epoch::new(7);
        }),
        ("they would share SPI", |d| {
            let peer = d.peers.get_mut(&index(2)).unwrap();
            peer.sas.push(sa(Direction::In, 2, 0, 0, 5));
        }),
        ("repeats nonces", |d| {
            let peer = d.peers.get_mut(&index(2)).unwrap();
            peer.sas[1].keying = peer.sas[0].keying.clone();
        }),
        ("do not fit", |d| d.settings.mark.shift = 0),
        ("on which VXLAN comes in", |d| {
            d.settings.esp_in_udp_port = Some(d.settings.port)
        }),
        ("for a VXLAN header", |d| {
            d.node.index = index(0x8000);
            d.settings.esp_in_udp_port = Some(4500);
        }),
        ("must be below block_priority", |d| {
            d.settings.policy_priority = u32::MAX
        }),
        ("is no interface name", |d| {
            d.local_endpoints[0].interface = "a/b".into()
        }),
        ("a group address", |d| {
            d.local_endpoints[0].mac = abi::MacAddr([1, 0, 0, 0, 0, 1])
        }),
        ("prefix length 33 is above 32", |d| {
            d.local_endpoints[0].routes = vec![route("10.9.0.0", 33, None)]
        }),
        ("write 10.9.0.0/16", |d| {
            d.local_endpoints[0].routes = vec![route("10.9.1.0", 16, None)]
        }),
        ("the other family", |d| {
            d.local_endpoints[0].routes = vec![route("10.9.0.0", 16, Some("fd00::1"))]
        }),
        ("no IPv6 address", |d| {
            d.local_endpoints[0].routes = vec![route("fd00:9::", 32, Some("fd00::1"))]
        }),
        ("10.9.0.0/16 via 10.0.1.254: the next hop is in no", |d| {
            d.local_endpoints[0].routes = vec![route("10.9.0.0", 16, Some("10.0.1.254"))]
        }),
        ("the endpoint itself", |d| {
            d.local_endpoints[0].routes = vec![route("10.9.0.0", 16, Some("10.0.0.1"))]
        }),
        ("so does address 10.0.0.1/24 of endpoint local4096-1", |d| {
            d.local_endpoints[0].routes = vec![route("10.0.0.0", 24, None)]
        }),
        ("so does a route of endpoint local4096-1", |d| {
            d.local_endpoints[1].netns = d.local_endpoints[0].netns.clone();
            d.local_endpoints[0].routes = vec![route("0.0.0.0", 0, Some("10.0.0.254"))];
            d.local_endpoints[1].routes = vec![route("0.0.0.0", 0, None)];
        }),
    ];
    for (words, spoil) in cases {
        let mut desired = example();
        spoil(&mut desired);
        let errors = compile(&desired, &facts(&example())).unwrap_err();
        let texts: Vec<String> = errors.iter().map(Invalid::to_string).collect();
        assert!(
            texts.iter().any(|text| text.contains(words)),
            "{words}: {texts:?}"
        );
    }
}

#[test]
fn large_maps_that_stay_as_they_are_are_not_made_anew() {
    let mut desired = example();
    let facts = facts(&desired);
    let known = compile(&desired, &facts).unwrap().objects;
    let before = &known.maps;
    let again = |desired: &DataPlane| {
        let maps = compile_beside(desired, &facts, &known).unwrap();
        let alone = compile(desired, &facts).unwrap();
        assert_eq!(maps, alone);
        maps.objects
    };
    for peer in desired.peers.values_mut() {
        peer.transmit = None;
    }
    let closed = again(&desired);
    assert!(closed.states.is(&known.states));
    assert!(closed.policies.is(&known.policies));
    let closed = closed.maps;
    assert_ne!(closed.peers, before.peers);
    assert!(closed.endpoints.is(&before.endpoints));
    assert!(closed.addresses.is(&before.addresses));

    let address = "10.0.0.77".parse().unwrap();
    remotes(&mut desired)[0].addresses = [address].into();
    let moved = again(&desired).maps;
    assert!(moved.endpoints.is(&before.endpoints));
    assert_ne!(moved.addresses, before.addresses);

    remotes(&mut desired).pop();
    let gone = again(&desired).maps;
    assert_ne!(gone.endpoints, before.endpoints);

    let peer = desired.peers.values_mut().find(|peer| !peer.sas.is_empty());
    let lost = peer.unwrap().sas.pop().unwrap();
    let less = again(&desired);
    assert_eq!(less.states.len(), known.states.len() - 1, "{lost:?}");
    assert_eq!(less.maps.sas.len(), before.sas.len() - 1);
}
