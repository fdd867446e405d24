//! XFRM states and policies over netlink.
//!
//! Requests are written by this module and not by `xfrmnetlink`: that crate prints whole requests,
//! keys included, in its errors, and leaves copies of them in buffers that nobody zeroizes. A dump
//! of states tells their keys as well. Here a key stands in zeroized memory only, and the kernel is
//! told not to quote requests in its answers (`NETLINK_CAP_ACK`).

use std::{collections::BTreeMap, fs, io, net::IpAddr};

use netlink_packet_xfrm::constants as nl;
use tokio::sync::Mutex;

pub use self::{
    foreign::{Foreign, Severity},
    states::Usage,
};
use self::{socket::Socket, wire::Request};
use crate::dataplane::{
    copy_on_write::CopyOnWrite,
    desired::{Keying, Settings},
    objects::{Policy, PolicyAction, PolicyKey, State, StateKey, StateMode},
};

mod foreign;
mod policies;
mod socket;
mod states;
mod wire;

/// How our objects are told from those of other software.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// Of every SA and template of ours.
    pub reqid: u32,
    /// Of our block policies.
    pub block_priority: u32,
    /// Of our allow policies.
    pub policy_priority: u32,
    /// UDP port of our block policies.
    pub port: u16,
    /// Of the xfrm interface.
    pub if_id: u32,
}

impl Ownership {
    pub fn of(settings: &Settings) -> Self {
        Self {
            reqid: settings.reqid,
            block_priority: settings.block_priority,
            policy_priority: settings.policy_priority,
            port: settings.port,
            if_id: settings.if_id,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot open an XFRM netlink socket: {0} (the kernel needs CONFIG_XFRM_USER, and this process CAP_NET_ADMIN)"
    )]
    Open(#[source] io::Error),
    #[error("XFRM netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused; `said` is its own explanation.
    #[error("cannot {action}: the kernel answered {errno}{}{}", in_brackets(.said), hint(.errno))]
    Refused {
        action: String,
        errno: io::Error,
        said: Option<String>,
    },
    #[error("the kernel's description of {what} cannot be read: {reason}")]
    Malformed { what: &'static str, reason: String },
    /// An SA whose key this process does not know cannot be installed.
    #[error("SA {0} is gone and its key is not known: the pair needs a new slot")]
    KeyUnknown(StateKey),
    #[error("SA {0} exists with another key or other parameters: delete it first")]
    StateExists(StateKey),
    #[error(
        "a policy of other software has the selector of ours ({0}): remove it (`ip xfrm policy` shows it)"
    )]
    PolicyExists(PolicyKey),
    #[error("a replay window of {0} packets is not possible: use 1 to 4096")]
    ReplayWindow(u32),
    #[error("{0} was observed as altered and cannot be created")]
    NotWanted(String),
    #[error("the kernel's list kept changing while it was read")]
    Unstable,
    #[error("cannot read {path}: {error} (the kernel needs CONFIG_XFRM_STATISTICS)")]
    Statistics {
        path: &'static str,
        error: io::Error,
    },
}

fn in_brackets(said: &Option<String>) -> String {
    said.as_ref()
        .map_or_else(String::new, |said| format!(" ({said})"))
}

fn hint(errno: &io::Error) -> &'static str {
    match errno.raw_os_error() {
        Some(libc::EPERM) => "; CAP_NET_ADMIN in this network namespace is needed",
        Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP) => {
            "; the kernel lacks ESP (modules esp4 and esp6) or the mode"
        }
        Some(libc::ENOSYS | libc::ENOENT) => "; the kernel lacks rfc4106(gcm(aes))",
        _ => "",
    }
}

/// In the order of their keys. The first of a key stays, and is told if there is another.
fn by_key<K: Ord, V>(mut all: Vec<(K, V)>, twice: impl Fn(&mut V)) -> Vec<(K, V)> {
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all.dedup_by(|other, one| {
        let again = one.0 == other.0;
        if again {
            twice(&mut one.1);
        }
        again
    });
    all
}

/// The map of these, which are in the order of their keys: `known` if it is that, else one made at once, whose nodes are
/// full.
fn same_or_new<K: Ord, V: PartialEq>(
    known: &CopyOnWrite<BTreeMap<K, V>>,
    all: Vec<(K, V)>,
) -> CopyOnWrite<BTreeMap<K, V>> {
    if known.iter().eq(all.iter().map(|(key, value)| (key, value))) {
        return known.clone();
    }
    all.into_iter().collect()
}

/// A connection to the XFRM database of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Handle {
    ours: Ownership,
    socket: Mutex<Socket>,
}

impl Handle {
    /// Opens a connection in the calling thread's namespace; needs a tokio runtime.
    pub fn open(ours: Ownership) -> Result<Self, Error> {
        Ok(Self {
            ours,
            socket: Mutex::new(Socket::open().map_err(Error::Open)?),
        })
    }

