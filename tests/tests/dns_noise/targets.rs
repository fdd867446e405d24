//! What is done to bytes that claim to be DNS messages: by the fuzzer in `tests/fuzz`, and by `cargo test` in
//! `main.rs` beside this file.
//!
//! Each target returns whether it accepted.

use std::{str::FromStr as _, sync::LazyLock};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Question},
    rr::{Name, RData, Record, RecordType, rdata},
};
use overlay_agent::daemon::dns::{
    answer::{MAX_UDP, Query, Transport, Verdict, decide},
    names::{Gathered, Names},
    upstream::{self, of_resolv_conf},
};
use overlay_ebpf::abi::Vni;

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the beginning of its seeds' names.
pub const ALL: [Target; 3] = [
    ("query", query),
    ("answer", answer),
    ("resolv_conf", resolv_conf),
];

fn vni() -> Vni {
    Vni::new(4096).expect("a VNI")
}

/// More addresses of `web` than a datagram holds.
fn names() -> &'static Names {
    static NAMES: LazyLock<Names> = LazyLock::new(made_names);
    &NAMES
}

fn made_names() -> Names {
    let mut names = Gathered::default();
    let subnets = ["10.0.0.0/16", "fd00::/64"].map(|net| net.parse().expect("a subnet"));
    names.network(vni(), "blue", subnets);
    names.add(vni(), "web", (1..200).map(|n| [10, 0, 0, n].into()));
    names.add(
        vni(),
        "web",
        (1..200).map(|n| [0xfd00, 0, 0, 0, 0, 0, 0, n].into()),
    );
    names.done()
}

/// A query from a container: what comes back is no query, no longer than the client takes, and of the
/// query's number; what is forwarded can be asked.
pub fn query(bytes: &[u8]) -> bool {
    let names = names();
    let over = |transport| decide(bytes, transport, names, &[vni()], 1);
    let accepted = [Transport::Udp, Transport::Tcp].map(|transport| match over(transport) {
        Verdict::Drop => false,
        Verdict::Answer(answer) => {
            assert!(transport == Transport::Tcp || answer.len() <= MAX_UDP);
            assert_eq!(answer[..2], bytes[..2]);
            let message = Message::from_vec(&answer).expect("well formed");
            assert_eq!(message.message_type, MessageType::Response);
            true
        }
        Verdict::Forward(query) => {
            let asked = query.outgoing(1).expect("can be written");
            let asked = Message::from_vec(&asked).expect("well formed");
            assert_eq!(asked.queries, [query.question().clone()]);
            let answer = asked.into_response().to_vec().expect("can be written");
            assert!(
                query.incoming(1, &answer).is_some(),
                "its answer is not taken"
            );
            true
        }
    });
    accepted[0]
}

/// What another resolver says: it is taken if it answers the question, and is no longer than the client takes.
pub fn answer(bytes: &[u8]) -> bool {
    let taken = forwarded().incoming(NUMBER, bytes);
    if let Some(taken) = &taken {
        assert!(taken.len() <= 512);
        assert_eq!(taken[..2], 4711_u16.to_be_bytes());
    }
    taken.is_some()
}

/// The resolvers of a host.
pub fn resolv_conf(bytes: &[u8]) -> bool {
    let resolvers = of_resolv_conf(bytes);
    assert!(resolvers.len() <= upstream::MAX);
    !resolvers.is_empty()
}

/// Of the forwarded query.
const NUMBER: u16 = 1;

fn message(name: &str, asked: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_str(name).expect("a name");
    message.add_query(Question::query(name, asked));
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("short")
}

fn forwarded() -> Query {
    let query = bytes(&message("example.com.", RecordType::A));
    match decide(&query, Transport::Udp, names(), &[vni()], 1) {
        Verdict::Forward(query) => query,
        other => panic!("{other:?}"),
    }
}

/// What each target accepts, as this version makes it: seeds by name.
pub fn made_now() -> Vec<(&'static str, Vec<u8>)> {
    let mut extended = message("web.blue.", RecordType::AAAA);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    edns.set_dnssec_ok(true);
    extended.edns = Some(edns);
    let asked = forwarded().outgoing(NUMBER).expect("can be written");
    let mut said = Message::from_vec(&asked)
        .expect("well formed")
        .into_response();
    let name = said.queries[0].name().clone();
    said.add_answer(Record::from_rdata(
        name,
        60,
        RData::A(rdata::A::new(203, 0, 113, 1)),
    ));
    vec![
        ("query", bytes(&message("web.", RecordType::A))),
        ("query", bytes(&extended)),
        (
            "query",
            bytes(&message("1.0.0.10.in-addr.arpa.", RecordType::PTR)),
        ),
        ("query", bytes(&message("example.com.", RecordType::HTTPS))),
        ("answer", bytes(&said)),
        (
            "resolv_conf",
            b"nameserver 192.0.2.53\noptions ndots:1\n".to_vec(),
        ),
    ]
}
