//! The payload of a datagram: foca's message, then records.
//!
//! ```text
//! source (28) ‖ its incarnation (2) ‖ destination (28) ‖ kind (1) [‖ node (28)] [‖ probe (1)]
//!   ‖ count (2) ‖ count × [identity (28) ‖ incarnation (2) ‖ state (1)] ‖ … × [length (2) ‖ record]
//! identity = node id (16) ‖ generation (8) ‖ rejoined (4)
//! ```
//!
//! Integers are big-endian and of fixed width: each message has one encoding. A broadcast has no count
//! and no members.

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Incarnation, Member, Message as Kind, State};

use crate::id::{Generation, NodeId};

/// One start of one node, as foca knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub node: NodeId,
    /// Of its newest signed node record.
    pub generation: Generation,
    /// Advances when the cluster took the node for dead and it was not.
    pub rejoined: u32,
}

const IDENTITY_LEN: usize = 28;

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            rejoined: self.rejoined.checked_add(1)?,
            ..*self
        })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.rejoined) > (adversary.generation, adversary.rejoined)
    }
}

/// A payload that no honest member sends, or one too large to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field is cut off.
    #[error("the gossip payload ends within a field")]
    Short,
    /// A kind or state that does not exist.
    #[error("the gossip payload has a field with the impossible value {0}")]
    Value(u8),
    /// Bytes behind an announcement, or an empty record.
    #[error("the gossip payload has bytes where its kind has none")]
    Trailing,
    /// More records than a datagram has place for.
    #[error("the gossip payload has more than {MAX_RECORDS_IN_DATAGRAM} records")]
    Records,
    /// The message being written is full: foca sends it without what did not fit.
    #[error("the gossip payload has no room for another member")]
    Full,
}

fn get_identity(buf: &mut impl Buf) -> Result<Identity, Malformed> {
    if buf.remaining() < IDENTITY_LEN {
        return Err(Malformed::Short);
    }
    let mut node = [0; 16];
    buf.copy_to_slice(&mut node);
    Ok(Identity {
        node: NodeId::from_bytes(node),
        generation: Generation(buf.get_u64()),
        rejoined: buf.get_u32(),
    })
}

fn put_identity(identity: &Identity, buf: &mut impl BufMut) {
    buf.put_slice(identity.node.as_bytes());
    buf.put_u64(identity.generation.0);
    buf.put_u32(identity.rejoined);
}

fn get_u8(buf: &mut impl Buf) -> Result<u8, Malformed> {
    buf.try_get_u8().map_err(|_| Malformed::Short)
}

fn get_u16(buf: &mut impl Buf) -> Result<u16, Malformed> {
    buf.try_get_u16().map_err(|_| Malformed::Short)
}

/// Written and read by foca.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire;

impl Codec<Identity> for Wire {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        let Header {
            src,
            src_incarnation,
            dst,
            message,
        } = header;
        if buf.remaining_mut() < 3 * IDENTITY_LEN + 4 {
            return Err(Malformed::Full);
        }
        put_identity(src, &mut buf);
        buf.put_u16(*src_incarnation);
        put_identity(dst, &mut buf);
        match message {
            Kind::Ping(probe) => {
                buf.put_u8(0);
                buf.put_u8(*probe);
            }
            Kind::Ack(probe) => {
                buf.put_u8(1);
                buf.put_u8(*probe);
            }
            Kind::PingReq {
                target: other,
                probe_number,
            }
            | Kind::IndirectPing {
                origin: other,
                probe_number,
            }
            | Kind::IndirectAck {
                target: other,
                probe_number,
            }
            | Kind::ForwardedAck {
                origin: other,
                probe_number,
            } => {
                buf.put_u8(match message {
                    Kind::PingReq { .. } => 2,
                    Kind::IndirectPing { .. } => 3,
                    Kind::IndirectAck { .. } => 4,
                    _ => 5,
                });
                put_identity(other, &mut buf);
                buf.put_u8(*probe_number);
            }
            Kind::Announce => buf.put_u8(6),
            Kind::Feed => buf.put_u8(7),
            Kind::Gossip => buf.put_u8(8),
            Kind::Broadcast => buf.put_u8(9),
            Kind::TurnUndead => buf.put_u8(10),
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, Malformed> {
        let src = get_identity(&mut buf)?;
        let src_incarnation = get_u16(&mut buf)?;
        let dst = get_identity(&mut buf)?;
        let message = match get_u8(&mut buf)? {
            0 => Kind::Ping(get_u8(&mut buf)?),
            1 => Kind::Ack(get_u8(&mut buf)?),
            kind @ 2..=5 => {
                let other = get_identity(&mut buf)?;
                let probe_number = get_u8(&mut buf)?;
                match kind {
                    2 => Kind::PingReq {
                        target: other,
                        probe_number,
                    },
                    3 => Kind::IndirectPing {
                        origin: other,
                        probe_number,
                    },
                    4 => Kind::IndirectAck {
                        target: other,
                        probe_number,
                    },
                    _ => Kind::ForwardedAck {
                        origin: other,
                        probe_number,
                    },
                }
            }
            6 => Kind::Announce,
            7 => Kind::Feed,
            8 => Kind::Gossip,
            9 => Kind::Broadcast,
            10 => Kind::TurnUndead,
            other => return Err(Malformed::Value(other)),
        };
        Ok(Header {
            src,
            src_incarnation,
            dst,
            message,
        })
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        if buf.remaining_mut() < IDENTITY_LEN + 3 {
            return Err(Malformed::Full);
        }
        put_identity(member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, Malformed> {
        let identity = get_identity(&mut buf)?;
        let incarnation: Incarnation = get_u16(&mut buf)?;
        let state = match get_u8(&mut buf)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            other => return Err(Malformed::Value(other)),
        };
        Ok(Member::new(identity, incarnation, state))
    }
}

/// Records in one datagram: the smallest has 90 bytes.
pub const MAX_RECORDS_IN_DATAGRAM: usize = 20;

/// A payload taken apart, before foca sees any of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<'a> {
    pub header: Header<Identity>,
    pub members: Vec<Member<Identity>>,
    pub records: Vec<&'a [u8]>,
}

/// Reads a whole payload or refuses it as a whole.
pub fn parse(mut payload: &[u8]) -> Result<Message<'_>, Malformed> {
    let header = Wire.decode_header(&mut payload)?;
    let mut members = Vec::new();
    if header.message == Kind::Announce && !payload.is_empty() {
        return Err(Malformed::Trailing);
    }
    if header.message != Kind::Broadcast && !payload.is_empty() {
        for _ in 0..get_u16(&mut payload)? {
            members.push(Wire.decode_member(&mut payload)?);
        }
    }
    let mut records = Vec::new();
    while !payload.is_empty() {
        let length = usize::from(get_u16(&mut payload)?);
        if length == 0 {
            return Err(Malformed::Trailing);
        }
        if records.len() == MAX_RECORDS_IN_DATAGRAM {
            return Err(Malformed::Records);
        }
        let (record, rest) = payload.split_at_checked(length).ok_or(Malformed::Short)?;
        records.push(record);
        payload = rest;
    }
    Ok(Message {
        header,
        members,
        records,
    })
}

