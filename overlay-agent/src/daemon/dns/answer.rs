//! From a query to an answer, or to forward it.
//!
//! Every byte of a query is somebody else's. What is not understood is refused with an empty answer of
//! the query's size or less, and what is no query at all gets none.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
    serialize::binary::{BinDecodable as _, BinDecoder},
};
use overlay_ebpf::abi::Vni;
use rand::{SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use super::names::{Found, Names};

/// Seconds for which an answer may be kept: an endpoint can move, or end, at any time.
pub const TTL: u32 = 5;
/// Bytes of a query.
pub const MAX_QUERY: usize = 1232;
/// Bytes of an answer over UDP, whatever the client takes: no fragment on any path.
pub const MAX_UDP: usize = 1232;
/// Bytes of an answer over UDP without EDNS (RFC 1035 section 4.2.1).
const MIN_UDP: usize = 512;
/// Addresses of one answer; of more, some are left out.
pub const MAX_ADDRESSES: usize = 512;
/// Bytes of a header.
const HEADER: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is none.
    Drop,
    Answer(Vec<u8>),
    Forward(Query),
}

/// A well-formed query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    metadata: Metadata,
    question: Question,
    edns: Option<Asked>,
    transport: Transport,
}

/// What is taken over of a client's EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    max_payload: u16,
    version: u8,
    dnssec_ok: bool,
}

impl Query {
    pub fn question(&self) -> &Question {
        &self.question
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Bytes that the answer may have.
    pub fn limit(&self) -> usize {
        match (self.transport, self.edns) {
            (Transport::Tcp, _) => u16::MAX.into(),
            (Transport::Udp, Some(edns)) => usize::from(edns.max_payload).clamp(MIN_UDP, MAX_UDP),
            (Transport::Udp, None) => MIN_UDP,
        }
    }

    /// The query to ask of another resolver under the number `id`. It has what is understood of the
    /// client's, and nothing else.
    pub fn outgoing(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.metadata.recursion_desired;
        message.metadata.authentic_data = self.metadata.authentic_data;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.add_query(self.question.clone());
        message.edns = self.edns.map(|asked| self::edns(asked.dnssec_ok));
        message.to_vec().ok()
    }

    /// What another resolver answered to [`Self::outgoing`], as an answer to the client. `None` if it
    /// is no answer to that: another number, another question, no answer at all.
    pub fn incoming(&self, id: u16, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).ok()?;
        let is_answer = header.id == id
            && header.message_type == MessageType::Response
            && header.op_code == OpCode::Query
            && header.counts.queries == 1;
        let question = Question::read(&mut decoder).ok()?;
        if !is_answer || !same(&question, &self.question) {
            return None;
        }
        if bytes.len() > self.limit() {
            let mut message = self.empty(header.response_code);
            message.metadata.truncation = true;
            return encode(&message);
        }
        let mut answer = bytes.to_vec();
        answer[..2].copy_from_slice(&self.metadata.id.to_be_bytes());
        Some(answer)
    }

    /// An answer without records.
    pub fn refusal(&self, code: ResponseCode) -> Option<Vec<u8>> {
        encode(&self.empty(code))
    }

    /// Whether another resolver refused to answer, so that the next is asked.
    pub fn is_refused(answer: &[u8]) -> bool {
        let mut decoder = BinDecoder::new(answer);
        Header::read(&mut decoder).is_ok_and(|header| {
            matches!(
                header.response_code,
                ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
            )
        })
    }

    fn empty(&self, code: ResponseCode) -> Message {
        let mut message = reply(&self.metadata, code);
        message.add_query(self.question.clone());
        message.edns = self.edns.map(|asked| self::edns(asked.dnssec_ok));
        message
    }

    /// An answer of ours.
    fn answer(&self, code: ResponseCode, data: impl IntoIterator<Item = RData>) -> Verdict {
        let mut message = self.empty(code);
        message.metadata.authoritative = true;
        let name = self.question.name();
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        message.answers = data.into_iter().map(record).collect();
        let limit = self.limit();
        loop {
            match encode(&message) {
                Some(bytes) if bytes.len() <= limit => return Verdict::Answer(bytes),
                // The whole set is to be asked for over TCP.
                _ if !message.answers.is_empty() => {
                    message.metadata.truncation = true;
                    let fewer = message.answers.len() * 7 / 8;
                    message.answers.truncate(fewer);
                }
                _ => return Verdict::Drop,
            }
        }
    }
}

