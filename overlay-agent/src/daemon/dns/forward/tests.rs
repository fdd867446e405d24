use std::{net::Ipv4Addr, str::FromStr as _};

use hickory_proto::{
    op::{Message, MessageType, OpCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::net::TcpListener;

use super::*;
use crate::daemon::dns::{
    answer::{Verdict, decide},
    names::Names,
};

fn query(name: &str, transport: Transport) -> Query {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(
        Name::from_str(name).unwrap(),
        RecordType::A,
    ));
    let bytes = message.to_vec().unwrap();
    match decide(&bytes, transport, &Names::default(), &[], 0) {
        Verdict::Forward(query) => query,
        other => panic!("{other:?}"),
    }
}

fn answer(query: &[u8], last: u8) -> Message {
    let mut answer = Message::from_vec(query).unwrap().into_response();
    let name = answer.queries[0].name().clone();
    answer.add_answer(Record::from_rdata(
        name,
        60,
        RData::A(rdata::A::new(203, 0, 113, last)),
    ));
    answer
}

/// A resolver that sends what `say` makes of each query.
async fn resolver(mut say: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            for bytes in say(&buffer[..len]) {
                socket.send_to(&bytes, from).await.unwrap();
            }
        }
    });
    address
}

async fn good(last: u8) -> SocketAddr {
    resolver(move |query| vec![answer(query, last).to_vec().unwrap()]).await
}

async fn silent() -> SocketAddr {
    resolver(|_| vec![]).await
}

fn limits() -> Limits {
    Limits {
        answer: Duration::from_millis(300),
        total: Duration::from_millis(900),
        ..Limits::default()
    }
}

fn data(answer: Option<Vec<u8>>) -> (u16, ResponseCode, Vec<String>) {
    let message = Message::from_vec(&answer.unwrap()).unwrap();
    let records = message.answers.iter();
    let data = records.map(|record| record.data.to_string()).collect();
    (message.id, message.response_code, data)
}

fn found(last: u8) -> (u16, ResponseCode, Vec<String>) {
    (
        4711,
        ResponseCode::NoError,
        vec![format!("203.0.113.{last}")],
    )
}

#[tokio::test]
async fn answer_of_the_first_resolver_is_the_clients() {
    let forwarder = Forwarder::new(vec![good(1).await, good(2).await], limits());
    for _ in 0..3 {
        let answer = forwarder
            .forward(&query("example.com.", Transport::Udp))
            .await;
        assert_eq!(data(answer), found(1));
    }
}

#[tokio::test]
async fn silent_and_refusing_resolvers_are_passed_over_and_remembered() {
    let refusing = resolver(|query| {
        let mut answer = answer(query, 9);
        answer.answers.clear();
        answer.metadata.response_code = ResponseCode::Refused;
        vec![answer.to_vec().unwrap()]
    });
    let resolvers = vec![silent().await, refusing.await, good(3).await];
    let forwarder = Forwarder::new(resolvers, limits());
    let query = query("example.com.", Transport::Udp);
    assert_eq!(data(forwarder.forward(&query).await), found(3));
    let began = Instant::now();
    assert_eq!(data(forwarder.forward(&query).await), found(3));
    assert!(
        began.elapsed() < limits().answer,
        "the silent one was asked again"
    );
}

#[tokio::test]
async fn wrong_numbers_and_questions_before_the_answer_are_not_taken() {
    let address = resolver(|query| {
        let right = answer(query, 1);
        let mut guessed = answer(query, 66);
        guessed.metadata.id = right.id.wrapping_add(1);
        let mut other = answer(query, 67);
        other.queries[0].set_name(Name::from_str("example.org.").unwrap());
        let messages = [guessed, other, right];
        let mut bytes: Vec<_> = messages
            .iter()
            .map(|message| message.to_vec().unwrap())
            .collect();
        bytes.insert(0, b"garbage".to_vec());
        bytes
    });
    let forwarder = Forwarder::new(vec![address.await], limits());
    let answer = forwarder
        .forward(&query("example.com.", Transport::Udp))
        .await;
    assert_eq!(data(answer), found(1));
}

#[tokio::test]
async fn without_an_answer_the_client_is_told_in_time() {
    let failure = (4711, ResponseCode::ServFail, vec![]);
    let began = Instant::now();
    let resolvers = vec![
        silent().await,
        silent().await,
        silent().await,
        silent().await,
    ];
    let forwarder = Forwarder::new(resolvers, limits());
    let answer = forwarder
        .forward(&query("example.com.", Transport::Udp))
        .await;
    assert_eq!(data(answer), failure);
    let took = began.elapsed();
    assert!(
        took < limits().total + Duration::from_millis(300),
        "{took:?}"
    );
    // A host that names none.
    let forwarder = Forwarder::new(vec![], limits());
    let answer = forwarder
        .forward(&query("example.com.", Transport::Udp))
        .await;
    assert_eq!(data(answer), failure);
}

#[tokio::test]
async fn loop_of_resolvers_ends_and_other_questions_do_not_suffer() {
    let bounds = Limits {
        of_question: 3,
        queries: 8,
        ..limits()
    };
    let resolvers = vec![silent().await];
    let forwarder = Arc::new(Forwarder::new(resolvers, bounds));
    let under_way: Vec<_> = (0..3)
        .map(|_| {
            let forwarder = Arc::clone(&forwarder);
            tokio::spawn(async move {
                forwarder
                    .forward(&query("example.com.", Transport::Udp))
                    .await
            })
        })
        .collect();
    while forwarder.places.available_permits() > 5 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    // Whatever its case.
    let fourth = forwarder
        .forward(&query("EXAMPLE.com.", Transport::Udp))
        .await;
    assert_eq!(data(fourth).1, ResponseCode::ServFail);
    assert!(began.elapsed() < Duration::from_millis(100), "it was asked");
    forwarder.set_resolvers(vec![good(1).await]);
    let other = forwarder
        .forward(&query("example.org.", Transport::Udp))
        .await;
    assert_eq!(data(other), found(1));
    for asked in under_way {
        asked.await.unwrap();
    }
    assert!(lock(&forwarder.questions).is_empty());
    let again = forwarder
        .forward(&query("example.com.", Transport::Udp))
        .await;
    assert_eq!(data(again), found(1));
}

#[tokio::test]
async fn queries_in_all_are_bounded() {
    let bounds = Limits {
        queries: 0,
        ..limits()
    };
    let forwarder = Forwarder::new(vec![good(1).await], bounds);
    let answer = forwarder
        .forward(&query("example.com.", Transport::Udp))
        .await;
    assert_eq!(data(answer).1, ResponseCode::ServFail);
}

#[tokio::test]
async fn client_over_tcp_is_answered_over_tcp() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut len = [0; 2];
        stream.read_exact(&mut len).await.unwrap();
        let mut query = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut query).await.unwrap();
        let mut long = answer(&query, 0);
        for last in 1..100 {
            long.answers.extend(answer(&query, last).answers);
        }
        write_message(&mut stream, &long.to_vec().unwrap())
            .await
            .unwrap();
    });
    let forwarder = Forwarder::new(vec![address], limits());
    let answer = forwarder
        .forward(&query("example.com.", Transport::Tcp))
        .await;
    assert_eq!(data(answer).2.len(), 100);
}

#[test]
fn same_resolvers_are_no_others() {
    let one: SocketAddr = ([192, 0, 2, 1], 53).into();
    let forwarder = Forwarder::new(vec![one], limits());
    assert!(!forwarder.set_resolvers(vec![one]));
    assert!(forwarder.set_resolvers(vec![]));
}
