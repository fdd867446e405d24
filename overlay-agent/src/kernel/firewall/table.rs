//! Our own table: what it holds, and whether what is found is that.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Map, Value, json};

use super::{Count, Counters};
use crate::dataplane::objects::{Firewall, GRO, HOP, XFRM};

pub(super) const FAMILY: &str = "inet";
pub(super) const NAME: &str = "overlay";
const LOCAL_INJECTION: &str = "local_injection";
const STRAY: &str = "stray";
const VTEPS4: &str = "vteps4";
const VTEPS6: &str = "vteps6";
const OUTPUT: &str = "output";
const PREROUTING: &str = "prerouting";

/// Whether a listing has our table.
pub(super) fn is_listed(listing: &[Value]) -> bool {
    listing
        .iter()
        .filter_map(|object| object.get("table"))
        .any(|table| table["family"] == FAMILY && table["name"] == NAME)
}

/// Priority of both chains: `raw`, before connection tracking at −200.
const PRIORITY: i32 = -300;
/// Comment of the rule that names [`Firewall::esp_in_udp_port`].
const SENT_ESP_IN_UDP: &str = "sent ESP in UDP";
/// By number: names depend on /etc/protocols.
const ESP: u32 = 50;

/// Commands that put the table in the place of whatever bears its name.
pub(super) fn replace(firewall: &Firewall) -> Vec<Value> {
    let mut commands = vec![json!({ "add": table() })];
    commands.extend(remove());
    commands.extend(
        objects(firewall)
            .into_iter()
            .map(|object| json!({ "add": object })),
    );
    commands
}

/// Commands that delete the table.
pub(super) fn remove() -> Vec<Value> {
    vec![json!({ "delete": table() })]
}

fn table() -> Value {
    json!({ "table": { "family": FAMILY, "name": NAME } })
}

/// The objects of the table, in nft's JSON (libnftables-json(5)).
fn objects(firewall: &Firewall) -> Vec<Value> {
    let port = firewall.port;
    let vteps = |v4: bool| {
        let vteps = firewall.local_vteps.iter();
        vteps.filter(move |vtep| vtep.is_ipv4() == v4)
    };
    let mut objects = vec![
        table(),
        counter(LOCAL_INJECTION),
        counter(STRAY),
        set(VTEPS4, "ipv4_addr", vteps(true)),
        set(VTEPS6, "ipv6_addr", vteps(false)),
        chain(PREROUTING),
        chain(OUTPUT),
        rule(
            OUTPUT,
            "local processes must not inject into the overlay",
            vec![
                matches(payload("udp", "dport"), json!(port)),
                json!({ "counter": LOCAL_INJECTION }),
                json!({ "drop": null }),
            ],
        ),
    ];
    // Their programs take every packet. Without them, while one starts, stops or is lost, what a
    // stranger put in VXLAN would be input of the host.
    for device in [GRO, HOP, XFRM] {
        objects.push(rule(
            PREROUTING,
            "devices of the overlay hand nothing to the host",
            vec![
                matches(json!({ "meta": { "key": "iifname" } }), json!(device)),
                json!({ "counter": STRAY }),
                json!({ "drop": null }),
            ],
        ));
    }
    for (protocol, set) in [("ip", VTEPS4), ("ip6", VTEPS6)] {
        let vtep = |field| matches(payload(protocol, field), json!(format!("@{set}")));
        let udp = || matches(payload("udp", "dport"), json!(port));
        let esp = || matches(json!({ "meta": { "key": "l4proto" } }), json!(ESP));
        let notrack = || json!({ "notrack": null });
        objects.extend([
            rule(
                PREROUTING,
                "re-entered packets",
                vec![vtep("saddr"), udp(), notrack()],
            ),
            rule(
                PREROUTING,
                "received VXLAN",
                vec![vtep("daddr"), udp(), notrack()],
            ),
            rule(
                PREROUTING,
                "received ESP",
                vec![vtep("daddr"), esp(), notrack()],
            ),
            rule(OUTPUT, "sent ESP", vec![vtep("saddr"), esp(), notrack()]),
        ]);
        // What XFRM sends passes the output hook too, so that what local processes send to the port is
        // left to `underlay_audit`. Received, `underlay_rx` has made ESP of it.
        if let Some(port) = firewall.esp_in_udp_port {
            let udp = matches(payload("udp", "dport"), json!(port));
            objects.push(rule(
                OUTPUT,
                SENT_ESP_IN_UDP,
                vec![vtep("saddr"), udp, notrack()],
            ));
        }
    }
    objects
}

