//! The kernel of this host, kept by [`Keeper`].

use std::{
    collections::BTreeMap,
    future::pending,
    time::{Duration, Instant},
};

use overlay_ebpf::abi::Epoch;

use super::{DataPath, Found, News, Orders, Outcome, held};
use crate::{
    dataplane::{
        desired::{DataPlane, Settings},
        drift::Pace,
        endpoint_name::host_device_name,
        reconcile::{self, ReconcileError, Report, Why},
        step::{MapWrite, Step},
    },
    kernel::{
        bpf,
        host::{Directories, Host},
        keeper::{Keeper, Told, Unfinished, next_look},
        monitor::Monitor,
    },
    memory,
    state::last_desired::{LastDesired, Record},
};

/// A check that new orders meet is given up for them, but not for longer: then it goes on between them.
const UNCHECKED: Duration = Duration::from_secs(10);
/// By so many endpoints, some ten milliseconds.
const BETWEEN: usize = 8;
/// Endpoints come one after the other: from an order to the next look, unless one is overdue.
const QUIET: Duration = Duration::from_millis(250);
/// A check that has not come to its end for so long lets orders wait.
const OVERDUE: Duration = Duration::from_secs(30);
/// From a change to the record of what is wanted, which `overlay dataplane show` reads.
const RECORD: Duration = Duration::from_millis(500);
/// From work on what is wanted to giving back the memory of its copies; what comes meanwhile makes it no later.
const GIVE_BACK: Duration = Duration::from_secs(1);
/// The rest of the agent works without telling.
const GIVE_BACK_ANYWAY: Duration = Duration::from_secs(10);
/// Between two looks at what the SAs have carried.
const USAGE: Duration = Duration::from_secs(20);

/// The kernel of this host.
pub struct HostPath {
    directories: Directories,
    /// How it is opened to look before anything is wanted.
    initial: DataPlane,
    keeper: Option<Keeper>,
    monitor: Option<Monitor>,
    start: Instant,
    pace: Pace,
    look_at: Instant,
    usage_at: Instant,
    /// The last check that came to its end.
    checked: Instant,
    /// The last order that was followed.
    followed: Instant,
    /// What is wanted is not as it is on record, since then.
    record_since: Option<Instant>,
    give_back_at: Instant,
    /// What was wanted before may have left something.
    unsettled: bool,
    /// Settings whose objects may be there.
    last: Vec<Settings>,
    /// Of the SAs that were last wanted.
    oldest_epoch: Option<Epoch>,
    problem: Option<String>,
}

impl HostPath {
    /// `initial` is an empty data plane with the settings that are likely to come.
    pub fn new(directories: Directories, initial: DataPlane) -> Self {
        let now = Instant::now();
        Self {
            directories,
            initial,
            keeper: None,
            monitor: None,
            start: now,
            pace: Pace::new(Duration::ZERO),
            look_at: now,
            usage_at: now,
            checked: now,
            followed: now,
            record_since: None,
            give_back_at: now + GIVE_BACK_ANYWAY,
            unsettled: true,
            last: Vec::new(),
            oldest_epoch: None,
            problem: None,
        }
    }

    fn open(&self, desired: &DataPlane) -> Result<Host, String> {
        let mut host = Host::open(self.directories.clone(), &desired.settings, &self.last)
            .map_err(|error| error.to_string())?;
        host.keys_are_of_epochs();
        Ok(host)
    }

