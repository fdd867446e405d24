//! Names of the networks that this node hosts endpoints of.
//!
//! A name is one of a network's: endpoints that share it, on one node or several, are one service. The
//! same name in two networks is two services, and who is in both finds that of the network that was
//! attached first, or asks for `NAME.NETWORK`.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use overlay_cluster::log::view::View;
use overlay_ebpf::abi::Vni;

use crate::{dataplane::desired::LocalEndpoint, plan::claims::Believed};

/// Bytes of a DNS label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// The names of all networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    networks: BTreeMap<Vni, Network>,
}

/// The names of one network, in lower case. There are tens of thousands: they stand in three
/// allocations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Network {
    name: String,
    subnets: Vec<IpNet>,
    /// All labels, one after the other.
    text: String,
    /// Ascending by label and address, each once.
    labels: Vec<Named>,
    /// Ascending by address, each once.
    pointers: Vec<Named>,
}

/// An address and its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    /// Where the label begins in the text, and its length.
    start: u32,
    length: u8,
    address: IpAddr,
}

impl Named {
    fn label<'a>(&self, text: &'a str) -> &'a str {
        let start = self.start as usize;
        &text[start..start + usize::from(self.length)]
    }
}

impl Network {
    fn sort(&mut self) {
        let text = &self.text;
        self.pointers.clone_from(&self.labels);
        // The label that was given last counts.
        self.pointers.reverse();
        self.pointers.sort_by_key(|named| named.address);
        self.pointers.dedup_by_key(|named| named.address);
        let key = |named: &Named| (named.label(text), named.address);
        self.labels.sort_by(|one, other| key(one).cmp(&key(other)));
        self.labels.dedup_by(|one, other| key(one) == key(other));
        self.text.shrink_to_fit();
        self.labels.shrink_to_fit();
        self.pointers.shrink_to_fit();
    }

    fn addresses(&self, label: &str) -> &[Named] {
        let first = self
            .labels
            .partition_point(|named| named.label(&self.text) < label);
        let rest = &self.labels[first..];
        let count = rest.partition_point(|named| named.label(&self.text) == label);
        &rest[..count]
    }

    fn pointer(&self, address: IpAddr) -> Option<&str> {
        let at = self
            .pointers
            .binary_search_by_key(&address, |named| named.address);
        Some(self.pointers[at.ok()?].label(&self.text))
    }
}

/// Names as they are gathered.
#[derive(Debug, Default)]
pub struct Gathered(Names);

impl Gathered {
    /// Adds a network. Addresses of its subnets are asked of nobody else.
    pub fn network(&mut self, vni: Vni, name: &str, subnets: impl IntoIterator<Item = IpNet>) {
        let network = self.0.networks.entry(vni).or_default();
        network.name = name.to_ascii_lowercase();
        network.subnets = subnets.into_iter().collect();
    }

    /// Adds addresses to a name of a network. What is no label, and a network that was not added, is
    /// passed over.
    pub fn add(&mut self, vni: Vni, label: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let Some(network) = self.0.networks.get_mut(&vni) else {
            return;
        };
        let Some(length) = length_of(label.as_bytes()) else {
            return;
        };
        let Ok(start) = u32::try_from(network.text.len()) else {
            return;
        };
        network
            .text
            .extend(label.chars().map(|c| c.to_ascii_lowercase()));
        let named = |address| Named {
            start,
            length,
            address,
        };
        network.labels.extend(addresses.into_iter().map(named));
    }

    pub fn done(mut self) -> Names {
        for network in self.0.networks.values_mut() {
            network.sort();
        }
        self.0
    }
}

/// What there is to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    Ours(T),
    /// It would be ours, and does not exist.
    Nothing,
    /// Others may know it.
    NotOurs,
}

impl Names {
    /// Names in those networks of the view that have local endpoints.
    pub fn of<'a>(
        view: &View,
        local: impl IntoIterator<Item = &'a LocalEndpoint>,
        remote: &Believed,
    ) -> Self {
        let mut names = Gathered::default();
        for endpoint in local {
            let Some(network) = view.networks.get(&endpoint.vni) else {
                continue;
            };
            if !names.0.networks.contains_key(&endpoint.vni) {
                let subnets = network.subnets.values().map(|subnet| subnet.net());
                names.network(endpoint.vni, network.name.as_str(), subnets);
            }
            let addresses = endpoint.addresses.iter().map(|(address, _)| *address);
            names.add(endpoint.vni, &endpoint.name, addresses);
        }
        for (_, endpoint) in remote.endpoints() {
            names.add(endpoint.vni, &endpoint.name, endpoint.ips.iter().copied());
        }
        names.done()
    }

    /// Addresses of a name, given as its labels, for who is in the networks `scope`.
    pub fn addresses<'a>(
        &self,
        scope: &[Vni],
        labels: impl IntoIterator<Item = &'a [u8]>,
    ) -> Found<Vec<IpAddr>> {
        let mut labels = labels.into_iter();
        let Some(first) = labels.next() else {
            return Found::NotOurs;
        };
        let first = first.to_ascii_lowercase();
        let rest: Vec<_> = labels.collect();
        let label = std::str::from_utf8(&first)
            .ok()
            .filter(|_| length_of(&first).is_some());
        let mut networks = scope.iter().filter_map(|vni| self.networks.get(vni));
        let found = networks.find_map(|network| {
            let is_named = rest.is_empty() || is_name(&network.name, &rest);
            let addresses = network.addresses(label?);
            (is_named && !addresses.is_empty()).then_some(addresses)
        });
        match found {
            Some(named) => Found::Ours(named.iter().map(|named| named.address).collect()),
            // Names without a dot are of nobody but the networks: no answer from elsewhere may send
            // what is for an endpoint out of the network while the endpoint is away.
            None if rest.is_empty() => Found::Nothing,
            None => Found::NotOurs,
        }
    }

    /// Label and network of an address, for who is in the networks `scope`.
    pub fn name(&self, scope: &[Vni], address: IpAddr) -> Found<(&str, &str)> {
        let networks = scope.iter().filter_map(|vni| self.networks.get(vni));
        let mut within = false;
        for network in networks {
            if let Some(label) = network.pointer(address) {
                return Found::Ours((label, &network.name));
            }
            within |= network
                .subnets
                .iter()
                .any(|subnet| subnet.contains(&address));
        }
        match within {
            true => Found::Nothing,
            false => Found::NotOurs,
        }
    }
}

