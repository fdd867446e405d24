use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Outcome, apply, report, stop::Stop};
use crate::{
    dataplane::{
        desired::{DataPlane, LocalEndpoint, NetnsRef},
        drift::{self, Checked, Pace},
        endpoint_name::host_device_name,
        objects::{Objects, UnderlayFacts},
        reconcile::{self, ReconcileError, Report},
    },
    kernel::{
        host::{Directories, Host, HostError},
        links,
        monitor::Monitor,
        netns::{Netns, NetnsId},
        observe::{self, Untold},
    },
    state::last_desired::LastDesired,
};

/// Between two looks at what the kernel tells nobody of.
const LOOK: Duration = Duration::from_millis(400);
/// Looking takes at most one part in this many of the time.
const LOOK_SHARE: u32 = 20;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Desired data plane, TOML or JSON
    file: PathBuf,
}

pub async fn run(directories: Directories, arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Before the first observation: what changes after it is heard of.
    let mut monitor = Monitor::open()?;
    let mut watch = Watch::start(directories, arguments.file.clone())?;

    let start = Instant::now();
    let mut pace = Pace::new(Duration::ZERO);
    let first = watch.check(&mut pace, start).await?;
    report::print(&first, true);
    println!("watching {}", arguments.file.display());

    let mut next_look = Instant::now() + LOOK;
    let at = tokio::time::Instant::from_std;
    // Between steps it has been seen already.
    while !watch.stop.requested() {
        tokio::select! {
            // The timers before the monitor: a flood of messages does not delay the check.
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => {
                watch.reload()?;
                pace.seen(start.elapsed());
            }
            () = tokio::time::sleep_until(at(start + pace.due())) => {
                if let Err(Failure::Input(error) | Failure::Host(error)) =
                    watch.check(&mut pace, start).await
                {
                    tracing::error!("cannot check the data path, trying again: {error:#}");
                }
            }
            () = tokio::time::sleep_until(at(next_look)) => {
                let began = Instant::now();
                if watch.differs().await {
                    pace.seen(start.elapsed());
                }
                next_look = Instant::now() + LOOK.max(began.elapsed() * LOOK_SHARE);
            }
            heard = monitor.changed() => {
                tracing::debug!(origin = %heard?, "heard of a change");
                pace.heard(start.elapsed());
            }
        }
    }
    println!("not watching any more; the data path stays");
    Ok(Outcome::Good)
}

struct Watch {
    directories: Directories,
    file: PathBuf,
    stop: Stop,
    host: Host,
    desired: DataPlane,
    /// To be settled once a check has come to its end.
    unsettled: Option<LastDesired>,
    namespaces: BTreeMap<String, NetnsId>,
    /// What the kernel held when we last left it.
    left: Option<Objects>,
    facts: Option<UnderlayFacts>,
    /// `None` while a check is due anyway.
    untold: Option<Untold>,
    problems: BTreeSet<String>,
    /// Host-side devices of the endpoints whose namespace is gone.
    gone: BTreeSet<String>,
}

impl Watch {
    fn start(directories: Directories, path: PathBuf) -> Result<Self, Failure> {
        let (file, desired) = apply::read(&path)?;
        let (mut host, last) = apply::open(&directories, &desired)?;
        let stop = Stop::watch()?;
        host.take_over()?;
        let next = LastDesired::new(file, &desired).after(last.as_ref());
        next.write(&directories.run)?;
        Ok(Self {
            namespaces: process_namespaces(&desired),
            directories,
            file: path,
            stop,
            host,
            desired,
            unsettled: Some(next),
            left: None,
            facts: None,
            untold: None,
            problems: BTreeSet::new(),
            gone: BTreeSet::new(),
        })
    }