    /// Wants `desired`, whatever its settings.
    fn want(&mut self, desired: DataPlane) -> Result<(), String> {
        let reopened = match &self.keeper {
            Some(keeper) if keeper.desired().settings == desired.settings => None,
            _ => Some(self.open(&desired)?),
        };
        let first = self.record_since.is_none() && self.unsettled;
        match (&mut self.keeper, reopened) {
            (Some(keeper), None) => keeper.want(desired),
            (Some(keeper), Some(host)) => {
                keeper
                    .reopen(host, desired)
                    .map_err(|error| error.to_string())?;
                self.unsettled = true;
                return self.record();
            }
            (None, _) => return Err("the kernel was not taken over".to_owned()),
        }
        if first {
            // Before the first step: `overlay dataplane clear` finds our objects by the settings.
            return self.record();
        }
        self.record_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Writes down what is wanted, without its keys.
    fn record(&mut self) -> Result<(), String> {
        self.record_since = None;
        self.worked();
        let Some(keeper) = &self.keeper else {
            return Ok(());
        };
        let desired = keeper.desired();
        let record = if self.unsettled {
            Record::new(desired, &self.last)
        } else {
            Record::settled(desired)
        };
        record
            .write(&self.directories.run)
            .map_err(|error| error.to_string())?;
        self.last = record.settings();
        Ok(())
    }

    fn worked(&mut self) {
        self.give_back_at = self.give_back_at.min(Instant::now() + GIVE_BACK);
    }

    fn give_back(&mut self) {
        self.give_back_at = Instant::now() + GIVE_BACK_ANYWAY;
        memory::give_back();
    }

    fn recorded(&mut self) {
        if let Err(error) = self.record() {
            tracing::warn!(%error, "`overlay dataplane show` goes by what was wanted earlier");
        }
    }

    /// The kernel has had its chance with each key.
    fn forget_keys(&mut self) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        keeper.forget_keys();
        let oldest = oldest_epoch(keeper.desired());
        if oldest.is_none() || oldest == self.oldest_epoch {
            return;
        }
        if oldest > self.oldest_epoch
            && self.oldest_epoch.is_some()
            && let Err(error) = keeper.host().end_epoch()
        {
            tracing::warn!(%error, "the ledger of used keys grows longer than it need be");
        }
        self.oldest_epoch = oldest;
    }

    /// What an attempt came to.
    fn outcome(&mut self, report: Option<&Report>) -> Outcome {
        let Some(keeper) = &self.keeper else {
            return Outcome::default();
        };
        let desired = keeper.desired();
        let vteps: BTreeMap<_, _> = desired
            .peers
            .values()
            .map(|peer| (peer.index, peer.vtep))
            .collect();
        let mut outcome = Outcome {
            attempt: 0,
            held: keeper
                .left()
                .map(|left| held::held(left, &vteps))
                .unwrap_or_default(),
            local_endpoints: desired.local_endpoints.len(),
            remote_endpoints: desired.remote_endpoints.len(),
            problems: keeper.problems().clone(),
            refused: BTreeMap::new(),
        };
        outcome.problems.extend(self.problem.clone());
        if let Some(report) = report {
            for failure in &report.failed {
                let (Why::Refused(why) | Why::Blocked(why)) = &failure.why;
                outcome.problems.insert(format!("{}: {why}", failure.step));
                if let Some(device) = endpoint_of(&failure.step) {
                    outcome.refused.entry(device).or_insert(why.clone());
                }
            }
            for step in &report.unsettled {
                outcome.problems.insert(format!(
                    "{step}: it was done and is due again: find what other software undoes it"
                ));
            }
        }
        let closing = report.and_then(|report| {
            let mut problems = report.problems.iter();
            problems.find(|problem| problem.closes)
        });
        for endpoint in &desired.local_endpoints {
            let device = host_device_name(endpoint.vni, endpoint.mac);
            let stands = keeper
                .left()
                .is_some_and(|left| left.endpoints.contains_key(&device));
            if !stands {
                let why = || match (&self.problem, closing) {
                    (Some(problem), _) => problem.clone(),
                    (None, Some(problem)) => problem.to_string(),
                    (None, None) => "its device is not there".to_owned(),
                };
                outcome.refused.entry(device).or_insert_with(why);
            }
        }
        outcome
    }

