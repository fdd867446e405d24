//! A record as its owner signed it.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::{Invalid, Record, Version};
use crate::id::{ClusterId, NodeId};

/// Bytes of a signed record: it fits a datagram beside foca's own message.
pub const MAX_RECORD: usize = 1024;

const VERSION: u8 = 1;
const LABEL: &[u8] = b"overlay gossip record v1";

/// Bytes that are no record of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Empty, cut short, or longer than any record.
    #[error("{0} bytes are no signed record, which has 66 to {MAX_RECORD}")]
    Length(usize),
    /// Written by a newer agent, or by no agent.
    #[error(
        "the record has version {0} and this agent reads version {VERSION}: update the older agent"
    )]
    Version(u8),
    /// Not postcard, or not as this agent would write it.
    #[error("the record's bytes are not the encoding of a record")]
    Encoding,
    /// It says what no honest node says.
    #[error("the record of {owner} is refused: {reason}")]
    Invalid { owner: NodeId, reason: Invalid },
}

/// A record as the bytes that carry it: a node holds tens of thousands, and reads few of them at a
/// time. Decoding checks everything but the signature, which [`Signed::verify`] does: most records
/// that arrive are known already and cost no signature check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Version byte, body, signature.
    bytes: Box<[u8]>,
    hash: [u8; 16],
}

/// Of bytes that [`Signed`] was made from.
const CHECKED: &str = "the bytes were read when the record was made";

impl Signed {
    /// Signs with the owner's key. Fails on what every other node would refuse.
    pub fn new(record: Record, cluster: ClusterId, key: &SigningKey) -> Result<Self, RecordError> {
        record.validate().map_err(|reason| RecordError::Invalid {
            owner: record.owner,
            reason,
        })?;
        let mut bytes = encode(&record);
        let signature = key.sign(&message(cluster, &bytes));
        bytes.extend_from_slice(&signature.to_bytes());
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::Length(bytes.len()));
        }
        Ok(Self::of(&bytes))
    }

    /// Reads what [`Signed::bytes`] gave. The signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some((signed, _)) = bytes.split_last_chunk::<{ Signature::BYTE_SIZE }>() else {
            return Err(RecordError::Length(bytes.len()));
        };
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::Length(bytes.len()));
        }
        let Some((version, body)) = signed.split_first() else {
            return Err(RecordError::Length(bytes.len()));
        };
        if *version != VERSION {
            return Err(RecordError::Version(*version));
        }
        let record: Record = postcard::from_bytes(body).map_err(|_| RecordError::Encoding)?;
        if encode(&record) != signed {
            return Err(RecordError::Encoding);
        }
        record.validate().map_err(|reason| RecordError::Invalid {
            owner: record.owner,
            reason,
        })?;
        Ok(Self::of(bytes))
    }

    /// Whether the owner signed it, for this cluster. `key` is the roster's for the owner.
    pub fn verify(&self, cluster: ClusterId, key: &VerifyingKey) -> bool {
        if NodeId::of(key) != self.owner() {
            return false;
        }
        self.bytes
            .split_last_chunk::<{ Signature::BYTE_SIZE }>()
            .is_some_and(|(signed, signature)| {
                let signature = Signature::from_bytes(signature);
                key.verify_strict(&message(cluster, signed), &signature)
                    .is_ok()
            })
    }

    fn of(bytes: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self {
            bytes: bytes.into(),
            hash,
        }
    }

    /// What it says.
    pub fn record(&self) -> Record {
        postcard::from_bytes(self.body()).expect(CHECKED)
    }

    /// Without reading the rest.
    pub fn owner(&self) -> NodeId {
        self.head().0
    }

    /// Without reading the rest.
    pub fn version(&self) -> Version {
        self.head().1
    }

    /// The first fields of [`Record`].
    fn head(&self) -> (NodeId, Version) {
        let (head, _content) = postcard::take_from_bytes(self.body()).expect(CHECKED);
        head
    }

    fn body(&self) -> &[u8] {
        &self.bytes[1..self.bytes.len() - Signature::BYTE_SIZE]
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// First 16 bytes of the SHA-256 of the bytes.
    pub const fn hash(&self) -> u128 {
        u128::from_be_bytes(self.hash)
    }

    /// Whether it replaces the other record of its key: the higher version does. An owner that signs
    /// two records with one version is lying, and all nodes still settle on the same one.
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.version(), self.hash) > (other.version(), other.hash)
    }
}

/// Version byte and body: what is signed, without label and cluster.
fn encode(record: &Record) -> Vec<u8> {
    postcard::to_extend(record, vec![VERSION]).expect("a record has an encoding")
}

