use overlay_ebpf::abi::Epoch;

use super::*;
use crate::{id::Generation, rotation::Lag};

const START: u64 = 1_800_000_000;

fn name(number: u32) -> EpochName {
    EpochName {
        incarnation: 0,
        number,
        hash: [7; 8],
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_secs(START + seconds)
}

fn index(index: u32) -> PeerIndex {
    PeerIndex::new(index).expect("an index")
}

fn ready(epoch: u32) -> Digest {
    Digest {
        generation: Generation(1),
        sequence: 1,
        epoch: name(epoch),
        secrets: true,
        peers: 2,
        ready: 2,
        laggards: Vec::new(),
        oldest: Some(Epoch::new(epoch)),
        exhausted: None,
    }
}

struct Cluster {
    log: EpochLog,
    timing: Timing,
    live: BTreeSet<PeerIndex>,
    digests: BTreeMap<PeerIndex, Digest>,
}

impl Cluster {
    /// Three nodes, all ready in epoch 5.
    fn new() -> Self {
        Self {
            log: EpochLog {
                current: name(5),
                phase: Phase::Stable,
                last_rotation: at(0),
                requested_at: None,
                evicted_at: None,
            },
            timing: Timing::default(),
            live: (1..=3).map(index).collect(),
            digests: (1..=3).map(|node| (index(node), ready(5))).collect(),
        }
    }

    fn staging() -> Self {
        let mut cluster = Self::new();
        cluster.log.phase = Phase::Staging {
            next: name(6),
            since: at(0),
        };
        cluster
    }

    fn activated() -> Self {
        let mut cluster = Self::new();
        cluster.log.current = name(6);
        cluster.log.phase = Phase::Activated {
            previous: name(5),
            since: at(0),
        };
        cluster
    }

    fn input(&self, seconds: u64) -> Input<'_> {
        Input {
            log: &self.log,
            timing: &self.timing,
            now: at(seconds),
            live: &self.live,
            digests: &self.digests,
        }
    }

    fn decide(&self, seconds: u64) -> Decision {
        decide(&self.input(seconds))
    }
}

fn stage(number: u32, cause: Cause) -> Decision {
    Decision::Stage { number, cause }
}

#[test]
fn a_rotation_is_due_twelve_hours_after_the_last_by_the_log() {
    let cluster = Cluster::new();
    let interval = 12 * 3600;
    assert_eq!(
        cluster.decide(interval - 1),
        Decision::Wait {
            until: at(interval)
        }
    );
    assert_eq!(cluster.decide(interval), stage(6, Cause::Interval));
}

#[test]
fn an_interval_is_ten_minutes_to_seven_days() {
    let minutes = |minutes: u64| Interval::new(Duration::from_secs(minutes * 60));
    assert!(minutes(10).is_ok() && minutes(7 * 24 * 60).is_ok());
    assert!(minutes(9).is_err());
    let error = minutes(7 * 24 * 60 + 1).expect_err("too long");
    assert!(error.to_string().contains("10 minutes to 7 days"));
}

#[test]
fn a_request_and_an_exhausted_sa_do_not_wait_for_the_interval() {
    let mut cluster = Cluster::new();
    cluster
        .digests
        .get_mut(&index(2))
        .expect("node 2")
        .exhausted = Some(Epoch::new(5));
    assert_eq!(cluster.decide(1), stage(6, Cause::Volume));
    cluster.log.requested_at = Some(5);
    assert_eq!(cluster.decide(1), stage(6, Cause::Request));
}

#[test]
fn a_request_that_was_served_starts_nothing() {
    let mut cluster = Cluster::new();
    cluster.log.requested_at = Some(4);
    cluster
        .digests
        .get_mut(&index(2))
        .expect("node 2")
        .exhausted = Some(Epoch::new(4));
    assert!(matches!(cluster.decide(1), Decision::Wait { .. }));
}

#[test]
fn activation_follows_at_once_when_all_live_nodes_have_staged() {
    let mut cluster = Cluster::staging();
    cluster.digests.insert(index(1), ready(6));
    cluster.digests.insert(index(2), ready(6));
    assert_eq!(cluster.decide(1), Decision::Wait { until: at(60) });
    assert_eq!(
        laggards(&cluster.input(1)),
        BTreeMap::from([(index(3), Laggard::Silent)])
    );
    cluster.digests.insert(index(3), ready(6));
    assert_eq!(cluster.decide(1), Decision::Activate);
}