    async fn checked(
        &mut self,
        superseded: impl Future<Output = ()>,
        orders: &Orders,
        tell: &mut dyn FnMut(News),
    ) -> Option<Outcome> {
        // It is about to make copies of its own.
        self.give_back();
        let keeper = self.keeper.as_mut()?;
        let mut told = |told: Told| {
            told.log();
            tell(News::Told(told));
        };
        let checked = keeper
            .check_at(
                &mut self.pace,
                self.start,
                superseded,
                || orders.closed(),
                &mut told,
            )
            .await;
        match checked {
            Ok(report) => {
                self.checked = Instant::now();
                self.worked();
                self.problem = None;
                self.forget_keys();
                if self.unsettled && report.failed.is_empty() && !report.interrupted {
                    self.unsettled = false;
                    self.record_since.get_or_insert_with(Instant::now);
                }
                Some(self.outcome(Some(&report)))
            }
            Err(ReconcileError::Kernel(Unfinished::Superseded)) => None,
            Err(error) => {
                tracing::error!("cannot check the data path, trying again: {error:#}");
                self.problem = Some(error.to_string());
                Some(self.outcome(None))
            }
        }
    }

    async fn tell_usage(&mut self, tell: &mut dyn FnMut(News)) {
        self.usage_at = Instant::now() + USAGE;
        let Some((keeper, left)) = self
            .keeper
            .as_ref()
            .and_then(|keeper| Some((keeper, keeper.left()?)))
        else {
            return;
        };
        if left.states.is_empty() {
            return;
        }
        match keeper.host().xfrm().state_usage().await {
            Ok(used) => tell(News::Usage(held::usage(left, &used))),
            Err(error) => tracing::warn!(%error, "cannot read what the SAs have carried"),
        }
    }
}

/// The oldest epoch of which an SA is wanted.
fn oldest_epoch(desired: &DataPlane) -> Option<Epoch> {
    let sas = desired.peers.values().flat_map(|peer| &peer.sas);
    sas.map(|sa| sa.epoch).min()
}

/// The host-side device of the endpoint that a step is of.
fn endpoint_of(step: &Step) -> Option<String> {
    match step {
        Step::CreateEndpoint(device, _) | Step::Map(MapWrite::LocalPort(device, _)) => {
            Some(device.clone())
        }
        Step::Attach(attachment) => Some(attachment.device.clone()),
        _ => None,
    }
}

impl DataPath for HostPath {
    async fn take_over(&mut self) -> Result<Found, String> {
        // Before the first observation: what changes after it is heard of.
        self.monitor = Some(Monitor::open().map_err(|error| error.to_string())?);
        let last = LastDesired::read(&self.directories.run).map_err(|error| error.to_string())?;
        self.last = last.as_ref().map(LastDesired::settings).unwrap_or_default();
        let initial = self.initial.clone();
        let mut host = self.open(&initial)?;
        host.take_over().map_err(|error| error.to_string())?;
        let keeper = self.keeper.insert(Keeper::new(host, initial));
        let left = keeper.look().await.map_err(|error| error.to_string())?;
        Ok(held::found(left))
    }

    async fn apply(
        &mut self,
        desired: DataPlane,
        orders: &Orders,
        tell: &mut dyn FnMut(News),
    ) -> Outcome {
        self.worked();
        if let Err(error) = self.want(desired) {
            tracing::error!(%error, "the data path stays as it is");
            self.problem = Some(error);
            return self.outcome(None);
        }
        let Some(keeper) = self.keeper.as_mut() else {
            return Outcome::default();
        };
        let began = Instant::now();
        let mut told = |told: Told| {
            told.log();
            tell(News::Told(told));
        };
        match keeper.follow(|| orders.closed(), &mut told).await {
            Ok(Some(report)) if report.failed.is_empty() => {
                self.problem = None;
                self.forget_keys();
                if !report.done.is_empty() {
                    // It is looked at once more, as soon as nothing else is to be done.
                    self.pace.heard(self.start.elapsed());
                }
                self.followed = Instant::now();
                bpf::settle_soon();
                tracing::debug!(took = ?began.elapsed(), steps = report.done.len(), "followed");
                return self.outcome(Some(&report));
            }
            // What failed is looked at as it is now.
            Ok(_) => {}
            Err(error) => {
                tracing::error!("cannot follow what is wanted: {error}");
            }
        }
        let checked = self.checked(pending(), orders, tell).await;
        checked.unwrap_or_default()
    }

