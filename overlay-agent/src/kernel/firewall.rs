//! The firewall: nftables table `inet overlay`, and an accept of re-entered packets at the head of
//! every foreign chain that could drop or re-mark them.
//!
//! What is set and what is found are both nft's JSON, so whatever others change in our table shows as
//! a difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use crate::dataplane::objects::{Firewall, ForeignChain};

mod command;
mod foreign;
mod generation;
mod legacy;
mod nft;
mod table;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Encrypted networks stay closed without it.
    #[error(
        "the `nft` command is missing: install nftables; until then encrypted networks stay closed"
    )]
    NftMissing,
    #[error(
        "legacy iptables rules are in force, but there is no `{0}` command to let the overlay's packets pass them: install iptables"
    )]
    IptablesMissing(&'static str),
    #[error("cannot run `{program}`: {error}")]
    Run {
        program: &'static str,
        error: std::io::Error,
    },
    #[error("`{program}` could not {action}: {said}{}", hint(.said))]
    Refused {
        program: &'static str,
        action: String,
        said: String,
    },
    #[error("what `{program}` prints cannot be read: {reason}")]
    Output {
        program: &'static str,
        reason: String,
    },
    #[error("cannot read {path}: {error}")]
    Read {
        path: &'static str,
        error: std::io::Error,
    },
    /// What was set is not what is there now.
    #[error("the firewall is not as it was set: {0}")]
    NotInForce(String),
}

/// Packets and their bytes, from the IP header on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// The named counters of table `inet overlay`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// What local processes sent to the underlay port.
    pub local_injection: Count,
    /// What came to the IP stack from a device of ours whose program should have taken it.
    pub stray: Count,
}

fn hint(said: &str) -> &'static str {
    if said.contains("Operation not permitted") {
        " (root, or CAP_NET_ADMIN in this network namespace, is needed; a table that another \
         daemon owns cannot be changed: with firewalld set NftablesTableOwner=no)"
    } else {
        ""
    }
}

/// Rules of ours found in a foreign chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Accept {
    /// The first rule, once, and as we set it.
    in_force: bool,
    /// nftables handles; of legacy iptables the rules as printed.
    rules: Vec<String>,
}

/// What nft lists.
#[derive(Debug)]
struct Listed {
    chains: Vec<Value>,
    /// Our table, if it is there.
    table: Option<Vec<Value>>,
    /// The rules of the foreign chains that re-entered packets pass.
    foreign: BTreeMap<ForeignChain, Vec<Value>>,
}

impl Listed {
    async fn list() -> Result<Self, Error> {
        let chains = nft::list_chains().await?;
        let mut foreign = BTreeMap::new();
        for chain in foreign::chains(&chains) {
            foreign.insert(chain.clone(), nft::list_chain(&chain).await?);
        }
        let table = match table::is_listed(&chains) {
            true => nft::list_table().await?,
            false => None,
        };
        Ok(Self {
            chains,
            table,
            foreign,
        })
    }
}

/// The firewall of one network namespace, looked at from its threads. nft is asked again only when the
/// ruleset has changed: to run it costs more than all else that a look does.
#[derive(Debug, Default)]
pub struct View(Mutex<Option<(u32, Arc<Listed>)>>);

impl View {
    async fn listed(&self) -> Result<Arc<Listed>, Error> {
        let generation = generation::now();
        let known = self.last().clone();
        if let Some((of, listed)) = known
            && Some(of) == generation
        {
            return Ok(listed);
        }
        let listed = Arc::new(Listed::list().await?);
        // It may have changed between two commands.
        let still = generation.filter(|_| generation::now() == generation);
        *self.last() = still.map(|generation| (generation, listed.clone()));
        Ok(listed)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(u32, Arc<Listed>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our firewall as it is; `None` if nothing of it is there.
    pub async fn observe(&self) -> Result<Option<Firewall>, Error> {
        Ok(look(&*self.listed().await?).await?.0)
    }

    /// Every foreign chain that re-entered packets pass.
    pub async fn foreign_chains(&self) -> Result<BTreeSet<ForeignChain>, Error> {
        let mut chains = foreign::chains(&self.listed().await?.chains);
        chains.extend(legacy::chains()?);
        Ok(chains)
    }
}

async fn look(
    listed: &Listed,
) -> Result<(Option<Firewall>, BTreeMap<ForeignChain, Accept>), Error> {
    let accepts = accepts(listed).await?;
    let in_force: BTreeSet<_> = accepts
        .iter()
        .filter(|(_, accept)| accept.in_force)
        .map(|(chain, _)| chain.clone())
        .collect();
    let displaced = accepts
        .iter()
        .find(|(_, accept)| !accept.in_force)
        .map(|(chain, _)| format!("the overlay's accept is not the first rule of {chain:?}"));
    let firewall = match &listed.table {
        Some(table) => Some(Firewall {
            accepts: in_force,
            displaced,
            ..table::read(table)
        }),
        None => (!accepts.is_empty()).then(|| Firewall {
            accepts: in_force,
            altered: Some("the table inet overlay is missing".to_owned()),
            ..Firewall::default()
        }),
    };
    Ok((firewall, accepts))
}

/// Makes the firewall be `wanted`. Our table and the accepts in nftables chains are replaced in one
/// transaction, so there is no instant without the drop.
pub async fn apply(wanted: &Firewall) -> Result<(), Error> {
    let (found, accepts) = look(&Listed::list().await?).await?;
    if found.as_ref() == Some(wanted) {
        return Ok(());
    }
    let mut commands = table::replace(wanted);
    for (chain, accept) in &accepts {
        if !(accept.in_force && wanted.accepts.contains(chain)) {
            commands.extend(foreign::remove(chain, accept));
        }
    }
    for chain in &wanted.accepts {
        if !accepts.get(chain).is_some_and(|accept| accept.in_force) {
            commands.extend(foreign::insert(chain));
        }
    }
    nft::apply("set the overlay's firewall", commands).await?;
    legacy::make_equal(&wanted.accepts).await?;
    match View::default().observe().await? {
        Some(found) if found == *wanted => Ok(()),
        Some(Firewall {
            altered: Some(why), ..
        }) => Err(Error::NotInForce(why)),
        Some(Firewall {
            displaced: Some(why),
            ..
        }) => Err(Error::NotInForce(why)),
        _ => Err(Error::NotInForce(
            "another program changes it at the same time".to_owned(),
        )),
    }
}

/// Removes the table and every accept of ours; what is not there is removed already.
pub async fn remove() -> Result<(), Error> {
    let mut commands = Vec::new();
    let listed = Listed::list().await?;
    if listed.table.is_some() {
        commands.extend(table::remove());
    }
    for (chain, accept) in &accepts(&listed).await? {
        commands.extend(foreign::remove(chain, accept));
    }
    nft::apply("remove the overlay's firewall", commands).await?;
    legacy::make_equal(&BTreeSet::new()).await
}

/// What our table has dropped; `None` without it.
pub async fn counters() -> Result<Option<Counters>, Error> {
    Ok(nft::list_table()
        .await?
        .and_then(|listing| table::counters(&listing)))
}

/// Our accepts in foreign chains.
async fn accepts(listed: &Listed) -> Result<BTreeMap<ForeignChain, Accept>, Error> {
    let mut accepts = BTreeMap::new();
    for (chain, rules) in &listed.foreign {
        if let Some(accept) = foreign::find(rules) {
            accepts.insert(chain.clone(), accept);
        }
    }
    accepts.extend(legacy::find().await?);
    Ok(accepts)
}
