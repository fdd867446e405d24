//! Devices, sysctls, firewall, neighbours, endpoints and where the programs are attached.

use std::collections::BTreeSet;

use overlay_ebpf::packet::mtu::MIN_INNER_IPV6;

use super::plan::Plan;
use crate::dataplane::{
    desired::XdpMode,
    endpoint_name::host_device_name,
    objects::{
        Attachment, DeviceAddress, EndpointLink, Firewall, GRO, HOP, Link, Neighbour, Objects,
        Program, REENTRY, XFRM,
    },
    problem::{Problem, Subject},
};

/// MTU of the devices of the overlay itself: the kernel's largest (`ETH_MAX_MTU`), so that the route
/// alone decides what fits.
const DEVICE_MTU: u32 = 65535;

/// "IPv4 dummy address" (RFC 7600 section 4.8): with loose reverse-path filtering for all devices, a
/// device without an address drops everything (`__fib_validate_source`, net/ipv4/fib_frontend.c).
const DUMMY_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 0, 8);

pub fn compile(plan: &Plan<'_>, objects: &mut Objects, problems: &mut Vec<Problem>) {
    links(plan, objects);
    sysctls(plan, objects);
    if plan.facts.features.nft {
        objects.firewall = Some(Firewall {
            port: plan.desired.settings.port,
            esp_in_udp_port: plan.desired.settings.esp_in_udp_port,
            local_vteps: plan.desired.node.vteps.iter().copied().collect(),
            accepts: if plan.ipsec {
                plan.facts.foreign_chains.clone()
            } else {
                BTreeSet::new()
            },
            altered: None,
            displaced: None,
        });
    }
    neighbours(plan, objects);
    endpoints(plan, objects, problems);
    attachments(plan, objects);
}

fn links(plan: &Plan<'_>, objects: &mut Objects) {
    let settings = &plan.desired.settings;
    objects.links.insert(
        GRO.into(),
        Link::VxlanExternal {
            port: settings.port,
        },
    );
    // For plain networks as well: `endpoint_tx` asks for the next hop as for a packet that is
    // forwarded from `ovl-in`.
    objects.links.insert(
        HOP.into(),
        Link::Veth {
            peer: REENTRY.into(),
            mtu: DEVICE_MTU,
            segments_ipv6: has_family(plan, false),
        },
    );
    if !plan.ipsec {
        return;
    }
    objects.links.insert(
        XFRM.into(),
        Link::Xfrm {
            if_id: settings.if_id,
            mtu: DEVICE_MTU,
        },
    );
    if plan.facts.rp_filter_all == 2 && has_family(plan, true) {
        objects.addresses.insert(DeviceAddress {
            device: REENTRY.into(),
            address: DUMMY_ADDRESS.into(),
            prefix_length: 32,
        });
    }
}

fn has_family(plan: &Plan<'_>, ipv4: bool) -> bool {
    let vteps = &plan.desired.node.vteps;
    vteps.iter().any(|vtep| vtep.is_ipv4() == ipv4)
}

fn sysctls(plan: &Plan<'_>, objects: &mut Objects) {
    let mut set = |path: String, value: &str| {
        objects.sysctls.insert(path, value.into());
    };
    // Forwarding is decided by the device a packet came in on (`IN_DEV_FORWARD` in
    // `ip_route_input_slow`, net/ipv4/route.c): the global switch stays as it is.
    for (name, value) in [
        ("accept_local", "1"),
        ("forwarding", "1"),
        ("rp_filter", "0"),
        ("send_redirects", "0"),
    ] {
        set(format!("net/ipv4/conf/{REENTRY}/{name}"), value);
    }
    if !plan.facts.features.ipv6 {
        return;
    }
    // Here the device's own switch is for `bpf_fib_lookup` alone (net/core/filter.c).
    for (name, value) in [("accept_ra", "0"), ("autoconf", "0"), ("forwarding", "1")] {
        set(format!("net/ipv6/conf/{REENTRY}/{name}"), value);
    }
    if !plan.ipsec || !has_family(plan, false) {
        return;
    }
    if plan.facts.features.force_forwarding {
        set(format!("net/ipv6/conf/{REENTRY}/force_forwarding"), "1");
        return;
    }
    // A router ignores router advertisements unless told otherwise, and would lose its own routes.
    for device in &plan.facts.accept_ra {
        set(format!("net/ipv6/conf/{device}/accept_ra"), "2");
    }
    set("net/ipv6/conf/all/forwarding".into(), "1");
}

