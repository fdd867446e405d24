//! What a manager answers, and the form of the messages.

use proptest::prelude::*;

use super::{
    handler::{Accepted, Todo},
    join::{Join, JoinRefused, JoinRequest, JoinResponse},
    member::{MemberRefused, MemberRequest, MemberResponse, ProposeRefused},
    message::{self, Message, MessageError, decode, encode},
    permission::Denied,
    renew::{RenewRefused, RenewRequest, RenewResponse},
    samples::{CLUSTER, World, applicant, epoch, key, manager, node, request, rng, worker},
    secrets::HandoutError,
};
use crate::{
    id::{ClusterId, EpochName, Generation, NodeId},
    identity::{Role, certificate, token::JoinToken, trust::RootDigest},
    log::{
        command::{Command, Outcome},
        epochs::Reason,
        names::NodeName,
        refusal::Refusal,
        roster::RosterRefusal,
        samples::{contact, now},
        tokens::TokenRefusal,
        view::Update,
    },
    rotation::{Acknowledgement, Digest},
};

fn refusal(world: &World, join: &Join) -> JoinRefused {
    let refused = world.handler().join(join).expect_err("refused");
    for words in [refused.to_string(), refused.at_manager(&join.name)] {
        assert!(words.len() > 20, "{words}");
    }
    refused
}

/// What a manager does about a join, to its end.
fn carry_out(world: &mut World, n: u8, join: &Join) -> super::join::Joined {
    let Accepted { issue, command } = world.handler().join(join).expect("may join");
    if let Some(command) = command {
        world.apply(command);
    }
    let certificate = world.issue(n, issue.role);
    world.handler().joined(&issue, certificate).expect("joined")
}

#[test]
fn a_token_makes_a_member_with_a_certificate_and_a_view() {
    let mut world = World::new();
    let join = world.join(2);
    let joined = carry_out(&mut world, 2, &join);
    assert_eq!((joined.cluster, joined.role), (CLUSTER, Role::Worker));
    assert_eq!(joined.view.node, node(2));
    assert_eq!(joined.view.peers[&node(2)].index, joined.index);
    let identity = certificate::verify(&joined.certificate, &joined.trust, now(0)).expect("good");
    assert_eq!((identity.node, identity.role), (node(2), Role::Worker));

    let join = Join {
        token: world.manager.clone(),
        ..world.join(3)
    };
    assert_eq!(carry_out(&mut world, 3, &join).role, Role::Manager);
}

#[test]
fn a_join_that_is_repeated_changes_nothing() {
    let mut world = World::new();
    let join = world.join(2);
    let first = carry_out(&mut world, 2, &join);
    let revision = world.log().revision();
    let again = world.handler().join(&join).expect("may join");
    assert_eq!(again.command, None);
    assert_eq!(carry_out(&mut world, 2, &join), first);
    assert_eq!(world.log().revision(), revision);

    // From a new address, the log learns of the address.
    let moved = Join {
        contact: contact(9),
        ..join
    };
    let again = carry_out(&mut world, 2, &moved);
    assert_eq!(again.index, first.index);
    assert_eq!(again.view.peers[&node(2)].contact, contact(9));
}

#[test]
fn a_join_changes_the_role_of_no_node_of_the_roster() {
    let mut world = World::new();
    world.admit(2, &world.worker.clone());
    let as_manager = Join {
        token: world.manager.clone(),
        ..world.join(2)
    };
    assert!(matches!(
        refusal(&world, &as_manager),
        JoinRefused::Log(Refusal::Roster(RosterRefusal::OtherRole { .. }))
    ));
    world.apply(Command::Leave { node: node(2) });
    let refused = refusal(&world, &as_manager);
    assert!(
        matches!(
            refused,
            JoinRefused::LeftAs {
                role: Role::Worker,
                ..
            }
        ),
        "{refused}"
    );
    // In its own role it comes back, under its old index.
    let join = world.join(2);
    assert!(world.handler().join(&join).expect("may").command.is_some());
    assert_eq!(carry_out(&mut world, 2, &join).role, Role::Worker);
}