    /// Our outbound policies.
    pub async fn observe_policies(&self) -> Result<BTreeMap<PolicyKey, Policy>, Error> {
        Ok(self.our_policies().await?.into_iter().collect())
    }

    /// Our SAs, without their keys. Larval ones, which have none yet, are left out: installing
    /// resolves them, and else they expire.
    pub async fn observe_states(&self) -> Result<BTreeMap<StateKey, State>, Error> {
        Ok(self.our_states().await?.into_iter().collect())
    }

    /// As [`Self::observe_policies`]: `known`, where they are that.
    pub async fn policies_beside(
        &self,
        known: &CopyOnWrite<BTreeMap<PolicyKey, Policy>>,
    ) -> Result<CopyOnWrite<BTreeMap<PolicyKey, Policy>>, Error> {
        Ok(same_or_new(known, self.our_policies().await?))
    }

    /// As [`Self::observe_states`]: `known`, where they are that.
    pub async fn states_beside(
        &self,
        known: &CopyOnWrite<BTreeMap<StateKey, State>>,
    ) -> Result<CopyOnWrite<BTreeMap<StateKey, State>>, Error> {
        Ok(same_or_new(known, self.our_states().await?))
    }

    async fn our_policies(&self) -> Result<Vec<(PolicyKey, Policy)>, Error> {
        let ours = self.policies(|found| found.ours(&self.ours)).await?;
        Ok(by_key(ours, |twice| twice.action = PolicyAction::Other))
    }

    async fn our_states(&self) -> Result<Vec<(StateKey, State)>, Error> {
        let ours = self.states(|found| found.ours(&self.ours)).await?;
        Ok(by_key(ours, |twice| twice.mode = StateMode::Other))
    }

    /// Counters of our SAs.
    pub async fn state_usage(&self) -> Result<BTreeMap<StateKey, Usage>, Error> {
        let usage = |found: states::Found| Some((found.ours(&self.ours)?.0, found.usage));
        Ok(self.states(usage).await?.into_iter().collect())
    }

    /// What other software has in XFRM that meets our traffic.
    pub async fn foreign(&self, vteps: &[IpAddr]) -> Result<Vec<Foreign>, Error> {
        let policy = |found| foreign::policy(&self.ours, vteps, &found);
        let mut all = self.policies(policy).await?;
        let state = |found| foreign::state(&self.ours, vteps, &found);
        all.extend(self.states(state).await?);
        Ok(all)
    }

    /// What `keep` makes of each policy.
    async fn policies<T>(
        &self,
        mut keep: impl FnMut(policies::Found) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut socket = self.socket.lock().await;
        let parse = |body: &[u8]| Ok(keep(policies::Found::parse(body)?));
        socket.dump(nl::XFRM_MSG_GETPOLICY, parse).await
    }

    /// What `keep` makes of each SA.
    async fn states<T>(
        &self,
        mut keep: impl FnMut(states::Found) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut socket = self.socket.lock().await;
        let parse = |body: &[u8]| Ok(keep(states::Found::parse(body)?));
        socket.dump(nl::XFRM_MSG_GETSA, parse).await
    }

    /// Installs an SA; see [`Self::add_states`].
    pub async fn add_state(&self, key: StateKey, state: &State) -> Result<(), Error> {
        one(self.add_states(&[(key, state)]).await)
    }

    /// Installs SAs, many per system call; the results are in the order of `states`.
    ///
    /// An SA that is there already with the same key and parameters is installed; a larval one is
    /// resolved.
    pub async fn add_states(&self, states: &[(StateKey, &State)]) -> Vec<Result<(), Error>> {
        let mut socket = self.socket.lock().await;
        let requests = states
            .iter()
            .map(|(key, state)| states::install(nl::XFRM_MSG_NEWSA, key, state))
            .collect();
        let mut results = execute(&mut socket, requests).await;
        for (result, (key, wanted)) in results.iter_mut().zip(states) {
            if errno(result) == Some(libc::EEXIST) {
                *result = resolve_existing(&mut socket, key, wanted).await;
            }
        }
        results
    }

    pub async fn delete_state(&self, key: StateKey) -> Result<(), Error> {
        one(self.delete_states(&[key]).await)
    }

    /// Deletes SAs; one that is not there is deleted already.
    pub async fn delete_states(&self, keys: &[StateKey]) -> Vec<Result<(), Error>> {
        let mut socket = self.socket.lock().await;
        let requests = keys.iter().map(|key| Ok(states::delete(key))).collect();
        let results = execute(&mut socket, requests).await;
        results.into_iter().map(absent_is_deleted).collect()
    }

    pub async fn add_policy(&self, key: PolicyKey, policy: Policy) -> Result<(), Error> {
        one(self.add_policies(&[(key, policy)]).await)
    }