    /// Reads the file again. One that makes no sense changes nothing.
    fn reload(&mut self) -> Result<(), Failure> {
        let (file, desired) = match apply::read(&self.file) {
            Ok(read) => read,
            Err(Failure::Input(error) | Failure::Host(error)) => {
                tracing::error!("the data path stays as it is: {error:#}");
                return Ok(());
            }
        };
        let (host, last) = apply::open(&self.directories, &desired)?;
        // The old one holds the lock on the pins.
        drop(std::mem::replace(&mut self.host, host));
        self.host.take_over()?;
        let next = LastDesired::new(file, &desired).after(last.as_ref());
        next.write(&self.directories.run)?;
        tracing::warn!("read {} again", self.file.display());
        self.namespaces = process_namespaces(&desired);
        self.desired = desired;
        self.unsettled = Some(next);
        Ok(())
    }

    /// Observes everything, says what others changed, and repairs it.
    async fn check(&mut self, pace: &mut Pace, start: Instant) -> Result<Report, Failure> {
        let began = Instant::now();
        pace.began();
        let result = self.reconcile().await;
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

    async fn reconcile(&mut self) -> Result<Report, Failure> {
        self.untold = None;
        self.gone = self.gone().await?;
        let untold = observe::untold(&self.host)?;
        let mut desired = self.desired.clone();
        desired
            .local_endpoints
            .retain(|endpoint| !self.gone.contains(&device(endpoint)));
        let first = self.left.is_none();
        let (before, facts) = (self.left.take(), self.facts.take());
        let mut seen = None;
        let stop = self.stop.clone();
        let outcome = reconcile::reconcile_and_tell(
            &mut self.host,
            &desired,
            || stop.requested(),
            |pass| {
                if pass.done == 0 {
                    tell(before.as_ref(), facts.as_ref(), &pass);
                }
                seen = Some((pass.observed.clone(), pass.facts.clone(), pass.done));
            },
        )
        .await;
        let report = match outcome {
            Ok(report) => report,
            Err(error) => {
                // Nothing is known of now: what was left is still what to compare with.
                (self.left, self.facts) = (before, facts);
                return Err(match error {
                    error @ ReconcileError::Invalid(_) => Failure::input(error),
                    error => error.into(),
                });
            }
        };
        if let Some((mut objects, facts, done)) = seen {
            for step in &report.done[done..] {
                objects.apply(step);
            }
            (self.left, self.facts) = (Some(objects), Some(facts));
        }
        if !first {
            for step in &report.done {
                tracing::warn!("repaired: {step}");
            }
        }
        if report.done.is_empty() {
            self.untold = Some(untold);
        }
        self.problems(&report, first);
        if report.failed.is_empty()
            && !report.interrupted
            && let Some(next) = self.unsettled.take()
        {
            next.settled().write(&self.directories.run)?;
        }
        Ok(report)
    }

    /// Whether something differs that the kernel tells nobody of.
    async fn differs(&self) -> bool {
        let Some(known) = &self.untold else {
            return false;
        };
        let differs = match observe::untold(&self.host) {
            Ok(now) => now != *known,
            // The check says what is wrong.
            Err(_) => true,
        };
        differs || self.gone().await.is_ok_and(|gone| gone != self.gone)
    }

    /// Endpoints that have neither a device nor a namespace to make one in.
    async fn gone(&self) -> Result<BTreeSet<String>, HostError> {
        let without: Vec<String> = self
            .desired
            .local_endpoints
            .iter()
            .filter(|endpoint| !self.has_namespace(endpoint))
            .map(device)
            .collect();
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

    /// Says which problems are new and which have gone.
    fn problems(&mut self, report: &Report, first: bool) {
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
        if !first {
            for problem in now.difference(&self.problems) {
                tracing::warn!("{problem}");
            }
            for problem in self.problems.difference(&now) {
                tracing::warn!("no longer: {problem}");
            }
        }
        self.problems = now;
    }
}

fn tell(before: Option<&Objects>, facts: Option<&UnderlayFacts>, pass: &reconcile::Pass<'_>) {
    if let Some(facts) = facts {
        for change in drift::underlay(facts, pass.facts) {
            tracing::warn!("underlay: {change}");
        }
        for conflict in drift::conflicts(facts, pass.facts) {
            tracing::error!("alarm: {conflict}");
        }
    }
    if let Some(before) = before {
        for alarm in drift::alarms(before, pass.observed) {
            tracing::error!("alarm: {alarm}");
        }
    }
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