#[test]
fn an_evicted_node_does_not_come_back() {
    let mut world = World::new();
    world.admit(2, &world.worker.clone());
    let tokens = crate::log::samples::tokens(40);
    world.apply(Command::Evict {
        node: node(2),
        tokens,
    });
    // Its token is void; a good one does not help.
    assert_eq!(
        refusal(&world, &world.join(2)),
        JoinRefused::Token(TokenRefusal::Unknown)
    );
    let root = world.authority.root().digest();
    let fresh = JoinToken::generate(Role::Worker, root, &mut rng(77));
    let token = crate::log::tokens::Token {
        secret: fresh.secret.clone(),
        expires: None,
    };
    world.apply(Command::RotateToken {
        role: Role::Worker,
        token,
    });
    let join = Join {
        token: fresh,
        ..world.join(2)
    };
    let refused = refusal(&world, &join);
    assert!(
        matches!(
            &refused,
            JoinRefused::Log(Refusal::Roster(RosterRefusal::Evicted { .. }))
        ),
        "{refused}"
    );
}

#[test]
fn what_is_wrong_with_a_token_is_said_and_nothing_else() {
    let world = World::new();
    let mut rng = rng(50);
    let root = world.authority.root().digest();
    // Its name is taken too: who has no token does not learn of it.
    let taken = Join {
        name: applicant(1).name,
        ..world.join(2)
    };

    let guessed = JoinToken::generate(Role::Worker, root, &mut rng);
    let join = Join {
        token: guessed,
        ..taken.clone()
    };
    assert_eq!(
        refusal(&world, &join),
        JoinRefused::Token(TokenRefusal::Unknown)
    );

    let foreign = JoinToken {
        root: RootDigest::from_bytes([9; 32]),
        ..world.worker.clone()
    };
    let join = Join {
        token: foreign,
        ..taken.clone()
    };
    let refused = refusal(&world, &join);
    assert_eq!(
        refused,
        JoinRefused::ForeignToken {
            cluster: CLUSTER,
            root: [9; 32]
        }
    );
    assert!(refused.to_string().contains(&CLUSTER.to_string()));

    let relabelled = JoinToken {
        role: Role::Manager,
        ..world.worker.clone()
    };
    let join = Join {
        token: relabelled,
        ..taken
    };
    assert_eq!(
        refusal(&world, &join),
        JoinRefused::TokenRole {
            actual: Role::Worker,
            claimed: Role::Manager
        }
    );

    let late = world.at(now(3600));
    let join = Join {
        clock: now(3600),
        ..world.join(2)
    };
    assert_eq!(
        late.join(&join),
        Err(JoinRefused::Token(TokenRefusal::Expired {
            role: Role::Worker
        }))
    );
}

#[test]
fn a_clock_that_is_wrong_is_named_with_both_times() {
    let world = World::new();
    for clock in [
        now(301),
        now(0).saturating_sub(std::time::Duration::from_secs(301)),
    ] {
        let refused = refusal(
            &world,
            &Join {
                clock,
                ..world.join(2)
            },
        );
        assert_eq!(
            refused,
            JoinRefused::Clock {
                node: clock,
                manager: now(0)
            }
        );
        assert!(refused.to_string().contains("301 s apart"), "{refused}");
    }
    assert!(
        world
            .handler()
            .join(&Join {
                clock: now(300),
                ..world.join(2)
            })
            .is_ok()
    );
}

#[test]
fn names_and_addresses_of_others_are_refused_by_name() {
    let world = World::new();
    let join = Join {
        name: NodeName::new("node-1").expect("a name"),
        ..world.join(2)
    };
    let refused = refusal(&world, &join);
    assert!(
        matches!(
            &refused,
            JoinRefused::Log(Refusal::Roster(RosterRefusal::NameTaken { .. }))
        ),
        "{refused}"
    );
    let refused = refusal(
        &world,
        &Join {
            contact: contact(1),
            ..world.join(2)
        },
    );
    assert!(
        matches!(
            &refused,
            JoinRefused::Log(Refusal::Roster(RosterRefusal::AddressTaken { .. }))
        ),
        "{refused}"
    );
}

#[test]
fn a_bad_request_and_a_worker_are_told_so() {
    let world = World::new();
    let join = Join {
        request: b"no request".to_vec(),
        ..world.join(2)
    };
    assert!(matches!(refusal(&world, &join), JoinRefused::Request(_)));
    let mut at_worker = world.handler();
    at_worker.log = None;
    assert_eq!(at_worker.join(&world.join(2)), Err(JoinRefused::NotManager));
    let todo = at_worker.member(worker(2), MemberRequest::PullView { have: None });
    assert_eq!(refused(todo), MemberRefused::NotManager);
}

