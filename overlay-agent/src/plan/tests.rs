use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::{
    gossip::record::Endpoint,
    id::{EpochName, Generation},
    log::epochs::Phase,
    secret::KeyMaterial,
};
use overlay_ebpf::abi::{Epoch, Lane, MacAddr, Slot};
use proptest::prelude::*;

use super::{
    claims::{Doubt, Reason, judge},
    testing::*,
    *,
};
use crate::dataplane::desired::NetnsRef;

fn default_mac(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(v4) => MacAddr::from_ipv4(v4.octets()),
        IpAddr::V6(_) => unreachable!("the samples are IPv4"),
    }
}

fn endpoint(number: u32, address: IpAddr, mac: MacAddr) -> Endpoint {
    Endpoint {
        vni: vni(number),
        mac,
        ips: [address].into(),
        name: Default::default(),
    }
}

fn told(number: u32, n: u8, host: u8) -> (NodeId, Endpoint) {
    let address = ip(number, n, host);
    (id(n), endpoint(number, address, default_mac(address)))
}

fn local(number: u32, host: u8) -> LocalEndpoint {
    let address = ip(number, 1, host);
    LocalEndpoint {
        vni: vni(number),
        name: format!("c{host}"),
        netns: NetnsRef::Name(format!("c{host}")),
        interface: "eth0".into(),
        mac: default_mac(address),
        addresses: vec![(address, 16)],
        routes: Vec::new(),
    }
}

fn believe(told: &[(NodeId, Endpoint)]) -> Believed {
    judged(&Believed::default(), told).0
}

fn judged(before: &Believed, told: &[(NodeId, Endpoint)]) -> (Believed, Vec<Doubt>) {
    let told = told.iter().cloned();
    judge(&view(), before, &BTreeSet::new(), told)
}

fn reasons(told: &[(NodeId, Endpoint)]) -> Vec<Reason> {
    let (_, doubts) = judged(&Believed::default(), told);
    doubts.into_iter().map(|doubt| doubt.reason).collect()
}

fn sas(slot: u8) -> PeerSas {
    let sa = |direction, keying| rotation::Sa {
        direction,
        epoch: Epoch::new(1),
        slot: Slot::new(slot),
        lane: Lane::new(0).unwrap(),
        sender_generation: Generation(3),
        receiver_generation: Generation(4),
        keying,
    };
    PeerSas {
        transmit: Some(rotation::Transmit {
            epoch: Epoch::new(1),
            slot: Slot::new(slot),
            lanes: 1,
        }),
        sas: vec![
            sa(rotation::Direction::In, rotation::Keying::Adopted),
            sa(
                rotation::Direction::Out,
                rotation::Keying::Keyed(KeyMaterial::new([5; KeyMaterial::LEN])),
            ),
        ],
    }
}

fn whole(
    view: &View,
    host: &HostSettings,
    local: &[LocalEndpoint],
    remote: &Believed,
    sas: &BTreeMap<PeerIndex, PeerSas>,
) -> Result<DataPlane, PlanError> {
    data_plane(view, host, local, &Reached::of(view, local, remote), sas)
}

fn plan(local: &[LocalEndpoint], told: &[(NodeId, Endpoint)]) -> DataPlane {
    let sas = (2..=5).map(|n| (index(n), sas(n))).collect();
    whole(
        &view(),
        &HostSettings::default(),
        local,
        &believe(told),
        &sas,
    )
    .unwrap()
}

#[test]
fn peers_are_the_nodes_that_share_a_network_and_only_those_of_encrypted_ones_have_sas() {
    let plan = plan(
        &[local(BLUE, 1), local(GREEN, 1)],
        &[told(BLUE, 2, 1), told(GREEN, 3, 1), told(BLUE, 2, 9)],
    );
    let networks = |n| &plan.peers[&index(n)].networks;
    assert_eq!(*networks(2), BTreeSet::from([vni(BLUE)]));
    assert_eq!(*networks(3), BTreeSet::from([vni(GREEN)]));
    assert_eq!(plan.peers.len(), 2);
    assert_eq!(plan.peers[&index(2)].sas.len(), 2);
    assert_eq!(plan.peers[&index(2)].transmit.unwrap().slot, Slot::new(2));
    assert_eq!(plan.peers[&index(3)].sas, []);
    assert_eq!(plan.peers[&index(3)].transmit, None);
    assert_eq!(plan.remote_endpoints.len(), 3);
    assert!(plan.networks[&vni(BLUE)].encrypted);
}

