//! Observe, compile, diff, execute: until the kernel holds what is wanted.

use std::collections::BTreeSet;

use super::{
    admit::admit,
    batch,
    compile::{CLOSED, Compiled, compile_beside},
    desired::{DataPlane, Keying},
    diff::diff,
    guard::{self, Guard},
    key_id::KeyId,
    objects::{Objects, PeerEntry, UnderlayFacts},
    problem::Problem,
    step::{MapWrite, Step},
    validate::Invalid,
};

/// The kernel of one node, and what survives a restart of the agent.
pub trait Kernel {
    /// What was attempted, on what, what the kernel answered, and what the operator can do.
    type Error: std::error::Error;

    fn facts(
        &mut self,
        desired: &DataPlane,
    ) -> impl Future<Output = Result<UnderlayFacts, Self::Error>>;

    /// Everything of ours that is there.
    fn observe(&mut self) -> impl Future<Output = Result<Objects, Self::Error>>;

    /// As [`Self::observe`]. What grows with the cluster and is as it is in `known` need not be made anew.
    fn observe_beside(
        &mut self,
        known: &Objects,
    ) -> impl Future<Output = Result<Objects, Self::Error>> {
        let _not_needed = known;
        self.observe()
    }

    /// Keys ever installed on this node.
    fn used_keys(&mut self) -> Result<BTreeSet<KeyId>, Self::Error>;

    /// Does one step. A key is recorded as used, durably, before it is installed.
    fn execute(&mut self, step: &Step) -> impl Future<Output = Result<(), Self::Error>>;

    /// Does the steps of a [`batch`] in their order, each whatever became of the others. The results
    /// are as many, and in that order.
    fn execute_batch(
        &mut self,
        steps: &[Step],
    ) -> impl Future<Output = Vec<Result<(), Self::Error>>> {
        async move {
            let mut results = Vec::with_capacity(steps.len());
            for step in steps {
                results.push(self.execute(step).await);
            }
            results
        }
    }
}

/// Steps and problems, before anything is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub wanted: Objects,
    pub steps: Vec<Step>,
    pub problems: Vec<Problem>,
}

/// Decides what to do. Pure.
pub fn plan(
    desired: &DataPlane,
    facts: &UnderlayFacts,
    observed: &Objects,
    used: &BTreeSet<KeyId>,
) -> Result<Plan, Vec<Invalid>> {
    let mut compiled: Compiled = compile_beside(desired, facts, observed)?;
    admit(&mut compiled, desired, observed, used);
    let Compiled {
        mut objects,
        problems,
    } = compiled;
    if objects.maps.sas == observed.maps.sas {
        objects.maps.sas = observed.maps.sas.clone();
    }
    let mut steps = diff(&objects, observed);
    steps.shrink_to_fit();
    Ok(Plan {
        wanted: objects,
        steps,
        problems,
    })
}

/// What a reconciliation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub done: Vec<Step>,
    pub failed: Vec<Failure>,
    pub problems: Vec<Problem>,
    /// Stopped by the operator with steps left to do.
    pub interrupted: bool,
    /// Due again after every pass: something else undoes them.
    pub unsettled: Vec<Step>,
}

/// A step that is not done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub step: Step,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The kernel refused.
    Refused(String),
    /// It depends on a step that failed.
    Blocked(String),
}

impl Report {
    /// Whether everything that is desired is there.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
            && !self.interrupted
            && self.unsettled.is_empty()
            && !self.problems.iter().any(|problem| problem.closes)
    }
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError<E> {
    #[error("the desired data plane is invalid: {}", list(.0))]
    Invalid(Vec<Invalid>),
    #[error("cannot observe the kernel: {0}")]
    Kernel(E),
}