#[test]
fn a_certificate_is_renewed_for_its_own_key_in_the_role_of_the_roster() {
    let mut world = World::new();
    world.admit(2, &world.worker.clone());
    world.apply(Command::SetRole {
        node: node(2),
        role: Role::Manager,
    });
    let issue = world
        .handler()
        .renew(worker(2), &request(2))
        .expect("renews");
    assert_eq!((issue.role, issue.key), (Role::Manager, key(2).public()));
    assert_eq!(
        world.handler().renew(worker(2), &request(3)),
        Err(RenewRefused::OtherKey {
            node: node(2),
            other: node(3)
        })
    );
    assert_eq!(
        world.handler().renew(worker(3), &request(3)),
        Err(RenewRefused::Roster(RosterRefusal::Unknown(node(3))))
    );
}

fn refused(todo: Todo) -> MemberRefused {
    match todo {
        Todo::Answer(MemberResponse::Refused(refused)) => *refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_view_is_whole_or_what_has_changed() {
    let mut world = World::new();
    world.admit(2, &world.worker.clone());
    let pull = |world: &World, have| match world
        .handler()
        .member(worker(2), MemberRequest::PullView { have })
    {
        Todo::Answer(MemberResponse::View(update)) => update,
        other => panic!("{other:?}"),
    };
    let Update::Whole(view) = pull(&world, None) else {
        panic!("a difference to nothing")
    };
    world.admit(3, &world.worker.clone());
    assert!(matches!(pull(&world, Some(view.version)), Update::Delta(_)));
}

#[test]
fn secrets_are_handed_to_members_alone_and_only_of_live_epochs() {
    let mut world = World::new();
    world.admit(2, &world.worker.clone());
    let (first, unknown) = (
        world.current(),
        EpochName {
            hash: [0; 8],
            ..world.current()
        },
    );
    let pull = |world: &World, epochs: &[EpochName]| {
        let epochs = epochs.to_vec();
        world
            .handler()
            .member(worker(2), MemberRequest::PullSecrets { epochs })
    };
    let Todo::Answer(MemberResponse::Secrets(handout)) = pull(&world, &[first, unknown]) else {
        panic!("no secrets")
    };
    assert_eq!(format!("{handout:?}"), "Handout(…)");
    assert_eq!(handout.clone().open(&[]), Err(HandoutError::Unasked(first)));
    let opened = handout.open(&[first, unknown]).expect("as asked for");
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0].1.check(first), Ok(()));
    assert!(matches!(
        refused(pull(&world, &[unknown])),
        MemberRefused::Epoch(_)
    ));

    // From the moment of the eviction on there is nothing.
    let tokens = crate::log::samples::tokens(40);
    world.apply(Command::Evict {
        node: node(2),
        tokens,
    });
    assert!(matches!(
        refused(pull(&world, &[first])),
        MemberRefused::Roster(RosterRefusal::Evicted { .. })
    ));
    let stranger = world.handler().member(
        worker(9),
        MemberRequest::PullSecrets {
            epochs: vec![first],
        },
    );
    assert_eq!(
        refused(stranger),
        MemberRefused::Roster(RosterRefusal::Unknown(node(9)))
    );
}

#[test]
fn secrets_of_another_epoch_are_not_taken() {
    let (first, second) = (epoch(1), epoch(2));
    let secrets = |epoch: &crate::log::epochs::NewEpoch| epoch.secrets.clone();
    let swapped = super::secrets::Handout(vec![(first.name, secrets(&second))]);
    assert!(matches!(
        swapped.open(&[first.name]),
        Err(HandoutError::Wrong(_))
    ));
    let twice = super::secrets::Handout(vec![(first.name, secrets(&first)); 2]);
    assert_eq!(
        twice.open(&[first.name]),
        Err(HandoutError::Twice(first.name))
    );
}

#[test]
fn who_was_a_manager_when_the_certificate_was_issued_is_what_the_roster_says() {
    let mut world = World::new();
    world.admit(2, &world.manager.clone());
    let propose = |world: &World, caller| {
        let command = Box::new(Command::Remove {
            node: node(1),
            down: true,
        });
        let request = MemberRequest::Propose {
            command,
            forwarded: false,
        };
        world.handler().member(caller, request)
    };
    assert!(matches!(
        propose(&world, manager(2)),
        Todo::Propose {
            forwarded: false,
            ..
        }
    ));
    // Its certificate still says worker: it renews first.
    assert!(matches!(
        refused(propose(&world, worker(2))),
        MemberRefused::Proposal(ProposeRefused::Denied(Denied::ManagersOnly { .. }))
    ));
    world.apply(Command::SetRole {
        node: node(2),
        role: Role::Worker,
    });
    assert!(matches!(
        refused(propose(&world, manager(2))),
        MemberRefused::Proposal(ProposeRefused::Denied(Denied::ManagersOnly { .. }))
    ));
}