fn counter(name: &str) -> Value {
    json!({ "counter": { "family": FAMILY, "table": NAME, "name": name } })
}

fn set<'a>(name: &str, kind: &str, elements: impl Iterator<Item = &'a IpAddr>) -> Value {
    let mut set = json!({ "family": FAMILY, "table": NAME, "name": name, "type": kind });
    let elements: Vec<_> = elements.map(IpAddr::to_string).collect();
    // nft prints no empty list, and takes none.
    if !elements.is_empty() {
        set["elem"] = json!(elements);
    }
    json!({ "set": set })
}

fn chain(hook: &str) -> Value {
    json!({ "chain": {
        "family": FAMILY, "table": NAME, "name": hook,
        "type": "filter", "hook": hook, "prio": PRIORITY, "policy": "accept",
    }})
}

fn rule(chain: &str, comment: &str, expr: Vec<Value>) -> Value {
    json!({ "rule": {
        "family": FAMILY, "table": NAME, "chain": chain, "comment": comment, "expr": expr,
    }})
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

pub(super) fn matches(left: Value, right: Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

/// What a listing of the table says, without [`Firewall::accepts`].
pub(super) fn read(listing: &[Value]) -> Firewall {
    let mut firewall = Firewall {
        port: port(listing).unwrap_or(0),
        esp_in_udp_port: esp_in_udp_port(listing),
        local_vteps: vteps(listing),
        ..Firewall::default()
    };
    let found = normal(listing);
    let expected = normal(&objects(&firewall));
    if found != expected {
        let difference = found
            .iter()
            .find(|object| !expected.contains(object))
            .map(|object| format!("has {object}"))
            .or_else(|| {
                expected
                    .iter()
                    .find(|object| !found.contains(object))
                    .map(|object| format!("lacks {object}"))
            })
            .unwrap_or_else(|| "has its rules in another order".to_owned());
        firewall.altered = Some(format!("the table inet overlay {difference}"));
    }
    firewall
}

/// What the counters of the table say.
pub(super) fn counters(listing: &[Value]) -> Option<Counters> {
    let count = |name| {
        let counter = listing
            .iter()
            .filter_map(|object| object.get("counter"))
            .find(|counter| counter["name"] == name)?;
        Some(Count {
            packets: counter["packets"].as_u64()?,
            bytes: counter["bytes"].as_u64()?,
        })
    };
    Some(Counters {
        local_injection: count(LOCAL_INJECTION)?,
        stray: count(STRAY)?,
    })
}

fn port(listing: &[Value]) -> Option<u16> {
    listing
        .iter()
        .filter_map(|object| object.get("rule"))
        .filter(|rule| rule["chain"] == OUTPUT)
        .find_map(|rule| rule["expr"][0]["match"]["right"].as_u64())
        .and_then(|port| u16::try_from(port).ok())
}

fn esp_in_udp_port(listing: &[Value]) -> Option<u16> {
    listing
        .iter()
        .filter_map(|object| object.get("rule"))
        .find(|rule| rule["comment"] == SENT_ESP_IN_UDP)
        .and_then(|rule| rule["expr"][1]["match"]["right"].as_u64())
        .and_then(|port| u16::try_from(port).ok())
}

fn vteps(listing: &[Value]) -> BTreeSet<IpAddr> {
    listing
        .iter()
        .filter_map(|object| object.get("set"))
        .filter_map(|set| set["elem"].as_array())
        .flatten()
        .filter_map(|element| element.as_str()?.parse().ok())
        .collect()
}

/// The objects without what the kernel adds (handles, counts) and in an order that does not depend
/// on when they were made; rules keep theirs.
fn normal(objects: &[Value]) -> Vec<String> {
    let mut others = BTreeSet::new();
    let mut rules: Vec<(String, String)> = Vec::new();
    for object in objects {
        let Some((kind, body)) = object.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        if kind == "metainfo" {
            continue;
        }
        let mut body = body.as_object().cloned().unwrap_or_default();
        body.remove("handle");
        normalize(kind, &mut body);
        let words = format!("{kind} {}", Value::Object(body.clone()));
        if kind == "rule" {
            rules.push((body["chain"].to_string(), words));
        } else {
            others.insert(words);
        }
    }
    // Stable: within a chain the order decides.
    rules.sort_by(|a, b| a.0.cmp(&b.0));
    others
        .into_iter()
        .chain(rules.into_iter().map(|(_, words)| words))
        .collect()
}

fn normalize(kind: &str, body: &mut Map<String, Value>) {
    match kind {
        "counter" => {
            body.remove("packets");
            body.remove("bytes");
        }
        "set" => {
            if let Some(elements) = body.get_mut("elem").and_then(Value::as_array_mut) {
                let sorted: BTreeSet<_> = elements
                    .iter()
                    .map(|element| {
                        match element
                            .as_str()
                            .and_then(|text| text.parse::<IpAddr>().ok())
                        {
                            Some(address) => address.to_string(),
                            None => element.to_string(),
                        }
                    })
                    .collect();
                *elements = sorted.into_iter().map(Value::from).collect();
            }
        }
        "rule" => {
            let expressions = body.get_mut("expr").and_then(Value::as_array_mut);
            for expression in expressions.into_iter().flatten() {
                if expression["match"]["right"] == "esp" {
                    expression["match"]["right"] = json!(ESP);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firewall() -> Firewall {
        Firewall {
            port: 4790,
            local_vteps: ["10.0.0.1", "2001:db8::1"]
                .map(|vtep| vtep.parse().unwrap())
                .into(),
            ..Firewall::default()
        }
    }

    /// As nft 1.0.6 prints it: handles, counts, names of protocols.
    fn listed(firewall: &Firewall) -> Vec<Value> {
        let mut listing = vec![json!({ "metainfo": { "version": "1.0.6" } })];
        for (handle, mut object) in objects(firewall).into_iter().enumerate() {
            for (kind, body) in object.as_object_mut().unwrap() {
                body["handle"] = json!(handle);
                if kind == "counter" {
                    body["packets"] = json!(3);
                    body["bytes"] = json!(120);
                }
                for expression in body["expr"].as_array_mut().into_iter().flatten() {
                    if expression["match"]["right"] == ESP {
                        expression["match"]["right"] = json!("esp");
                    }
                }
                if body["expr"].is_null() {
                    body.as_object_mut().unwrap().remove("expr");
                }
            }
            listing.push(object);
        }
        listing
    }

    #[test]
    fn table_is_read_back_as_set() {
        let listing = listed(&firewall());
        assert_eq!(read(&listing), firewall());
        let count = Count {
            packets: 3,
            bytes: 120,
        };
        let counters = counters(&listing).unwrap();
        assert_eq!(counters.local_injection, count);
        assert_eq!(counters.stray, count);
    }

    #[test]
    fn table_with_esp_in_udp_is_read_back_as_set() {
        let firewall = Firewall {
            esp_in_udp_port: Some(4500),
            ..firewall()
        };
        assert_eq!(read(&listed(&firewall)), firewall);
    }

    #[test]
    fn ipv4_only_table_is_read_back_as_set() {
        let mut firewall = firewall();
        firewall.local_vteps.retain(IpAddr::is_ipv4);
        assert_eq!(read(&listed(&firewall)), firewall);
    }

    #[test]
    fn every_removed_object_is_seen() {
        let listing = listed(&firewall());
        for removed in 1..listing.len() {
            let mut listing = listing.clone();
            let object = listing.remove(removed);
            let altered = read(&listing).altered;
            assert!(altered.is_some(), "without {object}");
        }
    }

    #[test]
    fn added_rule_and_changed_order_are_seen() {
        let mut listing = listed(&firewall());
        listing.push(rule(OUTPUT, "x", vec![json!({ "accept": null })]));
        assert!(read(&listing).altered.unwrap().contains("has rule"));

        let mut listing = listed(&firewall());
        let last = listing.len() - 1;
        let first = listing
            .iter()
            .position(|object| object["rule"]["chain"] == OUTPUT)
            .unwrap();
        listing.swap(first, last);
        assert!(read(&listing).altered.is_some());
    }

    #[test]
    fn chain_with_another_policy_is_seen() {
        let mut listing = listed(&firewall());
        for object in &mut listing {
            if object["chain"]["name"] == OUTPUT {
                object["chain"]["prio"] = json!(0);
            }
        }
        assert!(read(&listing).altered.is_some());
    }
}