fn neighbours(plan: &Plan<'_>, objects: &mut Objects) {
    for peer in plan.peers.values().filter(|peer| peer.plain) {
        if let Some(route) = peer.route {
            objects.neighbours.insert(Neighbour {
                device: route.device.clone(),
                address: route.next_hop,
            });
        }
    }
}

fn endpoints(plan: &Plan<'_>, objects: &mut Objects, problems: &mut Vec<Problem>) {
    for endpoint in &plan.desired.local_endpoints {
        let mtu = plan.endpoint_mtu[&endpoint.vni];
        // The kernel takes IPv6 off a device with a smaller MTU (RFC 8200 section 5).
        let (usable, lost): (BTreeSet<_>, BTreeSet<_>) = endpoint
            .addresses
            .iter()
            .copied()
            .partition(|(address, _)| address.is_ipv4() || mtu >= MIN_INNER_IPV6);
        if !lost.is_empty() {
            problems.push(Problem::warning(
                Subject::Endpoint(endpoint.name.clone()),
                format!(
                    "it has no IPv6 addresses and routes: its MTU is {mtu}, and IPv6 needs {MIN_INNER_IPV6}"
                ),
                "raise the MTU of the underlay, or leave them out",
            ));
        }
        let routes = endpoint.routes.iter().copied();
        let routes = routes.filter(|route| route.to.0.is_ipv4() || mtu >= MIN_INNER_IPV6);
        objects.endpoints.insert(
            host_device_name(endpoint.vni, endpoint.mac),
            EndpointLink {
                netns: endpoint.netns.clone(),
                interface: endpoint.interface.clone(),
                mac: endpoint.mac,
                addresses: usable,
                routes: routes.collect(),
                mtu,
                altered: None,
            },
        );
    }
}

fn attachments(plan: &Plan<'_>, objects: &mut Objects) {
    let mut attach = |program, device: &str| {
        objects.attachments.insert(Attachment {
            program,
            device: device.to_owned(),
        });
    };
    for device in objects.endpoints.keys() {
        attach(Program::EndpointTx, device);
    }
    attach(Program::Sink, GRO);
    attach(Program::Sink, HOP);
    attach(Program::Reentry, REENTRY);
    if plan.ipsec {
        attach(Program::DecryptedRx, XFRM);
    }
    for device in &plan.facts.devices {
        // Where it cannot read a packet it lets nothing out that was to be encrypted.
        let audit = if plan.facts.layer3.contains(device) {
            Program::UnderlayAuditL3
        } else {
            Program::UnderlayAudit
        };
        attach(audit, device);
    }
    let routes = plan.peers.values().filter_map(|peer| peer.route);
    let vteps = plan.desired.node.vteps.iter();
    let underlay: BTreeSet<&str> = routes
        .map(|route| route.device.as_str())
        .chain(
            vteps
                .filter_map(|vtep| plan.facts.vteps.get(vtep))
                .map(|vtep| vtep.device.as_str()),
        )
        .filter(|device| plan.facts.devices.contains(*device) && !plan.facts.lacks_ethernet(device))
        .collect();
    for device in underlay {
        attach(Program::UnderlayRx, device);
        match plan.desired.settings.xdp {
            XdpMode::Native => attach(Program::UnderlayRxXdpNative, device),
            XdpMode::Generic => attach(Program::UnderlayRxXdpGeneric, device),
            XdpMode::Auto if plan.facts.native_xdp.contains(device) => {
                attach(Program::UnderlayRxXdpNative, device);
            }
            XdpMode::Auto | XdpMode::Off => {}
        }
    }
}