impl Message<'_> {
    /// The payload with what is left of the members, and without records: for foca.
    pub fn without_records(&self) -> Result<Vec<u8>, Malformed> {
        let mut payload = Vec::with_capacity(128 + 31 * self.members.len());
        Wire.encode_header(&self.header, &mut payload)?;
        if !self.members.is_empty() {
            payload.put_u16(self.members.len() as u16);
            for member in &self.members {
                Wire.encode_member(member, &mut payload)?;
            }
        }
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> impl Strategy<Value = Identity> {
        (any::<[u8; 16]>(), any::<u64>(), any::<u32>()).prop_map(|(node, generation, rejoined)| {
            Identity {
                node: NodeId::from_bytes(node),
                generation: Generation(generation),
                rejoined,
            }
        })
    }

    fn kind() -> impl Strategy<Value = Kind<Identity>> {
        (0..10, identity(), any::<u8>()).prop_map(|(kind, other, probe_number)| match kind {
            0 => Kind::Ping(probe_number),
            1 => Kind::Ack(probe_number),
            2 => Kind::PingReq {
                target: other,
                probe_number,
            },
            3 => Kind::IndirectPing {
                origin: other,
                probe_number,
            },
            4 => Kind::IndirectAck {
                target: other,
                probe_number,
            },
            5 => Kind::ForwardedAck {
                origin: other,
                probe_number,
            },
            6 => Kind::Feed,
            7 => Kind::Gossip,
            8 => Kind::TurnUndead,
            _ => Kind::Ping(0),
        })
    }

    proptest! {
        #[test]
        fn payloads_are_read_as_they_are_written(
            src in identity(), src_incarnation: u16, dst in identity(), message in kind(),
            members in prop::collection::vec((identity(), any::<u16>(), 0..3), 0..10),
        ) {
            let members = members
                .into_iter()
                .map(|(id, incarnation, state)| {
                    let state = [State::Alive, State::Suspect, State::Down][state as usize];
                    Member::new(id, incarnation, state)
                })
                .collect();
            let header = Header { src, src_incarnation, dst, message };
            let written = Message { header, members, records: Vec::new() };
            let payload = written.without_records().expect("fits");
            prop_assert_eq!(parse(&payload).expect("reads"), written);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1400)) {
            if let Ok(message) = parse(&bytes) {
                message.without_records().expect("fits");
            }
        }
    }

    #[test]
    fn records_follow_the_members() {
        let identity = Identity {
            node: NodeId::from_bytes([1; 16]),
            generation: Generation(1),
            rejoined: 0,
        };
        let message = Message {
            header: Header {
                src: identity,
                src_incarnation: 0,
                dst: identity,
                message: Kind::Gossip,
            },
            members: vec![Member::alive(identity)],
            records: Vec::new(),
        };
        let mut payload = message.without_records().expect("fits");
        payload.extend_from_slice(&[0, 2, b'h', b'i', 0, 1, b'!']);
        assert_eq!(parse(&payload).expect("reads").records, [&b"hi"[..], b"!"]);
        for cut in 1..7 {
            let cut = &payload[..payload.len() - cut];
            if cut.len() != payload.len() - 3 {
                parse(cut).expect_err("cut short");
            }
        }
        payload.extend_from_slice(&[0, 0]);
        assert_eq!(parse(&payload), Err(Malformed::Trailing));
    }
}