/// The length of a label: letters, digits, hyphens and underscores, what endpoints are named with.
fn length_of(label: &[u8]) -> Option<u8> {
    let inner = |b: &u8| b.is_ascii_alphanumeric() || b"-_".contains(b);
    let length = u8::try_from(label.len()).ok()?;
    ((1..=MAX_LABEL).contains(&label.len()) && label.iter().all(inner)).then_some(length)
}

/// Whether a network's name, which may have dots, is these labels.
fn is_name(name: &str, labels: &[&[u8]]) -> bool {
    let mut parts = name.split('.').map(str::as_bytes);
    let mut labels = labels.iter();
    loop {
        match (parts.next(), labels.next()) {
            (Some(part), Some(label)) if part.eq_ignore_ascii_case(label) => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_cluster::gossip::record::Endpoint;
    use overlay_ebpf::abi::MacAddr;

    use super::*;
    use crate::{
        dataplane::desired::NetnsRef,
        plan::{
            claims,
            testing::{BLUE, GREEN, id, ip, view, vni},
        },
    };

    fn local(number: u32, name: &str, host: u8) -> LocalEndpoint {
        LocalEndpoint {
            vni: vni(number),
            name: name.into(),
            netns: NetnsRef::Name(name.into()),
            interface: "eth0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, host]),
            addresses: vec![(ip(number, 1, host), 16)],
            routes: vec![],
        }
    }

    fn remote(number: u32, name: &str, n: u8, host: u8) -> Endpoint {
        Endpoint {
            vni: vni(number),
            mac: MacAddr([2, 0, 0, 0, n, host]),
            ips: [ip(number, n, host)].into(),
            name: name.into(),
        }
    }

    fn names(local: &[LocalEndpoint], told: &[(u8, Endpoint)]) -> Names {
        let view = view();
        let told = told.iter().map(|(n, endpoint)| (id(*n), endpoint.clone()));
        let (believed, doubts) = claims::judge(&view, &Believed::default(), &BTreeSet::new(), told);
        assert_eq!(doubts, []);
        Names::of(&view, local, &believed)
    }

    fn find(names: &Names, scope: &[u32], name: &str) -> Found<Vec<IpAddr>> {
        let scope: Vec<_> = scope.iter().copied().map(vni).collect();
        let labels = name.split('.').map(str::as_bytes);
        names.addresses(&scope, labels)
    }

    #[test]
    fn endpoints_of_this_node_and_of_others_are_found_whatever_the_case() {
        let names = names(
            &[local(BLUE, "Web-1", 1)],
            &[(2, remote(BLUE, "db_1", 2, 1))],
        );
        let web = Found::Ours(vec![ip(BLUE, 1, 1)]);
        assert_eq!(find(&names, &[BLUE], "web-1"), web);
        assert_eq!(find(&names, &[BLUE], "WEB-1"), web);
        assert_eq!(
            find(&names, &[BLUE], "DB_1"),
            Found::Ours(vec![ip(BLUE, 2, 1)])
        );
    }

    #[test]
    fn endpoints_with_one_name_are_one_service() {
        let names = names(
            &[local(BLUE, "web", 1)],
            &[
                (2, remote(BLUE, "web", 2, 1)),
                (3, remote(BLUE, "web", 3, 1)),
            ],
        );
        let all = vec![ip(BLUE, 1, 1), ip(BLUE, 2, 1), ip(BLUE, 3, 1)];
        assert_eq!(find(&names, &[BLUE], "web"), Found::Ours(all));
    }

    #[test]
    fn same_name_in_two_networks_is_two_services() {
        let names = names(
            &[local(BLUE, "web", 1), local(GREEN, "web", 1)],
            &[(2, remote(GREEN, "db", 2, 1))],
        );
        let (blue, green) = (vec![ip(BLUE, 1, 1)], vec![ip(GREEN, 1, 1)]);
        assert_eq!(find(&names, &[BLUE], "web"), Found::Ours(blue.clone()));
        assert_eq!(find(&names, &[GREEN], "web"), Found::Ours(green.clone()));
        // The network attached first.
        assert_eq!(
            find(&names, &[GREEN, BLUE], "web"),
            Found::Ours(green.clone())
        );
        let view = view();
        let name = |number| view.networks[&vni(number)].name.to_string();
        let qualified = |number| format!("web.{}", name(number).to_uppercase());
        let both = [GREEN, BLUE];
        assert_eq!(find(&names, &both, &qualified(BLUE)), Found::Ours(blue));
        assert_eq!(find(&names, &both, &qualified(GREEN)), Found::Ours(green));
        // Not of a network that the asker is not in.
        assert_eq!(find(&names, &[BLUE], "db"), Found::Nothing);
        assert_eq!(find(&names, &[BLUE], &qualified(GREEN)), Found::NotOurs);
        assert_eq!(find(&names, &[], "web"), Found::Nothing);
    }

    #[test]
    fn networks_without_local_endpoints_have_no_names() {
        let names = names(&[local(BLUE, "web", 1)], &[(2, remote(GREEN, "db", 2, 1))]);
        assert_eq!(find(&names, &[GREEN], "db"), Found::Nothing);
        assert_eq!(names.networks.len(), 1);
    }

    #[test]
    fn unknown_name_is_asked_of_others_only_if_it_has_a_dot() {
        let names = names(&[local(BLUE, "web", 1)], &[]);
        assert_eq!(find(&names, &[BLUE], "wbe"), Found::Nothing);
        assert_eq!(find(&names, &[BLUE], "example.com"), Found::NotOurs);
        assert_eq!(find(&names, &[BLUE], "web.com"), Found::NotOurs);
        // A dot within a label is no dot between labels.
        let scope = [vni(BLUE)];
        let odd: [&[u8]; 1] = [b"web.blue"];
        assert_eq!(names.addresses(&scope, odd), Found::Nothing);
        let none: [&[u8]; 0] = [];
        assert_eq!(names.addresses(&scope, none), Found::NotOurs);
    }

    #[test]
    fn network_name_with_dots_is_compared_label_by_label() {
        let mut names = Gathered::default();
        names.network(vni(BLUE), "My.Net", []);
        names.add(vni(BLUE), "web", [ip(BLUE, 1, 1)]);
        let names = names.done();
        let found = Found::Ours(vec![ip(BLUE, 1, 1)]);
        assert_eq!(find(&names, &[BLUE], "web.my.net"), found);
        for other in ["web.my", "web.my.net.org", "web.net", "my.net"] {
            assert_eq!(find(&names, &[BLUE], other), Found::NotOurs, "{other}");
        }
    }

    #[test]
    fn address_has_the_name_of_its_endpoint_and_network() {
        let names = names(&[local(BLUE, "web", 1)], &[(2, remote(BLUE, "db", 2, 1))]);
        let scope = [vni(BLUE)];
        let view = view();
        let network = view.networks[&vni(BLUE)].name.as_str();
        assert_eq!(
            names.name(&scope, ip(BLUE, 2, 1)),
            Found::Ours(("db", network))
        );
        assert_eq!(names.name(&scope, ip(BLUE, 2, 9)), Found::Nothing);
        let elsewhere: IpAddr = [203, 0, 113, 1].into();
        assert_eq!(names.name(&scope, elsewhere), Found::NotOurs);
        assert_eq!(names.name(&[vni(GREEN)], ip(BLUE, 2, 1)), Found::NotOurs);
    }

    #[test]
    fn what_is_no_label_is_no_name() {
        let mut names = Gathered::default();
        names.network(vni(BLUE), "blue", []);
        for label in ["", "a.b", "a b", "ä", &"a".repeat(64)] {
            names.add(vni(BLUE), label, [ip(BLUE, 1, 1)]);
        }
        let network = &names.done().networks[&vni(BLUE)];
        assert!(network.labels.is_empty() && network.text.is_empty());
    }

    #[test]
    fn an_address_given_twice_is_there_once_and_has_the_label_given_last() {
        let mut names = Gathered::default();
        names.network(vni(BLUE), "blue", []);
        for label in ["web", "db", "web", "db"] {
            names.add(vni(BLUE), label, [ip(BLUE, 1, 1), ip(BLUE, 1, 2)]);
        }
        names.add(vni(BLUE), "web", [ip(BLUE, 1, 2)]);
        let names = names.done();
        let both = Found::Ours(vec![ip(BLUE, 1, 1), ip(BLUE, 1, 2)]);
        assert_eq!(find(&names, &[BLUE], "web"), both);
        assert_eq!(find(&names, &[BLUE], "db"), both);
        let scope = [vni(BLUE)];
        assert_eq!(
            names.name(&scope, ip(BLUE, 1, 1)),
            Found::Ours(("db", "blue"))
        );
        assert_eq!(
            names.name(&scope, ip(BLUE, 1, 2)),
            Found::Ours(("web", "blue"))
        );
    }
}
