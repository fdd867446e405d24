//! Keeps the kernel equal to a data plane: looks at it, tells what others changed, repairs it, and
//! follows what is wanted anew.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use super::{
    endpoint_link,
    host::{Host, HostError},
    links,
    netns::{Netns, NetnsId},
    observe::{self, Untold},
};
use crate::dataplane::{
    desired::{DataPlane, Keying, LocalEndpoint, NetnsRef},
    drift::{self, Checked, Pace},
    endpoint_name::host_device_name,
    key_id::KeyId,
    objects::{Objects, UnderlayFacts},
    reconcile::{self, Kernel, Known, ReconcileError, Report},
    step::Step,
};

/// Between two looks at what the kernel tells nobody of.
const LOOK: Duration = Duration::from_millis(400);
/// Looking takes at most one part in this many of the time.
const LOOK_SHARE: u32 = 20;

/// When to look again at what the kernel tells nobody of, after a look that took so long.
pub fn next_look(took: Duration) -> Duration {
    LOOK.max(took * LOOK_SHARE)
}

/// What a check finds and does, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The network below changed.
    Underlay(String),
    /// Others changed what is ours, or meet it.
    Alarm(String),
    Repaired(String),
    Problem(String),
    /// A problem has gone.
    Gone(String),
}

impl Told {
    /// Writes it to the log.
    pub fn log(&self) {
        match self {
            Self::Alarm(_) => tracing::error!("{self}"),
            _ => tracing::warn!("{self}"),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Underlay(change) => write!(f, "underlay: {change}"),
            Self::Alarm(alarm) => write!(f, "alarm: {alarm}"),
            Self::Repaired(step) => write!(f, "repaired: {step}"),
            Self::Problem(problem) => f.write_str(problem),
            Self::Gone(problem) => write!(f, "no longer: {problem}"),
        }
    }
}

/// Why a check did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// Something else is wanted. Nothing was done.
    #[error("something else is wanted now")]
    Superseded,
    #[error(transparent)]
    Host(#[from] HostError),
}

/// The kernel, while a look at it may be given up.
struct Interruptible<'a> {
    host: &'a mut Host,
    /// `None` once something was done: then the rest is done, too.
    superseded: Option<Pin<&'a mut (dyn Future<Output = ()> + 'a)>>,
}

impl Interruptible<'_> {
    async fn unless_superseded<T>(
        superseded: &mut Option<Pin<&mut (dyn Future<Output = ()> + '_)>>,
        look: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, Unfinished> {
        match superseded {
            None => Ok(look.await?),
            Some(superseded) => tokio::select! {
                biased;
                () = superseded => Err(Unfinished::Superseded),
                looked = look => Ok(looked?),
            },
        }
    }
}

impl Kernel for Interruptible<'_> {
    type Error = Unfinished;

    async fn facts(&mut self, desired: &DataPlane) -> Result<UnderlayFacts, Unfinished> {
        Self::unless_superseded(&mut self.superseded, self.host.facts(desired)).await
    }

    async fn observe(&mut self) -> Result<Objects, Unfinished> {
        Self::unless_superseded(&mut self.superseded, self.host.observe()).await
    }

    async fn observe_beside(&mut self, known: &Objects) -> Result<Objects, Unfinished> {
        Self::unless_superseded(&mut self.superseded, self.host.observe_beside(known)).await
    }

    fn used_keys(&mut self) -> Result<BTreeSet<KeyId>, Unfinished> {
        Ok(self.host.used_keys()?)
    }

    async fn execute(&mut self, step: &Step) -> Result<(), Unfinished> {
        self.superseded = None;
        Ok(self.host.execute(step).await?)
    }

    async fn execute_batch(&mut self, steps: &[Step]) -> Vec<Result<(), Unfinished>> {
        self.superseded = None;
        let results = self.host.execute_batch(steps).await.into_iter();
        results.map(|result| Ok(result?)).collect()
    }
}

/// What the facts were gathered for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    vteps: BTreeSet<IpAddr>,
    encrypted: bool,
}

impl Asked {
    fn of(desired: &DataPlane) -> Self {
        Self {
            vteps: desired.peers.values().map(|peer| peer.vtep).collect(),
            encrypted: desired.networks.values().any(|network| network.encrypted),
        }
    }