#[test]
fn a_worker_proposes_for_itself_alone_and_nobody_makes_a_cluster_from_afar() {
    use super::permission::may_propose;
    let own = Command::Leave { node: node(2) };
    assert_eq!(may_propose(node(2), Role::Worker, &own), Ok(()));
    assert!(matches!(
        may_propose(node(3), Role::Worker, &own),
        Err(Denied::OtherNode { .. })
    ));
    assert_eq!(may_propose(node(3), Role::Manager, &own), Ok(()));
    let restore = Command::Restore {
        next: epoch(2),
        tokens: crate::log::samples::tokens(9),
    };
    for role in Role::ALL {
        assert!(matches!(
            may_propose(node(2), role, &restore),
            Err(Denied::LocalOnly { .. })
        ));
    }
    let stage = Command::StageEpoch {
        expected: epoch(1).name,
        next: epoch(2),
        reason: Reason::Operator,
    };
    let denied = may_propose(node(2), Role::Worker, &stage).expect_err("denied");
    assert!(
        denied.to_string().contains("may not rotate keys"),
        "{denied}"
    );
}

fn acknowledgement(from: NodeId, to: NodeId) -> Acknowledgement {
    Acknowledgement {
        cluster: CLUSTER,
        from,
        to,
        index: overlay_ebpf::abi::PeerIndex::new(2).expect("an index"),
        generation: Generation(1),
        sequence: 1,
        seen: None,
        wants_reply: false,
        epochs: Vec::new(),
        held: Vec::new(),
        transmit: None,
    }
}

fn digest() -> Digest {
    Digest {
        generation: Generation(1),
        sequence: 1,
        epoch: epoch(1).name,
        secrets: true,
        peers: 0,
        ready: 0,
        laggards: Vec::new(),
        oldest: None,
        exhausted: None,
    }
}

#[test]
fn a_node_acknowledges_for_itself_to_the_one_that_it_means() {
    let mut world = World::new();
    world.admit(2, &world.worker.clone());
    let say = |message| {
        world
            .handler()
            .member(worker(2), MemberRequest::Acknowledge(message))
    };
    let good = acknowledgement(node(2), node(1));
    assert_eq!(say(good.clone()), Todo::Acknowledge(good.clone()));
    for bad in [
        acknowledgement(node(3), node(1)),
        acknowledgement(node(2), node(3)),
        Acknowledgement {
            cluster: ClusterId::from_bytes([1; 16]),
            ..good
        },
    ] {
        assert!(matches!(
            refused(say(bad)),
            MemberRefused::Misdirected { .. }
        ));
    }
    let report = world
        .handler()
        .member(worker(2), MemberRequest::Report(digest()));
    assert_eq!(report, Todo::Report(node(2), digest()));
    let sync = world
        .handler()
        .member(worker(2), MemberRequest::Sync(vec![1]));
    assert_eq!(sync, Todo::Sync(node(2), vec![1]));
}

fn parse_back<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
    let bytes = encode(message).expect("short enough");
    let limit = message::limit::<M>([bytes[0], bytes[1]]).expect("a known kind");
    assert!(bytes.len() <= limit);
    assert_eq!(decode::<M>(&bytes).as_ref(), Ok(message));
    for len in 0..bytes.len().min(2000) {
        assert!(decode::<M>(&bytes[..len]).is_err(), "{len} bytes");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(decode::<M>(&longer).is_err());
}