fn message(cluster: ClusterId, signed: &[u8]) -> Vec<u8> {
    [LABEL, cluster.as_bytes(), signed].concat()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use overlay_ebpf::abi::{MacAddr, Vni};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        gossip::{
            envelope::BootNonce,
            record::{Body, Content, Endpoint, Key, Node, Version},
        },
        id::{EpochName, Generation},
        keys::{EphemeralRecord, PublicKey},
    };

    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn record(content: Content) -> Record {
        Record {
            owner: NodeId::of(&key(1).verifying_key()),
            version: Version {
                generation: Generation(3),
                counter: 9,
            },
            content,
        }
    }

    fn endpoint(name: &str) -> Content {
        Content::Live(Body::Endpoint(Endpoint {
            vni: Vni::new(4097).expect("a VNI"),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ips: [IpAddr::from([10, 0, 9, 2])].into(),
            name: name.into(),
        }))
    }

    fn node(vteps: usize) -> Content {
        Content::Live(Body::Node(Node {
            vteps: vec![IpAddr::from([192, 0, 2, 1]); vteps],
            control: "192.0.2.1:7946".parse().expect("an address"),
            software: "0.1.0".to_owned(),
            boot: BootNonce::from_bytes([5; 16]),
        }))
    }

    #[test]
    fn only_the_owner_signs_and_only_for_its_cluster() {
        let signed = Signed::new(record(endpoint("web")), CLUSTER, &key(1)).expect("valid");
        assert!(signed.verify(CLUSTER, &key(1).verifying_key()));
        assert!(!signed.verify(ClusterId::from_bytes([8; 16]), &key(1).verifying_key()));
        assert!(!signed.verify(CLUSTER, &key(2).verifying_key()));
        let forged = Signed::new(record(endpoint("web")), CLUSTER, &key(2)).expect("valid");
        assert!(!forged.verify(CLUSTER, &key(1).verifying_key()));
        assert!(!forged.verify(CLUSTER, &key(2).verifying_key()));
    }

    #[test]
    fn each_flipped_bit_is_refused() {
        let signed = Signed::new(record(node(1)), CLUSTER, &key(1)).expect("valid");
        for bit in 0..signed.bytes().len() * 8 {
            let mut bytes = signed.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(damaged) = Signed::decode(&bytes) {
                assert!(!damaged.verify(CLUSTER, &key(1).verifying_key()));
            }
        }
    }

    #[test]
    fn a_second_encoding_of_a_record_is_refused() {
        let signed = Signed::new(record(endpoint("")), CLUSTER, &key(1)).expect("valid");
        // The counter 9, a varint of one byte, written in two.
        let at = 1 + 16 + 1;
        let mut bytes = signed.bytes().to_vec();
        assert_eq!(bytes[at], 9);
        bytes.splice(at..=at, [0x89, 0]);
        assert_eq!(Signed::decode(&bytes), Err(RecordError::Encoding));
    }

    #[test]
    fn what_no_honest_node_writes_is_refused() {
        let refused = |record: Record| match Signed::new(record, CLUSTER, &key(1)) {
            Err(RecordError::Invalid { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        let mut absurd = record(endpoint("web"));
        absurd.version.counter = u64::MAX;
        assert_eq!(refused(absurd.clone()), Invalid::Version(absurd.version));
        assert_eq!(refused(record(node(0))), Invalid::Addresses(0));
        assert_eq!(refused(record(node(9))), Invalid::Addresses(9));
        for name in ["-web", "web-", "web.one", "wéb", &"a".repeat(64)] {
            assert_eq!(refused(record(endpoint(name))), Invalid::Name, "{name}");
        }
        assert_eq!(
            refused(record(Content::Deleted(Key::Floor))),
            Invalid::DeletedFloor
        );
        let floor = Version {
            generation: Generation(4),
            counter: 0,
        };
        assert!(matches!(
            refused(record(Content::Floor(floor))),
            Invalid::HighFloor { .. }
        ));
    }

    #[test]
    fn the_largest_record_fits() {
        let ips = vec![IpAddr::from([0x20; 16]); super::super::MAX_ADDRESSES];
        let largest = record(Content::Live(Body::Node(Node {
            vteps: ips,
            control: "[2001:db8::1]:65535".parse().expect("an address"),
            software: "x".repeat(super::super::MAX_SOFTWARE),
            boot: BootNonce::from_bytes([0xff; 16]),
        })));
        let signed = Signed::new(largest, CLUSTER, &key(1)).expect("fits");
        assert!(signed.bytes().len() < 400, "{}", signed.bytes().len());
    }

    #[test]
    fn the_floor_comes_last() {
        let vni = Vni::new(4096).expect("a VNI");
        for last in 0..100 {
            let mac = MacAddr([2, 0, 0, 0, 0, last]);
            assert!(Key::Endpoint { vni, mac }.place() < Key::Floor.place());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(signed) = Signed::decode(&bytes) {
                prop_assert!(!signed.verify(CLUSTER, &key(1).verifying_key()));
            }
        }

        #[test]
        fn records_are_read_as_they_are_written(
            generation in 0..=Version::LIMIT, counter in 0..=Version::LIMIT,
            public in prop::array::uniform32(1u8..), number: u32, incarnation: u32, hash: [u8; 8],
            lanes in 1u8..=16, deleted: bool,
        ) {
            let epoch = EpochName { incarnation, number, hash };
            let content = if deleted {
                Content::Deleted(Key::Ephemeral { epoch })
            } else {
                Content::Live(Body::Ephemeral(EphemeralRecord {
                    epoch,
                    generation: Generation(generation),
                    public: PublicKey::from_bytes(public),
                    lanes,
                }))
            };
            let mut written = record(content);
            written.version = Version { generation: Generation(generation), counter };
            let signed = Signed::new(written, CLUSTER, &key(1)).expect("valid");
            let read = Signed::decode(signed.bytes()).expect("reads");
            prop_assert!(read.verify(CLUSTER, &key(1).verifying_key()));
            prop_assert_eq!(read, signed);
        }
    }
}
