//! What is done to bytes that claim to be messages of the control channel: by the fuzzer in
//! `tests/fuzz`, and by `cargo test` in `main.rs` beside this file.
//!
//! Each target checks of what it accepts that it is written the same again. It returns whether it
//! accepted.

use std::fmt::Debug;

use overlay_cluster::{
    control::{
        join::{JoinRefused, JoinRequest, JoinResponse},
        member::{MemberRefused, MemberRequest, MemberResponse, ProposeRefused},
        message::{Message, decode, encode},
        raft::{Body, Head, LogOf, RaftRefused, RaftRequest, RaftResponse, ReportedDigest},
        renew::{RenewRefused, RenewRequest, RenewResponse},
    },
    id::{ClusterId, EpochName, Generation, NodeId},
    log::{
        command::{Command, Outcome},
        view::Version,
    },
    rotation::Digest,
};
use overlay_ebpf::abi::PeerIndex;

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the beginning of its seeds' names.
pub const ALL: [Target; 8] = [
    ("join_request", message::<JoinRequest>),
    ("join_response", message::<JoinResponse>),
    ("renew_request", message::<RenewRequest>),
    ("renew_response", message::<RenewResponse>),
    ("member_request", message::<MemberRequest>),
    ("member_response", message::<MemberResponse>),
    ("raft_request", message::<RaftRequest>),
    ("raft_response", message::<RaftResponse>),
];

/// All of them: the kinds overlap, and a fuzzer that has one has the others.
pub fn any(bytes: &[u8]) -> bool {
    let mut accepted = false;
    for (_, target) in ALL {
        accepted |= target(bytes);
    }
    accepted
}

fn message<M: Message + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = decode::<M>(bytes) else {
        return false;
    };
    let again = encode(&message).expect("no longer than it was");
    assert_eq!(decode::<M>(&again).as_ref(), Ok(&message));
    true
}

fn bytes(message: &impl Message) -> Vec<u8> {
    encode(message).expect("short").to_vec()
}

/// What each target accepts, as this version makes it: seeds by name.
pub fn made_now() -> Vec<(&'static str, Vec<u8>)> {
    let node = NodeId::from_bytes([3; 16]);
    let epoch = EpochName {
        incarnation: 1,
        number: 300,
        hash: [9; 8],
    };
    let have = Some(Version {
        incarnation: 1,
        revision: 70_000,
    });
    let request = |request: MemberRequest| ("member_request", bytes(&request));
    let response = |response: MemberResponse| ("member_response", bytes(&response));
    let join_refused = |refused| {
        let refused = JoinResponse::Refused(Box::new(refused));
        ("join_response", bytes(&refused))
    };
    let other_key = RenewRefused::OtherKey { node, other: node };
    let index = |index| PeerIndex::new(index).expect("an index");
    let here = LogOf {
        cluster: ClusterId::from_bytes([7; 16]),
        incarnation: 1,
    };
    let head = Head {
        log: Some(here),
        from: index(1),
        to: index(2),
    };
    let body = || Body::new(vec![1; 40].into());
    let raft = |request: RaftRequest| ("raft_request", bytes(&request));
    let raft_answer = |response: RaftResponse| ("raft_response", bytes(&response));
    let digest = Digest {
        generation: Generation(3),
        sequence: 300,
        epoch,
        secrets: true,
        peers: 2,
        ready: 2,
        laggards: Vec::new(),
        oldest: None,
        exhausted: None,
    };
    vec![
        raft(RaftRequest::Append { head, body: body() }),
        raft(RaftRequest::Vote { head, body: body() }),
        raft(RaftRequest::Snapshot { head, body: body() }),
        raft(RaftRequest::Digests {
            head: Head { log: None, ..head },
            digests: vec![ReportedDigest { node, digest }; 2],
        }),
        raft_answer(RaftResponse::Append(body())),
        raft_answer(RaftResponse::Heard),
        raft_answer(RaftResponse::Refused(RaftRefused::OtherLog {
            here,
            there: here,
        })),
        join_refused(JoinRefused::Busy),
        join_refused(JoinRefused::Request("damaged".into())),
        (
            "renew_request",
            bytes(&RenewRequest::Renew {
                request: vec![0x30; 140],
            }),
        ),
        (
            "renew_response",
            bytes(&RenewResponse::Refused(other_key.clone())),
        ),
        request(MemberRequest::PullView { have }),
        request(MemberRequest::PullView { have: None }),
        request(MemberRequest::PullSecrets {
            epochs: vec![epoch; 2],
        }),
        request(MemberRequest::Sync(vec![1; 40])),
        request(MemberRequest::Propose {
            command: Box::new(Command::Leave { node }),
            forwarded: true,
        }),
        response(MemberResponse::Heard),
        response(MemberResponse::Outcome(Box::new(Outcome::Done))),
        response(MemberResponse::Refused(Box::new(MemberRefused::Renewal(
            other_key,
        )))),
        response(MemberResponse::Refused(Box::new(MemberRefused::Proposal(
            ProposeRefused::NotLeader {
                leader: Some((node, ([192, 0, 2, 1], 7946).into())),
            },
        )))),
    ]
}