#[test]
fn every_message_is_read_as_it_is_written() {
    let mut world = World::new();
    parse_back(&JoinRequest::Join(Box::new(world.join(2))));
    let join = world.join(2);
    parse_back(&JoinResponse::Joined(Box::new(carry_out(
        &mut world, 2, &join,
    ))));
    parse_back(&JoinResponse::Refused(Box::new(JoinRefused::Busy)));
    parse_back(&RenewRequest::Renew {
        request: request(2),
    });
    let issue = world
        .handler()
        .renew(worker(2), &request(2))
        .expect("renews");
    let renewed = world
        .handler()
        .renewed(&issue, world.issue(2, Role::Worker));
    parse_back(&RenewResponse::Renewed(Box::new(renewed.clone())));
    parse_back(&RenewResponse::Refused(RenewRefused::NotManager));

    let have = Some(world.log().version());
    let command = Box::new(Command::StageEpoch {
        expected: epoch(1).name,
        next: epoch(2),
        reason: Reason::Operator,
    });
    for request in [
        MemberRequest::PullView { have },
        MemberRequest::PullSecrets {
            epochs: vec![epoch(1).name; 3],
        },
        MemberRequest::Renew {
            request: request(2),
        },
        MemberRequest::Acknowledge(acknowledgement(node(2), node(1))),
        MemberRequest::Report(digest()),
        MemberRequest::Sync(vec![7; 300]),
        MemberRequest::Propose {
            command,
            forwarded: true,
        },
        MemberRequest::WatchView {
            have: world.log().version(),
        },
    ] {
        parse_back(&request);
    }
    let answer = |request| match world.handler().member(worker(2), request) {
        Todo::Answer(answer) => answer,
        other => panic!("{other:?}"),
    };
    for response in [
        answer(MemberRequest::PullView { have: None }),
        answer(MemberRequest::PullSecrets {
            epochs: vec![world.current()],
        }),
        MemberResponse::Renewed(Box::new(renewed)),
        MemberResponse::Heard,
        MemberResponse::Sync(vec![7; 300]),
        MemberResponse::Outcome(Box::new(Outcome::Done)),
        MemberResponse::Refused(Box::new(MemberRefused::NotManager)),
    ] {
        parse_back(&response);
    }
}

#[test]
fn each_kind_has_its_limit_and_its_rules() {
    let long = MemberRequest::Renew {
        request: vec![0; 2000],
    };
    assert!(matches!(
        encode(&long),
        Err(MessageError::TooLong { limit: 1024, .. })
    ));
    let many = MemberRequest::PullSecrets {
        epochs: vec![epoch(1).name; 4],
    };
    let none = MemberRequest::PullSecrets { epochs: Vec::new() };
    assert!(matches!(
        decode::<MemberRequest>(&encode(&none).expect("short")),
        Err(MessageError::Unsound { .. })
    ));
    assert!(encode(&many).map_or(true, |bytes| decode::<MemberRequest>(&bytes).is_err()));
    let kinds = MemberRequest::LIMITS.len() as u8;
    assert!(matches!(
        message::limit::<MemberRequest>([1, kinds]),
        Err(MessageError::Kind { .. })
    ));
    assert!(matches!(
        message::limit::<MemberRequest>([2, 0]),
        Err(MessageError::Version {
            found: 2,
            known: 1,
            ..
        })
    ));
}

#[test]
fn an_acknowledgement_is_held_to_its_own_rules() {
    let bad = Acknowledgement {
        transmit: Some((
            overlay_ebpf::abi::Slot::new(1),
            overlay_ebpf::abi::Epoch::new(1),
        )),
        ..acknowledgement(node(2), node(1))
    };
    let bytes = encode(&MemberRequest::Acknowledge(bad)).expect("short");
    assert!(matches!(
        decode::<MemberRequest>(&bytes),
        Err(MessageError::Form(_))
    ));
}

#[test]
fn no_message_prints_a_secret() {
    let world = World::new();
    let printed = format!("{:?}", JoinRequest::Join(Box::new(world.join(2))));
    assert!(printed.contains("TokenSecret(…)"), "{printed}");
    let request = MemberRequest::PullSecrets {
        epochs: vec![world.current()],
    };
    let todo = world.handler().member(manager(1), request);
    assert!(format!("{todo:?}").contains("Handout(…)"));
}

proptest! {
    #[test]
    fn parse_noise(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..8) {
        for known in [false, true] {
            if known && bytes.len() > 1 {
                bytes[..2].copy_from_slice(&[1, kind]);
            }
            let _ = decode::<JoinRequest>(&bytes);
            let _ = decode::<JoinResponse>(&bytes);
            let _ = decode::<RenewRequest>(&bytes);
            let _ = decode::<RenewResponse>(&bytes);
            let _ = decode::<MemberRequest>(&bytes);
            let _ = decode::<MemberResponse>(&bytes);
        }
    }
}