    async fn due(&mut self) {
        let at = tokio::time::Instant::from_std;
        loop {
            let next = self.record_since.map(|since| since + RECORD);
            let quiet = if self.checked.elapsed() > UNCHECKED {
                self.followed
            } else {
                self.followed + QUIET
            };
            let check_at = quiet.max(self.start + self.pace.due());
            let look_at = quiet.max(self.look_at);
            let give_back_at = self.give_back_at;
            let monitor = async {
                match &mut self.monitor {
                    Some(monitor) => monitor.changed().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // The timers before the monitor: a flood of messages does not delay the check.
                biased;
                () = tokio::time::sleep_until(at(check_at)) => return,
                () = tokio::time::sleep_until(at(self.usage_at)) => return,
                () = tokio::time::sleep_until(at(look_at)) => {
                    let began = Instant::now();
                    if let Some(keeper) = &self.keeper
                        && keeper.differs().await
                    {
                        self.pace.seen(self.start.elapsed());
                    }
                    self.look_at = Instant::now() + next_look(began.elapsed());
                }
                () = async {
                    match next {
                        Some(next) => tokio::time::sleep_until(at(next)).await,
                        None => pending().await,
                    }
                } => self.recorded(),
                () = tokio::time::sleep_until(at(give_back_at)) => self.give_back(),
                heard = monitor => match heard {
                    Ok(origin) => {
                        tracing::trace!(%origin, "heard of a change");
                        self.pace.heard(self.start.elapsed());
                    }
                    Err(error) => {
                        tracing::error!(%error, "changes are found by the regular look alone");
                        self.monitor = None;
                    }
                },
            }
        }
    }

    async fn check(&mut self, orders: &Orders, tell: &mut dyn FnMut(News)) -> Option<Outcome> {
        if self.usage_at <= Instant::now() {
            self.tell_usage(tell).await;
        }
        if self.pace.due() > self.start.elapsed() {
            return None;
        }
        let unchecked = self.checked.elapsed();
        if unchecked < OVERDUE
            && let Some(keeper) = &mut self.keeper
        {
            let at_least = if unchecked > UNCHECKED { BETWEEN } else { 0 };
            // Why a look fails, the check says.
            if let Ok(false) = keeper.look_inside(orders.superseded(), at_least).await {
                self.pace.heard(self.start.elapsed());
                return None;
            }
        }
        if unchecked > UNCHECKED {
            self.checked(pending(), orders, tell).await
        } else {
            self.checked(orders.superseded(), orders, tell).await
        }
    }

    async fn clear(&mut self) -> Result<(), String> {
        self.record_since = None;
        let desired = match &self.keeper {
            Some(keeper) => keeper.desired().clone(),
            None => self.initial.clone(),
        };
        self.keeper = None;
        let mut host = self.open(&desired)?;
        host.take_over().map_err(|error| error.to_string())?;
        let report = reconcile::clear(&mut host, || false)
            .await
            .map_err(|error| error.to_string())?;
        if let Some(failure) = report.failed.first() {
            let (Why::Refused(why) | Why::Blocked(why)) = &failure.why;
            return Err(format!("{}: {why}", failure.step));
        }
        LastDesired::remove(&self.directories.run).map_err(|error| error.to_string())?;
        self.last = Vec::new();
        Ok(())
    }

    async fn end(&mut self) {
        if self.record_since.is_some() {
            self.recorded();
        }
    }
}