#[test]
fn the_rotation_makes_sas_with_those_that_share_an_encrypted_network() {
    let mut view = view();
    let believed = believe(&[told(BLUE, 2, 1), told(GREEN, 3, 1)]);
    let local = [local(BLUE, 1), local(GREEN, 1)];
    let name = |number| EpochName {
        incarnation: 0,
        number,
        hash: [1; 8],
    };
    let roles = |view: &View| {
        let told = epochs::log_view(view, 5, &Reached::of(view, &local, &believed));
        assert_eq!((told.revision, told.member), (5, true));
        assert_eq!(told.peers.keys().copied().collect::<Vec<_>>(), [index(2)]);
        Vec::from_iter(told.epochs)
    };
    use rotation::Role::{Active, Retiring, Staged};
    assert_eq!(roles(&view), [(name(1), Active)]);
    view.epochs.phase = Phase::Staging {
        next: name(2),
        reason: overlay_cluster::log::epochs::Reason::Schedule,
        since: TIME,
    };
    assert_eq!(roles(&view), [(name(1), Active), (name(2), Staged)]);
    view.epochs.current = name(2);
    view.epochs.phase = Phase::Activated {
        retiring: name(1),
        since: TIME,
    };
    assert_eq!(roles(&view), [(name(1), Retiring), (name(2), Active)]);
    view.peers.remove(&id(1));
    let reached = Reached::of(&view, &local, &believed);
    assert!(!epochs::log_view(&view, 6, &reached).member);
}

#[test]
fn what_an_owner_tells_again_is_kept_and_not_made_anew() {
    let first = [told(BLUE, 2, 1), told(GREEN, 3, 1)];
    let before = believe(&first);
    let mut second = Vec::from(first);
    second.push(told(GREEN, 3, 2));
    let (after, doubts) = judged(&before, &second);
    assert_eq!((after.len(), doubts), (3, Vec::new()));
    let of = |believed: &Believed, n| {
        let mut all = believed.endpoints();
        let found = all.find(|(owner, _)| **owner == id(n));
        std::ptr::from_ref(found.unwrap().1)
    };
    assert_eq!(of(&before, 2), of(&after, 2));
    assert_ne!(of(&before, 3), of(&after, 3));
}

#[test]
fn a_network_without_an_endpoint_here_brings_no_peer() {
    let plan = plan(&[local(GREEN, 1)], &[told(BLUE, 2, 1)]);
    assert!(plan.peers.is_empty() && plan.remote_endpoints.is_empty());
    assert_eq!(plan.networks.len(), 1);
}

#[test]
fn a_node_that_the_log_has_not_takes_its_endpoints_along() {
    let mut view = view();
    view.peers.remove(&id(2));
    let told = [told(BLUE, 2, 1)];
    let believed = believe(&told);
    let plan = whole(
        &view,
        &HostSettings::default(),
        &[local(BLUE, 1)],
        &believed,
        &BTreeMap::new(),
    )
    .unwrap();
    assert!(plan.peers.is_empty() && plan.remote_endpoints.is_empty());
    view.peers.remove(&id(1));
    assert_eq!(
        whole(
            &view,
            &HostSettings::default(),
            &[],
            &believed,
            &BTreeMap::new()
        ),
        Err(PlanError::NotAMember(id(1)))
    );
}

#[test]
fn nodes_without_a_family_in_common_are_no_peers() {
    let v6 = |n: u16| Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into());
    let both = Vteps {
        v4: Some([192, 0, 2, 1].into()),
        v6: v6(1),
    };
    let four = Vteps { v6: None, ..both };
    let six = Vteps { v4: None, ..both };
    assert_eq!(common_vtep(&both, &four), four.v4.map(IpAddr::from));
    assert_eq!(common_vtep(&both, &six), six.v6.map(IpAddr::from));
    assert_eq!(common_vtep(&four, &six), None);
}

#[test]
fn settings_of_the_cluster_and_of_the_host_both_count() {
    let mut view = view();
    view.settings.port = 8472;
    view.settings.mtu = MtuPolicy::AtMost(1300);
    let host = HostSettings {
        xdp: XdpMode::Off,
        ..HostSettings::default()
    };
    let local = [local(BLUE, 1)];
    let plan = whole(&view, &host, &local, &Believed::default(), &BTreeMap::new()).unwrap();
    assert_eq!(
        (plan.settings.port, plan.settings.xdp),
        (8472, XdpMode::Off)
    );
    assert_eq!(plan.networks[&vni(BLUE)].mtu_at_most, Some(1300));
}

#[test]
fn a_node_has_no_address_that_was_not_leased_to_it() {
    let thief = |address: IpAddr| (id(3), endpoint(BLUE, address, default_mac(address)));
    let victim = ip(BLUE, 2, 1);
    let gateway = [10, 0, 0, 1].into();
    assert_eq!(reasons(&[thief(victim)]), [Reason::NotLeased(victim)]);
    assert_eq!(reasons(&[thief(gateway)]), [Reason::NotUsable(gateway)]);
    let outside = [10, 9, 3, 1].into();
    assert_eq!(reasons(&[thief(outside)]), [Reason::NotUsable(outside)]);
    let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
    let own = ip(BLUE, 3, 1);
    assert_eq!(
        reasons(&[(id(3), endpoint(BLUE, own, group))]),
        [Reason::BadMac]
    );
    assert_eq!(
        reasons(&[(id(3), endpoint(BLUE, own, MacAddr([0; 6])))]),
        [Reason::BadMac]
    );
}