/// What becomes of the bytes of a client that is in the networks `scope`. `seed` orders the addresses of
/// a service.
pub fn decide(
    bytes: &[u8],
    transport: Transport,
    names: &Names,
    scope: &[Vni],
    seed: u64,
) -> Verdict {
    let query = match parse(bytes, transport) {
        Ok(query) => query,
        Err(verdict) => return verdict,
    };
    let refuse = |code| query.refusal(code).map_or(Verdict::Drop, Verdict::Answer);
    let name = query.question.name();
    let asked = query.question.query_type();
    if query.question.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    if matches!(asked, RecordType::AXFR | RecordType::IXFR) {
        return refuse(ResponseCode::Refused);
    }
    if name.is_localhost() {
        let loopback = [
            IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ];
        return query.answer(ResponseCode::NoError, addresses(&loopback, asked, seed));
    }
    if let Some(address) = pointed(name) {
        return match names.name(scope, address) {
            Found::Ours((label, network)) => {
                let is_asked = matches!(asked, RecordType::PTR | RecordType::ANY);
                let target = is_asked.then(|| target(label, network)).flatten();
                let data = target.map(|name| RData::PTR(rdata::PTR(name)));
                query.answer(ResponseCode::NoError, data)
            }
            Found::Nothing => query.answer(ResponseCode::NXDomain, []),
            Found::NotOurs => Verdict::Forward(query),
        };
    }
    match names.addresses(scope, name.iter()) {
        Found::Ours(found) => query.answer(ResponseCode::NoError, addresses(&found, asked, seed)),
        // Top-level domains have names without a dot: a resolver in the container may walk the tree.
        Found::Nothing if is_of_zones(asked) => Verdict::Forward(query),
        Found::Nothing => query.answer(ResponseCode::NXDomain, []),
        Found::NotOurs => Verdict::Forward(query),
    }
}

fn parse(bytes: &[u8], transport: Transport) -> Result<Query, Verdict> {
    if !(HEADER..=MAX_QUERY).contains(&bytes.len()) {
        return Err(Verdict::Drop);
    }
    let header = Header::read(&mut BinDecoder::new(bytes)).map_err(|_| Verdict::Drop)?;
    // An answer to an answer could go on for ever.
    if header.message_type != MessageType::Query {
        return Err(Verdict::Drop);
    }
    let refuse = |code| {
        let bytes = encode(&reply(&header.metadata, code));
        bytes.map_or(Verdict::Drop, Verdict::Answer)
    };
    if header.op_code != OpCode::Query {
        return Err(refuse(ResponseCode::NotImp));
    }
    let mut message = match Message::from_vec(bytes) {
        Ok(message) if message.answers.is_empty() => message,
        _ => return Err(refuse(ResponseCode::FormErr)),
    };
    let (1, Some(question)) = (message.queries.len(), message.queries.pop()) else {
        return Err(refuse(ResponseCode::FormErr));
    };
    let query = Query {
        metadata: message.metadata,
        question,
        edns: message.edns.map(|edns| Asked {
            max_payload: edns.max_payload(),
            version: edns.version(),
            dnssec_ok: edns.flags().dnssec_ok,
        }),
        transport,
    };
    if query.edns.is_some_and(|edns| edns.version != 0) {
        let refusal = query.refusal(ResponseCode::BADVERS);
        return Err(refusal.map_or(Verdict::Drop, Verdict::Answer));
    }
    Ok(query)
}

/// Without question and records.
fn reply(query: &Metadata, code: ResponseCode) -> Message {
    let mut message = Message::response(query.id, query.op_code);
    message.metadata = Metadata::response_from_request(query);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message
}

/// Ours, to clients and to other resolvers.
fn edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP as u16);
    edns.set_dnssec_ok(dnssec_ok);
    edns
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok()
}

/// Names are equal whatever their case (RFC 4343).
fn same(one: &Question, other: &Question) -> bool {
    one.name() == other.name()
        && one.query_type() == other.query_type()
        && one.query_class() == other.query_class()
}

/// Those of the family that is asked for, in an order that differs from seed to seed, so that each
/// address is first as often as the others.
fn addresses(found: &[IpAddr], asked: RecordType, seed: u64) -> Vec<RData> {
    let mut data: Vec<_> = found
        .iter()
        .filter_map(|address| match (asked, address) {
            (RecordType::A | RecordType::ANY, IpAddr::V4(v4)) => Some(RData::A((*v4).into())),
            (RecordType::AAAA | RecordType::ANY, IpAddr::V6(v6)) => Some(RData::AAAA((*v6).into())),
            _ => None,
        })
        .collect();
    data.shuffle(&mut SmallRng::seed_from_u64(seed));
    data.truncate(MAX_ADDRESSES);
    data
}

/// The address that a name of in-addr.arpa or ip6.arpa points to.
fn pointed(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// `web.my-network.`; `web.` where the network's name is no DNS name.
fn target(label: &str, network: &str) -> Option<Name> {
    let label = [label.as_bytes()];
    let parts = label
        .into_iter()
        .chain(network.split('.').map(str::as_bytes));
    let name = Name::from_labels(parts).or_else(|_| Name::from_labels(label));
    let mut name = name.ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Types that describe zones, not hosts.
fn is_of_zones(asked: RecordType) -> bool {
    matches!(asked, RecordType::NS | RecordType::SOA) || asked.is_dnssec()
}

#[cfg(test)]
mod tests;