    /// Adds policies; one of ours with the same selector and mark is replaced atomically.
    pub async fn add_policies(&self, policies: &[(PolicyKey, Policy)]) -> Vec<Result<(), Error>> {
        let mut socket = self.socket.lock().await;
        let requests = policies
            .iter()
            .map(|(key, policy)| policies::install(nl::XFRM_MSG_NEWPOLICY, key, policy))
            .collect();
        let mut results = execute(&mut socket, requests).await;
        for (result, (key, wanted)) in results.iter_mut().zip(policies) {
            if errno(result) == Some(libc::EEXIST) {
                *result = self.replace_policy(&mut socket, key, wanted).await;
            }
        }
        results
    }

    async fn replace_policy(
        &self,
        socket: &mut Socket,
        key: &PolicyKey,
        wanted: &Policy,
    ) -> Result<(), Error> {
        let found = socket
            .get(policies::question(key), policies::Found::parse)
            .await
            .map_err(|refusal| refusal.into_error(|| format!("look up policy {key}")))?;
        match found.ours(&self.ours) {
            Some((_, found)) if found == *wanted => Ok(()),
            Some(_) => {
                let request = policies::install(nl::XFRM_MSG_UPDPOLICY, key, wanted);
                one(execute(socket, vec![request]).await)
            }
            None => Err(Error::PolicyExists(*key)),
        }
    }

    pub async fn delete_policy(&self, key: PolicyKey) -> Result<(), Error> {
        one(self.delete_policies(&[key]).await)
    }

    /// Deletes outbound policies; one that is not there is deleted already.
    pub async fn delete_policies(&self, keys: &[PolicyKey]) -> Vec<Result<(), Error>> {
        let mut socket = self.socket.lock().await;
        let requests = keys.iter().map(|key| Ok(policies::delete(key))).collect();
        let results = execute(&mut socket, requests).await;
        results.into_iter().map(absent_is_deleted).collect()
    }
}

/// The kernel's error counters of the calling thread's namespace, by their names in
/// Documentation/networking/xfrm_proc.rst.
pub fn errors() -> Result<BTreeMap<String, u64>, Error> {
    // Not /proc/net: that is the namespace of the process' first thread.
    const PATH: &str = "/proc/thread-self/net/xfrm_stat";
    let text = fs::read_to_string(PATH).map_err(|error| Error::Statistics { path: PATH, error })?;
    Ok(parse_errors(&text))
}

fn parse_errors(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, count) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        })
        .collect()
}

/// A request to send, and what it would do in words.
struct Planned {
    request: Request,
    action: String,
}

/// Sends the requests that could be made, and puts the kernel's answers in the place of each.
async fn execute(
    socket: &mut Socket,
    planned: Vec<Result<Planned, Error>>,
) -> Vec<Result<(), Error>> {
    let mut requests = Vec::with_capacity(planned.len());
    let mut slots = Vec::with_capacity(planned.len());
    for planned in planned {
        slots.push(planned.map(|Planned { request, action }| {
            requests.push(request);
            action
        }));
    }
    let mut answers = socket.transact(requests).await.into_iter();
    slots
        .into_iter()
        .map(|slot| {
            let action = slot?;
            match answers.next() {
                Some(answer) => answer.map_err(|refusal| refusal.into_error(|| action)),
                None => Err(Error::Socket(io::ErrorKind::UnexpectedEof.into())),
            }
        })
        .collect()
}

async fn resolve_existing(
    socket: &mut Socket,
    key: &StateKey,
    wanted: &State,
) -> Result<(), Error> {
    let Keying::Keyed(material) = &wanted.keying else {
        return Err(Error::KeyUnknown(*key));
    };
    let (found, same_key) = socket
        .get(states::question(key), |body| {
            Ok((
                states::Found::parse(body)?,
                states::has_key(body, material)?,
            ))
        })
        .await
        .map_err(|refusal| refusal.into_error(|| format!("look up SA {key}")))?;
    if found.larval {
        // Only of a larval SA does an update take the key over (xfrm_state_update).
        let request = states::install(nl::XFRM_MSG_UPDSA, key, wanted);
        return one(execute(socket, vec![request]).await);
    }
    let same = same_key
        && found.key == Some(*key)
        && found.reqid == wanted.reqid
        && states::equal(&found.state, wanted);
    if same {
        Ok(())
    } else {
        Err(Error::StateExists(*key))
    }
}

fn one(results: Vec<Result<(), Error>>) -> Result<(), Error> {
    results.into_iter().collect()
}

fn errno(result: &Result<(), Error>) -> Option<i32> {
    match result {
        Err(Error::Refused { errno, .. }) => errno.raw_os_error(),
        _ => None,
    }
}

fn absent_is_deleted(result: Result<(), Error>) -> Result<(), Error> {
    match errno(&result) {
        Some(libc::ESRCH | libc::ENOENT) => Ok(()),
        _ => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_counters_are_read_by_name() {
        let text = "XfrmInError             \t0\nXfrmInNoPols            \t12\nnonsense\n";
        let counters = parse_errors(text);
        assert_eq!(counters.len(), 2);
        assert_eq!(counters["XfrmInNoPols"], 12);
    }
}
