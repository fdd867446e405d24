//! Accepts in the chains of legacy iptables, where its tables are in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use super::{Accept, Error, command, foreign::COMMENT};
use crate::dataplane::objects::{ChainFamily, ForeignChain, REENTRY};

/// Chains that filter where re-entered packets pass.
const CHAINS: [(&str, &str); 4] = [
    ("filter", "FORWARD"),
    ("mangle", "FORWARD"),
    ("mangle", "PREROUTING"),
    ("raw", "PREROUTING"),
];

/// Per family: its program, and the file that names the tables in use. Listing a table that is not
/// in use would put it in use.
const FAMILIES: [(ChainFamily, &str, &str); 2] = [
    (
        ChainFamily::LegacyIp,
        "iptables-legacy",
        "/proc/thread-self/net/ip_tables_names",
    ),
    (
        ChainFamily::LegacyIp6,
        "ip6tables-legacy",
        "/proc/thread-self/net/ip6_tables_names",
    ),
];

/// The chains of the tables in use.
pub(super) fn chains() -> Result<BTreeSet<ForeignChain>, Error> {
    let mut chains = BTreeSet::new();
    for (family, _, path) in FAMILIES {
        let names = match fs::read_to_string(path) {
            Ok(names) => names,
            // A kernel without legacy iptables.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::Read { path, error }),
        };
        chains.extend(chains_of(family, &names));
    }
    Ok(chains)
}

fn chains_of(family: ChainFamily, names: &str) -> impl Iterator<Item = ForeignChain> {
    CHAINS
        .into_iter()
        .filter(|(table, _)| names.lines().any(|name| name == *table))
        .map(move |(table, chain)| ForeignChain {
            family,
            table: table.to_owned(),
            chain: chain.to_owned(),
        })
}

fn program(family: ChainFamily) -> &'static str {
    FAMILIES
        .into_iter()
        .find(|(known, _, _)| *known == family)
        .map_or("iptables-legacy", |(_, program, _)| program)
}

/// Our rules. Without the program nobody can tell: then none is found, and setting one fails.
pub(super) async fn find() -> Result<BTreeMap<ForeignChain, Accept>, Error> {
    let mut found = BTreeMap::new();
    for chain in chains()? {
        let arguments = ["-w", "-t", &chain.table, "-S", &chain.chain];
        let Some(output) = command::run(program(chain.family), &arguments, b"").await? else {
            continue;
        };
        if output.success {
            let listing = String::from_utf8_lossy(&output.stdout).into_owned();
            if let Some(accept) = read(&chain.chain, &listing) {
                found.insert(chain, accept);
            }
        }
    }
    Ok(found)
}

fn rule() -> String {
    format!("-i {REENTRY} -m comment --comment \"{COMMENT}\" -j ACCEPT")
}

/// Reads what `iptables -S CHAIN` prints.
fn read(chain: &str, listing: &str) -> Option<Accept> {
    let append = format!("-A {chain} ");
    let rules: Vec<_> = listing
        .lines()
        .filter_map(|line| line.strip_prefix(&append))
        .collect();
    let rule = rule();
    let count = rules.iter().filter(|found| **found == rule).count();
    (count > 0).then(|| Accept {
        in_force: count == 1 && rules.first() == Some(&rule.as_str()),
        rules: vec![rule; count],
    })
}

/// Makes our rules stand in `wanted` and nowhere else.
pub(super) async fn make_equal(wanted: &BTreeSet<ForeignChain>) -> Result<(), Error> {
    let found = find().await?;
    for (chain, accept) in &found {
        if !(accept.in_force && wanted.contains(chain)) {
            for _ in &accept.rules {
                change("-D", &[], chain).await?;
            }
        }
    }
    for chain in wanted {
        let legacy = matches!(chain.family, ChainFamily::LegacyIp | ChainFamily::LegacyIp6);
        if legacy && !found.get(chain).is_some_and(|accept| accept.in_force) {
            change("-I", &["1"], chain).await?;
        }
    }
    Ok(())
}

async fn change(verb: &str, position: &[&str], chain: &ForeignChain) -> Result<(), Error> {
    let program = program(chain.family);
    let mut arguments = vec!["-w", "-t", &chain.table, verb, &chain.chain];
    arguments.extend(position);
    arguments.extend([
        "-i",
        REENTRY,
        "-m",
        "comment",
        "--comment",
        COMMENT,
        "-j",
        "ACCEPT",
    ]);
    let output = command::run(program, &arguments, b"")
        .await?
        .ok_or(Error::IptablesMissing(program))?;
    if output.success {
        return Ok(());
    }
    Err(Error::Refused {
        program,
        action: format!(
            "let re-entered packets pass chain {} of table {}",
            chain.chain, chain.table
        ),
        said: output.stderr,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_in_use_give_their_chains() {
        let chains: Vec<_> = chains_of(ChainFamily::LegacyIp, "nat\nmangle\n").collect();
        assert_eq!(chains.len(), 2);
        assert!(chains.iter().all(|chain| chain.table == "mangle"));
    }

    #[test]
    fn accept_is_in_force_only_as_the_first_rule() {
        let ours = format!("-A FORWARD {}\n", rule());
        let other = "-A FORWARD -j DOCKER-USER\n";
        let in_force = |listing: &str| read("FORWARD", listing).map(|accept| accept.in_force);
        let policy = "-P FORWARD DROP\n";
        assert_eq!(in_force(&format!("{policy}{ours}{other}")), Some(true));
        assert_eq!(in_force(&format!("{policy}{other}{ours}")), Some(false));
        assert_eq!(in_force(&format!("{policy}{ours}{ours}")), Some(false));
        assert_eq!(in_force(&format!("{policy}{other}")), None);
    }
}