    fn covers(&self, desired: &DataPlane) -> bool {
        let now = Self::of(desired);
        now.vteps.is_subset(&self.vteps) && (self.encrypted || !now.encrypted)
    }
}

/// The data plane of this node, and the kernel that holds it.
pub struct Keeper {
    host: Host,
    desired: DataPlane,
    namespaces: BTreeMap<String, NetnsId>,
    /// What the kernel held when we last left it.
    known: Option<Known>,
    /// What its facts were gathered for; `None` before they are.
    asked: Option<Asked>,
    /// Nothing failed, and nothing of the node itself is wanted otherwise, since the last check.
    sound: bool,
    /// A check has come to its end.
    checked: bool,
    /// Something else has come to be wanted since the last pass: its steps repair nothing.
    wanted_anew: bool,
    /// `None` while a check is due anyway.
    untold: Option<Untold>,
    problems: BTreeSet<String>,
    /// Host-side devices of the endpoints whose namespace is gone.
    gone: BTreeSet<String>,
}

impl Keeper {
    /// Keeps the kernel of `host`, which has taken over.
    pub fn new(host: Host, desired: DataPlane) -> Self {
        Self {
            namespaces: process_namespaces(&desired),
            host,
            desired,
            known: None,
            asked: None,
            sound: false,
            checked: false,
            wanted_anew: false,
            untold: None,
            problems: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Goes on with another look at the same kernel, opened with the settings of `desired`.
    pub fn reopen(&mut self, host: Host, desired: DataPlane) -> Result<(), HostError> {
        // The old one holds the lock on the pins.
        drop(std::mem::replace(&mut self.host, host));
        self.host.take_over()?;
        self.namespaces = process_namespaces(&desired);
        self.desired = desired;
        self.sound = false;
        Ok(())
    }

    pub const fn host(&self) -> &Host {
        &self.host
    }

    pub const fn desired(&self) -> &DataPlane {
        &self.desired
    }

    /// What the kernel held at the last look, with what was done since.
    pub fn left(&self) -> Option<&Objects> {
        self.known.as_ref().map(|known| &known.objects)
    }

    pub const fn problems(&self) -> &BTreeSet<String> {
        &self.problems
    }

    /// Looks at the kernel for the first time.
    pub async fn look(&mut self) -> Result<&Objects, HostError> {
        let objects = self.host.observe().await?;
        self.asked = None;
        let known = self.known.insert(Known {
            objects,
            facts: UnderlayFacts::default(),
        });
        Ok(&known.objects)
    }

    /// This is wanted from now on, with the settings as before.
    pub fn want(&mut self, desired: DataPlane) {
        let before: BTreeMap<String, &NetnsRef> = self
            .desired
            .local_endpoints
            .iter()
            .map(|endpoint| (device(endpoint), &endpoint.netns))
            .collect();
        let named = |endpoint: &&LocalEndpoint| matches!(endpoint.netns, NetnsRef::Pid(_));
        let mut namespaces = BTreeMap::new();
        for endpoint in desired.local_endpoints.iter().filter(named) {
            let device = device(endpoint);
            let known = before.get(&device) == Some(&&endpoint.netns);
            let id = match self.namespaces.get(&device).filter(|_| known) {
                Some(id) => Some(*id),
                None => Netns::open(&endpoint.netns).ok().map(|netns| netns.id()),
            };
            namespaces.extend(id.map(|id| (device, id)));
        }
        self.namespaces = namespaces;
        self.sound &= desired.node == self.desired.node;
        self.wanted_anew = true;
        self.desired = desired;
    }

    /// The kernel has had its chance with each key.
    pub fn forget_keys(&mut self) {
        let peers = self.desired.peers.values_mut();
        for sa in peers.flat_map(|peer| &mut peer.sas) {
            sa.keying = Keying::Adopted;
        }
    }

    /// Makes the kernel equal to what is wanted by what it held when it was last left, if that is
    /// known: a look at everything takes its time. `None` if it is not, and a check is due.
    pub async fn follow(
        &mut self,
        stop: impl FnMut() -> bool,
        tell: &mut dyn FnMut(Told),
    ) -> Result<Option<Report>, ReconcileError<HostError>> {
        if !self.sound {
            return Ok(None);
        }
        let (Some(Known { objects, facts }), Some(asked)) = (&mut self.known, &mut self.asked)
        else {
            return Ok(None);
        };
        let desired = without(&self.desired, &self.gone);
        if !asked.covers(&desired) {
            *facts = self
                .host
                .facts(&desired)
                .await
                .map_err(ReconcileError::Kernel)?;
            *asked = Asked::of(&desired);
        }
        // Our own steps are no difference.
        self.untold = None;
        self.sound = false;
        let report = reconcile::follow(&mut self.host, &desired, facts, objects, stop).await?;
        self.sound = report.failed.is_empty() && !report.interrupted;
        self.wanted_anew = false;
        self.tell_problems(&report, tell);
        Ok(Some(report))
    }

    /// As [`Self::check`], by the rules of `pace`, whose time began at `start`.
    pub async fn check_at(
        &mut self,
        pace: &mut Pace,
        start: Instant,
        superseded: impl Future<Output = ()>,
        stop: impl FnMut() -> bool,
        tell: &mut dyn FnMut(Told),
    ) -> Result<Report, ReconcileError<Unfinished>> {
        let began = Instant::now();
        pace.began();
        let result = self.check(superseded, stop, tell).await;
        if matches!(result, Err(ReconcileError::Kernel(Unfinished::Superseded))) {
            pace.heard(start.elapsed());
            return result;
        }
        let checked = match &result {
            Ok(report) if report.failed.is_empty() => Checked::Complete,
            _ => Checked::Failed,
        };
        pace.ended(start.elapsed(), began.elapsed(), checked);
        if result.as_ref().is_ok_and(|report| !report.done.is_empty()) {
            // What others did to it meanwhile may be of the kind that nobody tells.
            pace.heard(start.elapsed());
        }
        tracing::debug!(took = ?began.elapsed(), ?checked, "checked");
        result
    }

    /// Looks into the namespaces of the endpoints, which takes the longest of a check. `false` if
    /// something else is wanted before it has seen all; it goes on there the next time, by `at_least`
    /// so many. The check that comes to its end next goes by what was seen.
    pub async fn look_inside(
        &mut self,
        superseded: impl Future<Output = ()>,
        at_least: usize,
    ) -> Result<bool, HostError> {
        let Host { rtnl, seen, .. } = &mut self.host;
        if at_least > 0 && endpoint_link::look(rtnl, seen, at_least).await? {
            return Ok(true);
        }
        tokio::select! {
            biased;
            () = superseded => Ok(false),
            all = endpoint_link::look(rtnl, seen, usize::MAX) => Ok(all?),
        }
    }

    /// Observes everything, tells what others changed, and repairs it. A look that is superseded ends
    /// without a step.
    pub async fn check(
        &mut self,
        superseded: impl Future<Output = ()>,
        stop: impl FnMut() -> bool,
        tell: &mut dyn FnMut(Told),
    ) -> Result<Report, ReconcileError<Unfinished>> {
        self.untold = None;
        let mut superseded = std::pin::pin!(superseded);
        let mut superseded: Option<Pin<&mut (dyn Future<Output = ()> + '_)>> =
            Some(superseded.as_mut());
        self.gone = Interruptible::unless_superseded(&mut superseded, self.gone())
            .await
            .map_err(ReconcileError::Kernel)?;
        let untold = Interruptible::unless_superseded(&mut superseded, observe::untold(&self.host))
            .await
            .map_err(ReconcileError::Kernel)?;
        let desired = without(&self.desired, &self.gone);
        let first = !self.checked;
        let mut interruptible = Interruptible {
            host: &mut self.host,
            superseded,
        };
        let asked = &mut self.asked;
        let told = |known: Option<&Known>, found: &Known| {
            if let Some(known) = known {
                tell_changes(known, asked.is_some(), found, tell);
            }
            *asked = Some(Asked::of(&desired));
        };
        let known = &mut self.known;
        let outcome =
            reconcile::reconcile_and_tell(&mut interruptible, &desired, known, stop, told).await;
        let report = match outcome {
            Ok(report) => report,
            Err(error) => {
                self.sound &= matches!(error, ReconcileError::Kernel(Unfinished::Superseded));
                return Err(error);
            }
        };
        if !first && !self.wanted_anew {
            for step in &report.done {
                tell(Told::Repaired(step.to_string()));
            }
        }
        if report.done.is_empty() {
            self.untold = Some(untold);
        }
        self.sound = report.failed.is_empty() && !report.interrupted;
        self.wanted_anew = false;
        self.tell_problems(&report, tell);
        self.checked = true;
        Ok(report)
    }

    /// Whether something differs that the kernel tells nobody of.
    pub async fn differs(&self) -> bool {
        let Some(known) = &self.untold else {
            return false;
        };
        let differs = match observe::untold(&self.host).await {
            Ok(now) => now != *known,
            // The check says what is wrong.
            Err(_) => true,
        };
        differs || self.gone().await.is_ok_and(|gone| gone != self.gone)
    }

    /// Endpoints that have neither a device nor a namespace to make one in.
    async fn gone(&self) -> Result<BTreeSet<String>, HostError> {
        /// A few milliseconds.
        const AT_A_TIME: usize = 128;
        let mut without = Vec::new();
        for endpoints in self.desired.local_endpoints.chunks(AT_A_TIME) {
            let lacking = endpoints.iter().filter(|of| !self.has_namespace(of));
            without.extend(lacking.map(device));
            tokio::task::yield_now().await;
        }
        if without.is_empty() {
            return Ok(BTreeSet::new());
        }
        let devices = links::all(self.host.rtnl()).await?;
        Ok(without
            .into_iter()
            .filter(|name| !devices.contains_key(name))
            .collect())
    }

    fn has_namespace(&self, endpoint: &LocalEndpoint) -> bool {
        let Ok(netns) = Netns::open(&endpoint.netns) else {
            return false;
        };
        match endpoint.netns {
            // The number of a process that has ended is given to another.
            NetnsRef::Pid(_) => self.namespaces.get(&device(endpoint)) == Some(&netns.id()),
            NetnsRef::Name(_) | NetnsRef::Path(_) => true,
        }
    }

    /// Tells which problems are new and which have gone.
    fn tell_problems(&mut self, report: &Report, tell: &mut dyn FnMut(Told)) {
        let mut now: BTreeSet<String> = report.problems.iter().map(ToString::to_string).collect();
        let without = |endpoint: &LocalEndpoint| {
            format!(
                "endpoint {}: removed: its network namespace is gone; remedy: none is needed, it is \
                 made again once the namespace is back",
                endpoint.name
            )
        };
        now.extend(
            self.desired
                .local_endpoints
                .iter()
                .filter(|endpoint| self.gone.contains(&device(endpoint)))
                .map(without),
        );
        if self.checked {
            for problem in now.difference(&self.problems) {
                tell(Told::Problem(problem.clone()));
            }
            for problem in self.problems.difference(&now) {
                tell(Told::Gone(problem.clone()));
            }
        }
        self.problems = now;
    }
}

/// What differs, without the facts if those of `known` were never gathered.
fn tell_changes(known: &Known, facts: bool, found: &Known, tell: &mut dyn FnMut(Told)) {
    if facts {
        for change in drift::underlay(&known.facts, &found.facts) {
            tell(Told::Underlay(change));
        }
        for conflict in drift::conflicts(&known.facts, &found.facts) {
            tell(Told::Alarm(conflict));
        }
    }
    for alarm in drift::alarms(&known.objects, &found.objects) {
        tell(Told::Alarm(alarm));
    }
}

/// The data plane without the endpoints of these devices.
fn without<'a>(desired: &'a DataPlane, gone: &BTreeSet<String>) -> Cow<'a, DataPlane> {
    if gone.is_empty() {
        return Cow::Borrowed(desired);
    }
    let mut desired = desired.clone();
    desired
        .local_endpoints
        .retain(|endpoint| !gone.contains(&device(endpoint)));
    Cow::Owned(desired)
}

fn device(endpoint: &LocalEndpoint) -> String {
    host_device_name(endpoint.vni, endpoint.mac)
}

/// The namespaces that are named by a process, as they are now.
fn process_namespaces(desired: &DataPlane) -> BTreeMap<String, NetnsId> {
    desired
        .local_endpoints
        .iter()
        .filter(|endpoint| matches!(endpoint.netns, NetnsRef::Pid(_)))
        .filter_map(|endpoint| Some((device(endpoint), Netns::open(&endpoint.netns).ok()?.id())))
        .collect()
}
