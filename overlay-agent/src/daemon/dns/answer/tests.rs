use std::{collections::BTreeSet, str::FromStr as _};

use proptest::prelude::*;

use super::*;
use crate::daemon::dns::names::Gathered;

const SEED: u64 = 7;

fn vni() -> Vni {
    Vni::new(4096).unwrap()
}

/// `web` has two addresses of each family, `many` more than an answer holds, `four` one of IPv4.
fn names() -> &'static Names {
    static NAMES: std::sync::LazyLock<Names> = std::sync::LazyLock::new(made_names);
    &NAMES
}

fn made_names() -> Names {
    let mut names = Gathered::default();
    let subnets = ["10.0.0.0/16", "fd00::/64"];
    names.network(vni(), "My_Net", subnets.map(|net| net.parse().unwrap()));
    let addresses = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"];
    names.add(
        vni(),
        "web",
        addresses.map(|address| address.parse().unwrap()),
    );
    names.add(vni(), "four", [[10, 0, 1, 1].into()]);
    let many = (0..1000_u16).map(|n| IpAddr::from([10, 0, 100 + n.to_be_bytes()[0], n as u8]));
    names.add(vni(), "many", many);
    names.done()
}

fn question(name: &str, asked: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_str(name).unwrap(), asked));
    message
}

fn verdict(message: &Message, transport: Transport) -> Verdict {
    let bytes = message.to_vec().unwrap();
    decide(&bytes, transport, names(), &[vni()], SEED)
}