#[test]
fn pairs_with_dead_nodes_do_not_delay_activation() {
    let mut cluster = Cluster::staging();
    cluster.live.remove(&index(3));
    for node in [1, 2] {
        let mut digest = ready(6);
        (digest.ready, digest.laggards) = (1, vec![(index(3), Lag::NoKey)]);
        cluster.digests.insert(index(node), digest);
    }
    assert_eq!(cluster.decide(1), Decision::Activate);
    cluster.live.insert(index(3));
    assert_eq!(
        laggards(&cluster.input(1))[&index(1)],
        Laggard::Pairs(1),
        "once it lives it counts"
    );
}

#[test]
fn a_node_that_lags_holds_activation_up_to_the_deadline() {
    let cluster = Cluster::staging();
    assert_eq!(cluster.decide(59), Decision::Wait { until: at(60) });
    assert_eq!(cluster.decide(60), Decision::Activate);
}

#[test]
fn the_old_epoch_retires_after_the_grace_and_the_rotation_ends_when_it_is_gone() {
    let mut cluster = Cluster::activated();
    cluster.digests = (1..=3).map(|node| (index(node), ready(6))).collect();
    assert_eq!(cluster.decide(59), Decision::Wait { until: at(60) });
    assert_eq!(cluster.decide(60), Decision::Retire);
    cluster.log.phase = Phase::Retiring { since: at(60) };
    cluster.digests.get_mut(&index(3)).expect("node 3").oldest = Some(Epoch::new(5));
    assert_eq!(cluster.decide(61), Decision::Wait { until: at(120) });
    cluster.digests.insert(index(3), ready(6));
    assert_eq!(cluster.decide(61), Decision::Finish);
}

#[test]
fn a_live_node_that_is_not_ready_holds_the_old_epoch_for_a_deadline_more() {
    let mut cluster = Cluster::activated();
    for node in 1..=3 {
        cluster.digests.insert(index(node), ready(6));
    }
    // It was taken for dead when the epoch became active, and lives.
    let late = cluster.digests.get_mut(&index(2)).expect("node 2");
    (late.ready, late.laggards) = (1, vec![(index(3), Lag::NotAcknowledged)]);
    assert_eq!(cluster.decide(60), Decision::Wait { until: at(120) });
    assert_eq!(cluster.decide(120), Decision::Retire);
    cluster.live.remove(&index(3));
    assert_eq!(cluster.decide(60), Decision::Retire);
}

#[test]
fn an_eviction_while_stable_stages_at_once() {
    let mut cluster = Cluster::new();
    cluster.log.evicted_at = Some(5);
    assert_eq!(cluster.decide(0), stage(6, Cause::Eviction));
}

#[test]
fn an_eviction_abandons_a_staged_epoch_that_the_evicted_node_knows() {
    let mut cluster = Cluster::staging();
    cluster.log.evicted_at = Some(6);
    assert_eq!(cluster.decide(0), stage(7, Cause::Eviction));
    cluster.log.evicted_at = Some(5);
    assert!(matches!(cluster.decide(0), Decision::Wait { .. }));
}

#[test]
fn an_eviction_shortens_the_grace_and_does_not_wait_for_removal() {
    let mut cluster = Cluster::activated();
    cluster.log.evicted_at = Some(6);
    assert_eq!(cluster.decide(1), Decision::Wait { until: at(2) });
    assert_eq!(cluster.decide(2), Decision::Retire);
    cluster.log.phase = Phase::Retiring { since: at(2) };
    assert_eq!(cluster.decide(2), stage(7, Cause::Eviction));
}

#[test]
fn nodes_are_told_the_roles_of_the_phase() {
    let roles = |cluster: Cluster| cluster.log.roles().into_iter().collect::<Vec<_>>();
    assert_eq!(
        roles(Cluster::staging()),
        [(name(5), Role::Active), (name(6), Role::Staged)]
    );
    assert_eq!(
        roles(Cluster::activated()),
        [(name(5), Role::Retiring), (name(6), Role::Active)]
    );
    assert_eq!(roles(Cluster::new()), [(name(5), Role::Active)]);
}