#[test]
fn a_default_mac_belongs_to_who_has_its_address_whoever_came_first() {
    let mac = default_mac(ip(BLUE, 3, 1));
    let thief = (id(2), endpoint(BLUE, ip(BLUE, 2, 7), mac));
    let owner = (id(3), endpoint(BLUE, ip(BLUE, 3, 1), mac));
    let before = believe(std::slice::from_ref(&thief));
    assert_eq!(before.len(), 1);
    let (believed, doubts) = judged(&before, &[thief, owner.clone()]);
    assert_eq!(believed, believe(&[owner]));
    assert_eq!(doubts[0].reason, Reason::MacTaken(id(3)));
}

#[test]
fn any_other_mac_stays_with_who_has_it() {
    let mac = MacAddr([2, 9, 9, 9, 9, 9]);
    let first = (id(5), endpoint(BLUE, ip(BLUE, 5, 1), mac));
    let second = (id(2), endpoint(BLUE, ip(BLUE, 2, 1), mac));
    let before = believe(std::slice::from_ref(&first));
    let (believed, doubts) = judged(&before, &[second.clone(), first.clone()]);
    assert_eq!(believed, before);
    assert_eq!(
        (doubts[0].owner, doubts[0].reason),
        (id(2), Reason::MacTaken(id(5)))
    );
    assert_eq!(
        believe(&[first, second.clone()]),
        believe(&[second]),
        "lowest index"
    );
}

#[test]
fn no_node_takes_the_mac_of_an_endpoint_of_ours() {
    let mac = MacAddr([2, 9, 9, 9, 9, 9]);
    let thief = (id(2), endpoint(BLUE, ip(BLUE, 2, 1), mac));
    let own = BTreeSet::from([(vni(BLUE), mac)]);
    let told = [thief];
    let (believed, doubts) = judge(&view(), &Believed::default(), &own, told);
    assert!(believed.is_empty());
    assert_eq!(doubts[0].reason, Reason::MacTaken(id(1)));
    assert!(
        doubts[0].to_string().contains("02:09:09:09:09:09"),
        "{}",
        doubts[0]
    );
}

fn any_told() -> impl Strategy<Value = (NodeId, Endpoint)> {
    let address = (0u8..3, 0u8..7, any::<u8>());
    let mac = prop_oneof![
        (0u8..3, 1u8..6, 0u8..4).prop_map(|(net, n, host)| MacAddr([2, 0x42, 10, net, n, host])),
        (0u8..4).prop_map(|last| MacAddr([2, 9, 9, 9, 9, last])),
        any::<[u8; 6]>().prop_map(MacAddr),
    ];
    (1u8..8, 4096u32..4099, address, mac).prop_map(|(n, number, (net, owner, host), mac)| {
        (id(n), endpoint(number, [10, net, owner, host].into(), mac))
    })
}

proptest! {
    /// Whatever one node tells, what was believed of the others stays.
    #[test]
    fn a_liar_changes_nothing_of_the_others(
        honest in prop::collection::vec((2u8..5, 1u8..9), 0..12),
        lies in prop::collection::vec(any_told(), 0..40),
    ) {
        let honest: Vec<_> = honest.into_iter().map(|(n, host)| told(BLUE, n, host)).collect();
        let before = believe(&honest);
        let lies = lies.into_iter().map(|(_, endpoint)| (id(5), endpoint));
        let all: Vec<_> = honest.iter().cloned().chain(lies).collect();
        let (after, _) = judged(&before, &all);
        for (owner, endpoint) in before.endpoints() {
            prop_assert!(after.endpoints().any(|kept| kept == (owner, endpoint)));
        }
        for (owner, endpoint) in after.endpoints() {
            prop_assert!(endpoint.ips.iter().all(|ip| view().leased(owner, endpoint.vni, *ip)));
        }
    }

    /// The order in which records come decides nothing.
    #[test]
    fn the_order_of_claims_is_of_no_account(mut all in prop::collection::vec(any_told(), 0..40)) {
        // A node has one record of each network and MAC.
        let mut seen = BTreeSet::new();
        all.retain(|(owner, endpoint)| seen.insert((*owner, endpoint.vni, endpoint.mac)));
        let forward = believe(&all);
        all.reverse();
        prop_assert_eq!(forward, believe(&all));
    }
}
