//! Accepts in nftables chains of other software.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Accept, table};
use crate::dataplane::objects::{ChainFamily, ForeignChain, REENTRY};

/// By which our rules are found again.
pub(super) const COMMENT: &str = "overlay: re-entered packets";

/// nft's name of a family; `None` for legacy iptables.
pub(super) fn family(family: ChainFamily) -> Option<&'static str> {
    match family {
        ChainFamily::Ip => Some("ip"),
        ChainFamily::Ip6 => Some("ip6"),
        ChainFamily::Inet => Some("inet"),
        ChainFamily::LegacyIp | ChainFamily::LegacyIp6 => None,
    }
}

/// The foreign base chains of a listing that filter where re-entered packets pass.
pub(super) fn chains(listing: &[Value]) -> BTreeSet<ForeignChain> {
    listing
        .iter()
        .filter_map(|object| object.get("chain"))
        .filter(|chain| {
            // nat chains do not see untracked packets.
            chain["type"] == "filter"
                && matches!(chain["hook"].as_str(), Some("prerouting" | "forward"))
                && !(chain["family"] == table::FAMILY && chain["table"] == table::NAME)
        })
        .filter_map(|chain| {
            Some(ForeignChain {
                family: match chain["family"].as_str()? {
                    "ip" => ChainFamily::Ip,
                    "ip6" => ChainFamily::Ip6,
                    "inet" => ChainFamily::Inet,
                    _ => return None,
                },
                table: chain["table"].as_str()?.to_owned(),
                chain: chain["name"].as_str()?.to_owned(),
            })
        })
        .collect()
}

/// Our rules in the listing of a chain; `None` if there are none.
pub(super) fn find(listing: &[Value]) -> Option<Accept> {
    let rules: Vec<_> = listing
        .iter()
        .filter_map(|object| object.get("rule"))
        .collect();
    let ours: Vec<_> = rules
        .iter()
        .filter(|rule| rule["comment"] == COMMENT)
        .filter_map(|rule| rule["handle"].as_u64())
        .map(|handle| handle.to_string())
        .collect();
    let first = rules.first()?;
    let in_force = ours.len() == 1 && first["comment"] == COMMENT && is_accept(&first["expr"]);
    (!ours.is_empty()).then_some(Accept {
        in_force,
        rules: ours,
    })
}

fn is_accept(expr: &Value) -> bool {
    let Some([condition, counter, verdict]) = expr.as_array().map(Vec::as_slice) else {
        return false;
    };
    *condition == reentered() && counter.get("counter").is_some() && *verdict == accept()
}

fn reentered() -> Value {
    table::matches(json!({ "meta": { "key": "iifname" } }), json!(REENTRY))
}

fn accept() -> Value {
    json!({ "accept": null })
}

/// The command that puts our rule at the head of a chain; none for legacy iptables.
pub(super) fn insert(chain: &ForeignChain) -> Option<Value> {
    // The form that `iptables-nft -i DEVICE -j ACCEPT` writes, which that program can then print.
    Some(json!({ "insert": { "rule": {
        "family": family(chain.family)?, "table": chain.table, "chain": chain.chain,
        "comment": COMMENT,
        "expr": [reentered(), { "counter": null }, accept()],
    }}}))
}

/// The commands that remove our rules from a chain; none for legacy iptables.
pub(super) fn remove(chain: &ForeignChain, accept: &Accept) -> Vec<Value> {
    let Some(family) = family(chain.family) else {
        return Vec::new();
    };
    accept
        .rules
        .iter()
        .filter_map(|handle| handle.parse::<u64>().ok())
        .map(|handle| {
            json!({ "delete": { "rule": {
                "family": family, "table": chain.table, "chain": chain.chain, "handle": handle,
            }}})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(handle: u64, comment: Option<&str>, expr: Value) -> Value {
        let mut rule = json!({ "handle": handle, "expr": expr });
        if let Some(comment) = comment {
            rule["comment"] = json!(comment);
        }
        json!({ "rule": rule })
    }

    fn ours(handle: u64) -> Value {
        let expr = json!([reentered(), { "counter": { "packets": 1, "bytes": 2 } }, accept()]);
        rule(handle, Some(COMMENT), expr)
    }

    #[test]
    fn accept_is_in_force_only_as_the_single_first_rule() {
        let other = || rule(1, None, json!([{ "drop": null }]));
        let in_force = |listing: &[Value]| find(listing).map(|accept| accept.in_force);
        assert_eq!(in_force(&[ours(2), other()]), Some(true));
        assert_eq!(in_force(&[other(), ours(2)]), Some(false));
        assert_eq!(in_force(&[ours(2), ours(3)]), Some(false));
        assert_eq!(in_force(&[other()]), None);
        assert_eq!(in_force(&[]), None);
        let gutted = rule(4, Some(COMMENT), json!([{ "counter": null }]));
        assert_eq!(in_force(&[gutted]), Some(false));
    }

    #[test]
    fn only_filtering_chains_on_the_way_are_taken() {
        let chain = |family: &str, table: &str, kind: &str, hook: &str| json!({ "chain": { "family": family, "table": table, "name": "c", "type": kind, "hook": hook } });
        let found = chains(&[
            chain("ip", "filter", "filter", "forward"),
            chain("inet", "firewalld", "filter", "prerouting"),
            chain("ip", "nat", "nat", "prerouting"),
            chain("ip", "filter", "filter", "input"),
            chain("bridge", "filter", "filter", "forward"),
            chain("inet", "overlay", "filter", "prerouting"),
            json!({ "chain": { "family": "ip", "table": "filter", "name": "DOCKER" } }),
        ]);
        let found: Vec<_> = found.iter().map(|chain| chain.table.as_str()).collect();
        assert_eq!(found, ["filter", "firewalld"]);
    }
}