fn answer_to(message: &Message, transport: Transport) -> Message {
    match verdict(message, transport) {
        Verdict::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn answer(name: &str, asked: RecordType) -> Message {
    answer_to(&question(name, asked), Transport::Udp)
}

fn is_forwarded(name: &str, asked: RecordType) -> bool {
    matches!(
        verdict(&question(name, asked), Transport::Udp),
        Verdict::Forward(_)
    )
}

fn data(message: &Message) -> BTreeSet<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

#[test]
fn addresses_of_the_family_asked_for() {
    let v4 = answer("web.", RecordType::A);
    assert_eq!(data(&v4), set(["10.0.0.1", "10.0.0.2"]));
    let v6 = answer("web.", RecordType::AAAA);
    assert_eq!(data(&v6), set(["fd00::1", "fd00::2"]));
    assert_eq!(data(&answer("web.", RecordType::ANY)).len(), 4);
    assert_eq!(v4.response_code, ResponseCode::NoError);
    assert_eq!(v4.id, 4711);
    assert!(v4.authoritative && v4.recursion_available && v4.recursion_desired);
    assert!(!v4.truncation);
    assert!(v4.answers.iter().all(|record| record.ttl == TTL));
}

#[test]
fn question_comes_back_in_the_case_it_was_asked() {
    let answered = answer("WeB.mY_nEt.", RecordType::A);
    assert_eq!(data(&answered).len(), 2);
    assert_eq!(answered.queries[0].name().to_string(), "WeB.mY_nEt.");
    assert_eq!(answered.answers[0].name.to_string(), "WeB.mY_nEt.");
}

#[test]
fn name_without_such_records_is_no_missing_name() {
    for asked in [
        RecordType::AAAA,
        RecordType::TXT,
        RecordType::HTTPS,
        RecordType::SOA,
    ] {
        let answered = answer("four.", asked);
        assert_eq!(answered.response_code, ResponseCode::NoError, "{asked}");
        assert_eq!(answered.answers, [], "{asked}");
    }
    assert_eq!(
        answer("fuor.", RecordType::AAAA).response_code,
        ResponseCode::NXDomain
    );
}

#[test]
fn others_are_asked_for_names_with_a_dot_and_for_zones() {
    assert!(is_forwarded("example.com.", RecordType::A));
    assert!(is_forwarded("web.example.com.", RecordType::AAAA));
    assert!(is_forwarded(".", RecordType::NS));
    assert!(is_forwarded("com.", RecordType::DS));
    assert!(is_forwarded("com.", RecordType::NS));
    // No answer from elsewhere may stand in for an endpoint.
    for asked in [
        RecordType::A,
        RecordType::HTTPS,
        RecordType::ANY,
        RecordType::CNAME,
    ] {
        assert_eq!(answer("com.", asked).response_code, ResponseCode::NXDomain);
    }
}

#[test]
fn addresses_point_to_names_and_those_of_the_subnets_to_no_other() {
    let pointer = answer("1.1.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(data(&pointer), set(["four.my_net."]));
    let v6 = format!("2.{}d.f.ip6.arpa.", "0.".repeat(29));
    assert_eq!(data(&answer(&v6, RecordType::PTR)), set(["web.my_net."]));
    assert_eq!(answer(&v6, RecordType::TXT).answers, []);
    let unknown = answer("9.9.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(unknown.response_code, ResponseCode::NXDomain);
    assert!(is_forwarded("1.1.1.10.in-addr.arpa.", RecordType::PTR));
    assert!(is_forwarded("0.10.in-addr.arpa.", RecordType::SOA));
}

#[test]
fn localhost_is_the_container() {
    assert_eq!(
        data(&answer("localhost.", RecordType::A)),
        set(["127.0.0.1"])
    );
    assert_eq!(
        data(&answer("web.LOCALHOST.", RecordType::AAAA)),
        set(["::1"])
    );
}

#[test]
fn each_address_of_a_service_is_first_as_often_as_the_others() {
    let bytes = question("web.", RecordType::A).to_vec().unwrap();
    let mut first = [0, 0];
    for seed in 0..200 {
        let Verdict::Answer(bytes) = decide(&bytes, Transport::Udp, names(), &[vni()], seed) else {
            panic!("no answer")
        };
        let answered = Message::from_vec(&bytes).unwrap();
        let is_one = answered.answers[0].data.to_string() == "10.0.0.1";
        first[usize::from(is_one)] += 1;
        assert_eq!(answered.answers.len(), 2);
    }
    assert!(first.iter().all(|&times| times > 70), "{first:?}");
}

#[test]
fn what_does_not_fit_into_a_datagram_is_cut_and_said_to_be() {
    let plain = question("many.", RecordType::A);
    let mut extended = plain.clone();
    extended.edns = Some(edns(false));
    let mut huge = plain.clone();
    let mut payload = Edns::new();
    payload.set_max_payload(u16::MAX);
    huge.edns = Some(payload);
    for (message, limit) in [(plain, 512), (extended, MAX_UDP), (huge, MAX_UDP)] {
        let Verdict::Answer(bytes) = verdict(&message, Transport::Udp) else {
            panic!("no answer")
        };
        assert!(
            bytes.len() <= limit && bytes.len() > limit * 3 / 4,
            "{}",
            bytes.len()
        );
        let answered = Message::from_vec(&bytes).unwrap();
        assert!(answered.truncation);
        assert_eq!(answered.edns.is_some(), message.edns.is_some());
        let whole = answer_to(&message, Transport::Tcp);
        assert!(!whole.truncation);
        assert_eq!(whole.answers.len(), MAX_ADDRESSES);
    }
}

#[test]
fn small_payload_counts_as_the_smallest() {
    let mut message = question("web.", RecordType::A);
    let mut bytes = {
        message.edns = Some(edns(true));
        message.to_vec().unwrap()
    };
    // The class of the OPT record, which ends with TTL and length.
    let class = bytes.len() - 8;
    bytes[class..class + 2].copy_from_slice(&[0, 1]);
    let Verdict::Answer(bytes) = decide(&bytes, Transport::Udp, names(), &[vni()], SEED) else {
        panic!("no answer")
    };
    let answered = Message::from_vec(&bytes).unwrap();
    assert_eq!(answered.answers.len(), 2);
    assert!(answered.edns.unwrap().flags().dnssec_ok);
}

#[test]
fn what_is_no_query_gets_no_answer() {
    let mut response = question("web.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(verdict(&response, Transport::Udp), Verdict::Drop);
    let bytes = question("web.", RecordType::A).to_vec().unwrap();
    for len in 0..HEADER {
        let cut = &bytes[..len];
        assert_eq!(
            decide(cut, Transport::Udp, names(), &[vni()], SEED),
            Verdict::Drop
        );
    }
    let long = [bytes, vec![0; MAX_QUERY]].concat();
    assert_eq!(
        decide(&long, Transport::Udp, names(), &[vni()], SEED),
        Verdict::Drop
    );
}

#[test]
fn what_is_not_understood_is_refused_by_its_name() {
    let code = |message: &Message| answer_to(message, Transport::Udp).response_code;
    let mut update = question("web.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut notify = question("web.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&notify), ResponseCode::NotImp);
    let mut two = question("web.", RecordType::A);
    two.add_query(Question::query(
        Name::from_str("web.").unwrap(),
        RecordType::A,
    ));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut none = question("web.", RecordType::A);
    none.queries.clear();
    assert_eq!(code(&none), ResponseCode::FormErr);
    let mut answered = question("web.", RecordType::A);
    answered.answers = answer("web.", RecordType::A).answers;
    assert_eq!(code(&answered), ResponseCode::FormErr);
    assert_eq!(
        code(&question("web.", RecordType::AXFR)),
        ResponseCode::Refused
    );
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut later = question("web.", RecordType::A);
    let mut edns = edns(false);
    edns.set_version(1);
    later.edns = Some(edns);
    // 16 is BADVERS here, and BADSIG of TSIG (RFC 8945 section 3).
    assert_eq!(u16::from(code(&later)), u16::from(ResponseCode::BADVERS));
}

#[test]
fn asker_in_no_network_finds_no_names() {
    let bytes = question("web.", RecordType::A).to_vec().unwrap();
    let Verdict::Answer(bytes) = decide(&bytes, Transport::Udp, names(), &[], SEED) else {
        panic!("no answer")
    };
    let code = Message::from_vec(&bytes).unwrap().response_code;
    assert_eq!(code, ResponseCode::NXDomain);
}

fn forwarded(message: &Message, transport: Transport) -> Query {
    match verdict(message, transport) {
        Verdict::Forward(query) => query,
        other => panic!("{other:?}"),
    }
}

/// What another resolver says to `query`, asked as 1.
fn elsewhere(query: &Query) -> Message {
    let outgoing = Message::from_vec(&query.outgoing(1).unwrap()).unwrap();
    let mut answer = outgoing.into_response();
    let name = query.question.name().clone();
    answer.add_answer(Record::from_rdata(
        name,
        60,
        RData::A(rdata::A::new(203, 0, 113, 1)),
    ));
    answer
}

#[test]
fn what_is_forwarded_has_another_number_and_only_what_is_understood() {
    let mut message = question("example.com.", RecordType::A);
    message.metadata.checking_disabled = true;
    message.add_additional(Record::from_rdata(
        Name::root(),
        0,
        RData::A(rdata::A::new(192, 0, 2, 1)),
    ));
    message.edns = Some(edns(true));
    let query = forwarded(&message, Transport::Udp);
    let outgoing = Message::from_vec(&query.outgoing(99).unwrap()).unwrap();
    assert_eq!(outgoing.id, 99);
    assert!(outgoing.recursion_desired && outgoing.checking_disabled);
    assert_eq!(outgoing.queries, message.queries);
    assert_eq!(outgoing.additionals, []);
    let edns = outgoing.edns.unwrap();
    assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty());
}

#[test]
fn answer_from_elsewhere_is_the_clients_with_its_number() {
    let query = forwarded(&question("Example.com.", RecordType::A), Transport::Udp);
    let answer = elsewhere(&query);
    let bytes = query.incoming(1, &answer.to_vec().unwrap()).unwrap();
    let taken = Message::from_vec(&bytes).unwrap();
    assert_eq!(taken.id, 4711);
    assert_eq!(taken.answers, answer.answers);
}

#[test]
fn answer_to_another_question_or_number_is_none() {
    let query = forwarded(&question("example.com.", RecordType::A), Transport::Udp);
    let answer = elsewhere(&query);
    let is_taken = |answer: &Message| query.incoming(1, &answer.to_vec().unwrap()).is_some();
    assert!(is_taken(&answer));
    let mut guessed = answer.clone();
    guessed.metadata.id = 2;
    let mut asking = answer.clone();
    asking.metadata.message_type = MessageType::Query;
    let mut other_name = answer.clone();
    other_name.queries[0].set_name(Name::from_str("example.org.").unwrap());
    let mut other_type = answer.clone();
    other_type.queries[0].set_query_type(RecordType::AAAA);
    let mut without = answer.clone();
    without.queries.clear();
    for wrong in [guessed, asking, other_name, other_type, without] {
        assert!(!is_taken(&wrong), "{wrong}");
    }
    let bytes = answer.to_vec().unwrap();
    for len in 0..HEADER {
        assert_eq!(query.incoming(1, &bytes[..len]), None);
    }
}

#[test]
fn answer_that_is_longer_than_the_client_takes_is_asked_for_over_tcp() {
    let message = question("example.com.", RecordType::A);
    let over_udp = forwarded(&message, Transport::Udp);
    let mut long = elsewhere(&over_udp);
    for n in 0..100 {
        let name = over_udp.question.name().clone();
        long.add_answer(Record::from_rdata(
            name,
            60,
            RData::A(rdata::A::new(203, 0, 113, n)),
        ));
    }
    let long = long.to_vec().unwrap();
    let bytes = over_udp.incoming(1, &long).unwrap();
    let cut = Message::from_vec(&bytes).unwrap();
    assert!(cut.truncation && cut.answers.is_empty() && bytes.len() <= 512);
    let over_tcp = forwarded(&message, Transport::Tcp);
    let whole = Message::from_vec(&over_tcp.incoming(1, &long).unwrap()).unwrap();
    assert_eq!(whole.answers.len(), 101);
}

#[test]
fn refusals_of_a_resolver_are_known() {
    let query = forwarded(&question("example.com.", RecordType::A), Transport::Udp);
    let is_refused = |code| Query::is_refused(&query.refusal(code).unwrap());
    assert!(is_refused(ResponseCode::ServFail) && is_refused(ResponseCode::Refused));
    assert!(!is_refused(ResponseCode::NXDomain) && !is_refused(ResponseCode::NoError));
}

/// A refusal, or an answer that fits; never more than asked for.
fn holds(bytes: &[u8], transport: Transport) {
    match decide(bytes, transport, names(), &[vni()], SEED) {
        Verdict::Drop => {}
        Verdict::Answer(answer) => {
            assert!(transport == Transport::Tcp || answer.len() <= MAX_UDP);
            assert_eq!(answer[..2], bytes[..2], "the number");
            let message = Message::from_vec(&answer).unwrap();
            assert_eq!(message.message_type, MessageType::Response);
            // What answers is itself no query.
            let again = decide(&answer, transport, names(), &[vni()], SEED);
            assert_eq!(again, Verdict::Drop);
        }
        Verdict::Forward(query) => {
            let outgoing = query.outgoing(1).unwrap();
            assert!(outgoing.len() <= 12 + 255 + 4 + 11);
            let again = Message::from_vec(&outgoing).unwrap();
            assert!(same(&again.queries[0], &query.question));
            assert!(
                query
                    .incoming(1, &elsewhere(&query).to_vec().unwrap())
                    .is_some()
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_within_bounds_or_dropped(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        holds(&bytes, Transport::Udp);
        holds(&bytes, Transport::Tcp);
    }

    #[test]
    fn changed_queries_are_answered_within_bounds_or_dropped(
        name in "[a-z]{1,3}(\\.my_net)?\\.|web\\.|many\\.|[0-9.]{2,9}in-addr\\.arpa\\.",
        asked in any::<u16>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        if let Ok(name) = Name::from_str(&name) {
            let mut message = question("web.", RecordType::A);
            message.queries[0] = Question::query(name, asked.into());
            message.edns = Some(edns(false));
            let mut bytes = message.to_vec().unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            holds(&bytes, Transport::Udp);
            holds(&bytes, Transport::Tcp);
        }
    }

    #[test]
    fn any_answer_from_elsewhere_is_taken_whole_or_not_at_all(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        after in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let query = forwarded(&question("example.com.", RecordType::A), Transport::Udp);
        prop_assert_eq!(query.incoming(1, &bytes), None);
        // A true beginning, and anything after.
        let mut answer = elsewhere(&query).to_vec().unwrap();
        answer.truncate(HEADER + 13 + 4);
        answer.extend(after);
        let taken = query.incoming(1, &answer).unwrap();
        prop_assert!(taken.len() <= 512);
    }
}
