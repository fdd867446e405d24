//! Who has a vote follows the roster.

use std::collections::BTreeSet;

use overlay_cluster::{
    control::{
        member::ProposeRefused,
        raft::{Body, RaftRequest},
    },
    identity::Role,
    log::{command::Command, epochs::Phase, refusal::Refusal, roster::RosterRefusal, state::State},
};
use overlay_ebpf::abi::PeerIndex;

use super::{
    super::*,
    world::{World, lanes, lanes_of, node, tokens},
};
use crate::daemon::control::client::ClientError;

fn role(n: u8, role: Role) -> Command {
    Command::SetRole {
        node: node(n),
        role,
    }
}

fn set<const N: usize>(ids: [u64; N]) -> BTreeSet<u64> {
    ids.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_is_demoted_promoted_again_and_evicted() {
    let mut world = World::with_managers(3).await;
    let leader = world.wait_for_leader().await;
    let other = world.running().find(|n| *n != leader).expect("another");
    world.propose(role(other, Role::Worker)).await;
    let voters = world.voters(leader);
    assert!(
        voters.len() == 2 && !voters.contains(&u64::from(other)),
        "{voters:?}"
    );
    world.kill(other).await;
    forget(&world.nodes[&other].setup.store).expect("removes");

    world.propose(role(other, Role::Manager)).await;
    world.add(other, Role::Manager).await;
    let setup = world.nodes[&other].setup.clone();
    let managers = await_promotion(setup).await.expect("starts");
    world.run(other, managers);
    world
        .wait("it has a vote again", |world| {
            world.voters(leader) == set([1, 2, 3])
        })
        .await;

    let evict = Command::Evict {
        node: node(other),
        tokens: tokens(9),
    };
    world.propose(evict).await;
    world
        .wait("the next epoch is staged at once", |world| {
            world.log(leader, |log| {
                log.epochs().current().number > 1
                    || matches!(log.epochs().phase(), Phase::Staging { .. })
            })
        })
        .await;
    assert!(!world.voters(leader).contains(&u64::from(other)));
    let call = world.nodes[&leader]
        .client
        .connect_manager(world.nodes[&other].setup.control, node(other));
    assert!(matches!(call.await, Err(ClientError::Handshake { .. })));
    // It is not let in, and disturbs nobody.
    world.kill(other).await;
    world.propose(lanes(2)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_demoted_hands_over_first() {
    let mut world = World::with_managers(2).await;
    let leader = world.wait_for_leader().await;
    let other = 3 - leader;
    world.propose(role(leader, Role::Worker)).await;
    assert_eq!(world.voters(other), set([u64::from(other)]));
    assert!(world.nodes[&other].managers().is_leader());
    let is_manager = |n: u8| {
        world.log(other, |log| {
            log.roster().get(&node(n)).is_some_and(|it| it.is_manager())
        })
    };
    assert!(is_manager(other) && !is_manager(leader));
    world.kill(leader).await;
    world.propose(lanes(4)).await;
    assert_eq!(world.log(other, lanes_of), Some(4));
    let last = world.try_propose(role(other, Role::Worker)).await;
    assert!(matches!(
        last,
        Err(ProposeRefused::Log(Refusal::Roster(
            RosterRefusal::LastManager { .. }
        )))
    ));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_manager_is_taken_out_if_the_rest_would_have_no_majority() {
    let mut world = World::with_managers(3).await;
    let leader = world.wait_for_leader().await;
    let others: Vec<u8> = world.running().filter(|n| *n != leader).collect();
    world.kill(others[0]).await;
    let silent = u64::from(others[0]);
    let silence = timing_of(&world, leader);
    world
        .wait("it is missed", |world| {
            let managers = world.nodes[&leader].managers();
            !managers.0.links.answering(silence).contains(&silent)
        })
        .await;
    let refused = world.try_propose(role(others[1], Role::Worker)).await;
    let refused = refused.expect_err("the dead one would be half of the rest");
    assert!(matches!(refused, ProposeRefused::Majority(_)), "{refused}");
    assert!(refused.to_string().contains("only 1 of the 2"), "{refused}");
    assert_eq!(world.voters(leader), set([1, 2, 3]));
    // The dead one goes first.
    let down = Command::Remove {
        node: node(others[0]),
        down: true,
    };
    world.propose(down).await;
    world.propose(role(others[1], Role::Worker)).await;
    assert_eq!(world.voters(leader), set([u64::from(leader)]));
    world.stop().await;
}

fn timing_of(world: &World, n: u8) -> std::time::Duration {
    world.nodes[&n].setup.timing.silence()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_refused_on_the_raft_service() {
    let mut world = World::new().await;
    world.add(2, Role::Worker).await;
    let at = world.nodes[&1].setup.control;
    let refused = match world.nodes[&2].client.connect_manager(at, node(1)).await {
        Ok(mut connection) => {
            let index = PeerIndex::new(2).expect("an index");
            let head = overlay_cluster::control::raft::Head {
                log: None,
                from: index,
                to: PeerIndex::new(1).expect("an index"),
            };
            let body = Body::new(vec![1].into());
            let request = RaftRequest::Vote { head, body };
            connection.request(&request).await.expect_err("refused")
        }
        Err(refused) => refused,
    };
    // The alert may be lost behind a request that nobody reads.
    let is_refusal = matches!(
        refused,
        ClientError::Alert { .. } | ClientError::Frame { .. } | ClientError::Closed { .. }
    );
    assert!(is_refusal, "{refused}");
    // It is a member for all that.
    assert!(world.nodes[&2].client.connect(at, node(1)).await.is_ok());
    // Nor is a worker called for it.
    let at = world.nodes[&2].setup.control;
    let refused = world.nodes[&1].client.connect_manager(at, node(2)).await;
    let refused = refused.err().expect("a worker");
    assert!(refused.to_string().contains("is no manager"), "{refused}");

    // A certificate alone makes no manager, nor does the roster alone.
    let certificate = world.certificate(2, Role::Manager);
    world.nodes[&2].own.renew(&certificate).expect("its own");
    let at = world.nodes[&1].setup.control;
    let client = &world.nodes[&2].client;
    let refused = match client.connect_manager(at, node(1)).await {
        Ok(mut connection) => {
            let index = PeerIndex::new(2).expect("an index");
            let head = overlay_cluster::control::raft::Head {
                log: None,
                from: index,
                to: PeerIndex::new(1).expect("an index"),
            };
            let body = Body::new(vec![1].into());
            connection
                .request(&RaftRequest::Vote { head, body })
                .await
                .err()
        }
        Err(refused) => Some(refused),
    };
    assert!(refused.is_some());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_makes_one_manager_to_which_the_others_come_again() {
    let mut world = World::with_managers(3).await;
    world.propose(lanes(5)).await;
    let leader = world.wait_for_leader().await;
    let backup = world.nodes[&leader].managers().0.reader.with(State::clone);
    world.propose(lanes(6)).await;
    for n in 1..=3 {
        world.kill(n).await;
    }
    let setup = world.nodes[&1].setup.clone();
    let error = restore(setup.clone(), &backup, tokens(5))
        .await
        .err()
        .expect("a store is there");
    assert!(error.to_string().contains("move it away"), "{error}");
    forget(&setup.store).expect("removes");
    let restored = restore(setup.clone(), &backup, tokens(5))
        .await
        .expect("restores");
    world.run(1, restored);
    world.kill(1).await;
    world.restart(1).await;
    world.wait_for_leader().await;
    assert_eq!(world.log(1, lanes_of), Some(5));
    assert_eq!(world.epoch(1).incarnation, 1);
    assert_eq!(world.voters(1), set([1]));
    let managers = world.log(1, |log| log.roster().managers().count());
    assert_eq!(managers, 1);

    // One with the log of before is kept away from the new one, whoever promotes it.
    world.propose(role(2, Role::Manager)).await;
    world.restart(2).await;
    world
        .wait("it is a learner that learns nothing", |world| {
            let status = world.nodes[&1].managers().status();
            status.managers.iter().any(|it| {
                it.index == 2 && it.place == status::ManagerPlace::CatchesUp && it.lag != Some(0)
            })
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_ne!(world.seen(2, |log| log.version().incarnation), Some(1));
    assert_eq!(world.voters(1), set([1]));
    assert!(world.nodes[&1].managers().is_leader());
    // It begins anew.
    world.kill(2).await;
    forget(&world.nodes[&2].setup.store).expect("removes");
    world.add(2, Role::Manager).await;
    let again = await_promotion(world.nodes[&2].setup.clone())
        .await
        .expect("starts");
    world.run(2, again);
    world
        .wait("it has a vote", |world| world.voters(1) == set([1, 2]))
        .await;
    assert_eq!(world.epoch(2).incarnation, 1);
    world.stop().await;
}