fn list(errors: &[Invalid]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Passes before giving up on a kernel that keeps changing under us.
const PASSES: usize = 3;

/// What the kernel holds, and what is below it: as it was at the last look, with what was done since.
#[derive(Debug, Default)]
pub struct Known {
    pub objects: Objects,
    pub facts: UnderlayFacts,
}

/// Makes the kernel equal to `desired`. `stop` is asked before every [`batch`] of steps.
pub async fn reconcile<K: Kernel>(
    kernel: &mut K,
    desired: &DataPlane,
    stop: impl FnMut() -> bool,
) -> Result<Report, ReconcileError<K::Error>> {
    reconcile_and_tell(kernel, desired, &mut None, stop, |_, _| {}).await
}

/// As [`reconcile`]. `known` stays as it is until the kernel was looked at; `tell` gets to see it beside what was
/// found then, before the first step.
pub async fn reconcile_and_tell<K: Kernel>(
    kernel: &mut K,
    desired: &DataPlane,
    known: &mut Option<Known>,
    mut stop: impl FnMut() -> bool,
    tell: impl FnOnce(Option<&Known>, &Known),
) -> Result<Report, ReconcileError<K::Error>> {
    let mut report = Report::default();
    let mut tell = Some(tell);
    for pass in 0..=PASSES {
        let facts = kernel
            .facts(desired)
            .await
            .map_err(ReconcileError::Kernel)?;
        let objects = match known {
            Some(known) => kernel.observe_beside(&known.objects).await,
            None => kernel.observe().await,
        };
        let objects = objects.map_err(ReconcileError::Kernel)?;
        let found = Known { objects, facts };
        if let Some(tell) = tell.take() {
            tell(known.as_ref(), &found);
        }
        // In a large cluster there is no room for both: what was known before is let go.
        let Known { objects, facts } = known.insert(found);
        let used = kernel.used_keys().map_err(ReconcileError::Kernel)?;
        let plan = plan(desired, facts, objects, &used).map_err(ReconcileError::Invalid)?;
        report.failed.clear();
        if pass == PASSES {
            report.problems = plan.problems;
            report.unsettled = plan.steps;
            break;
        }
        let is_equal = !execute_plan(kernel, objects, plan, &mut report, &mut stop).await;
        // What failed is reported, not tried again; what is done is looked at once more.
        if is_equal || !report.failed.is_empty() || report.interrupted {
            break;
        }
    }
    Ok(report)
}

/// Does what a plan made beside `current` says. Returns whether there was anything to do.
async fn execute_plan<K: Kernel>(
    kernel: &mut K,
    current: &mut Objects,
    plan: Plan,
    report: &mut Report,
    stop: &mut impl FnMut() -> bool,
) -> bool {
    let Plan {
        wanted,
        steps,
        problems,
    } = plan;
    report.problems = problems;
    if steps.is_empty() {
        return false;
    }
    // In a large cluster there is no room for all that is wanted beside what is known; these take its place.
    let endpoints = wanted.maps.endpoints.clone();
    let addresses = wanted.maps.addresses.clone();
    drop(wanted);
    execute_all(kernel, current, steps, report, stop).await;
    adopt(current);
    // A tree that grew entry by entry is half empty, one that was made as a whole is not.
    if current.maps.endpoints == endpoints {
        current.maps.endpoints = endpoints;
    }
    if current.maps.addresses == addresses {
        current.maps.addresses = addresses;
    }
    true
}

/// The kernel has the keys, and nobody else.
fn adopt(objects: &mut Objects) {
    for state in objects.states.values_mut() {
        state.keying = Keying::Adopted;
    }
}

/// Makes the kernel equal to `desired` without looking at it: `current` is what the last pass left
/// there, and what this one leaves afterwards; `facts` are those of the last look.
///
/// What others changed since is not seen. A pass that fails is followed by one that looks.
pub async fn follow<K: Kernel>(
    kernel: &mut K,
    desired: &DataPlane,
    facts: &UnderlayFacts,
    current: &mut Objects,
    mut stop: impl FnMut() -> bool,
) -> Result<Report, ReconcileError<K::Error>> {
    let mut sas = desired.peers.values().flat_map(|peer| &peer.sas);
    let used = if sas.any(|sa| matches!(sa.keying, Keying::Keyed(_))) {
        kernel.used_keys().map_err(ReconcileError::Kernel)?
    } else {
        BTreeSet::new()
    };
    let plan = plan(desired, facts, current, &used).map_err(ReconcileError::Invalid)?;
    let mut report = Report::default();
    execute_plan(kernel, current, plan, &mut report, &mut stop).await;
    Ok(report)
}

/// Takes everything of ours out of the kernel.
pub async fn clear<K: Kernel>(
    kernel: &mut K,
    mut stop: impl FnMut() -> bool,
) -> Result<Report, ReconcileError<K::Error>> {
    let mut report = Report::default();
    let mut observed = kernel.observe().await.map_err(ReconcileError::Kernel)?;
    let steps = diff(&Objects::default(), &observed);
    execute_all(kernel, &mut observed, steps, &mut report, &mut stop).await;
    Ok(report)
}

/// What to write of a peer that may not open: its entry without a slot, for its plain networks. A
/// peer that rightly sends in its old slot goes on doing so.
fn closed_instead(current: &Objects, step: &Step) -> Option<Step> {
    let Step::Map(MapWrite::Peer(key, Some(entry))) = step else {
        return None;
    };
    let known = current.maps.peers.get(key);
    if known
        .is_some_and(|known| known.tx.lanes > 0 && guard::peer_blocked(current, known).is_none())
    {
        return None;
    }
    let closed = PeerEntry {
        tx: CLOSED,
        ..entry.clone()
    };
    (known != Some(&closed)).then(|| Step::Map(MapWrite::Peer(*key, Some(closed))))
}

/// Does the steps in order, by batches. One that fails leaves closed what depends on it; the others
/// go on.
async fn execute_all<K: Kernel>(
    kernel: &mut K,
    current: &mut Objects,
    steps: Vec<Step>,
    report: &mut Report,
    stop: &mut impl FnMut() -> bool,
) {
    report.done.reserve_exact(steps.len());
    let mut steps = steps.into_iter();
    while !steps.as_slice().is_empty() {
        if stop() {
            report.interrupted = true;
            return;
        }
        let length = batch::length(steps.as_slice());
        let batch = allowed(current, steps.by_ref().take(length), report);
        let results = kernel.execute_batch(&batch).await;
        debug_assert_eq!(results.len(), batch.len());
        for (step, result) in batch.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    tracing::debug!(%step, "done");
                    current.apply(&step);
                    report.done.push(step);
                }
                Err(error) => {
                    tracing::warn!(%step, %error, "failed");
                    report.failed.push(Failure {
                        step,
                        why: Why::Refused(error.to_string()),
                    });
                }
            }
        }
    }
}

/// Those of a batch that may be done now, and what is to be done instead of one that may not.
fn allowed(current: &Objects, batch: impl Iterator<Item = Step>, report: &mut Report) -> Vec<Step> {
    let guard = Guard::new(current);
    let mut allowed = Vec::new();
    for step in batch {
        let Some(why) = guard.step_blocked(&step) else {
            allowed.push(step);
            continue;
        };
        tracing::warn!(%step, %why, "not done");
        allowed.extend(closed_instead(current, &step));
        report.failed.push(Failure {
            step,
            why: Why::Blocked(why),
        });
    }
    allowed
}

#[cfg(test)]
mod tests;
