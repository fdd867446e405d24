use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use rand::{SeedableRng as _, rngs::StdRng};
use sha2::Digest as _;

use super::*;
use crate::secret::Secret;

/// The published vectors: blocks of `name = value` between empty lines.
struct Vector<'a>(&'a str);

impl<'a> Vector<'a> {
    fn all() -> impl Iterator<Item = Vector<'static>> {
        include_str!("../vectors.txt")
            .split("\n\n")
            .skip(1)
            .map(Vector)
    }

    fn text(&self, name: &str) -> &'a str {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
            .unwrap_or_else(|| panic!("{name} is in the vector"))
    }

    fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(&self, name: &str) -> T {
        self.text(name).parse().expect("a number that fits")
    }

    fn bytes<const N: usize>(&self, name: &str) -> [u8; N] {
        HEXLOWER
            .decode(self.text(name).as_bytes())
            .expect("hexadecimal")
            .try_into()
            .expect("the field's length")
    }

    fn secrets(&self) -> EpochSecrets {
        EpochSecrets {
            gossip: Secret::new(self.bytes("gossip-secret")),
            data: Secret::new(self.bytes("data-secret")),
        }
    }

    fn side(&self, role: &str) -> Side {
        Side {
            node: NodeId::from_bytes(self.bytes(role)),
            generation: Generation(self.number(&format!("{role}-generation"))),
            public: PublicKey::from_bytes(self.bytes(&format!("{role}-public"))),
        }
    }

    fn name(&self) -> SaName {
        SaName {
            cluster: ClusterId::from_bytes(self.bytes("cluster")),
            epoch: EpochName {
                incarnation: self.number("incarnation"),
                number: self.number("number"),
                hash: self.bytes("epoch-hash"),
            },
            sender: self.side("sender"),
            receiver: self.side("receiver"),
            session: self.number("session"),
            slot: Slot::new(self.number("slot")),
            lane: Lane::new(self.number("lane")).expect("a lane"),
        }
    }
}

/// HMAC-SHA-256 from the hash alone (RFC 2104), for keys of 32 bytes.
fn hmac(key: &[u8; 32], message: &[&[u8]]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block
    };
    let mut inner = Sha256::new_with_prefix(pad(0x36));
    message.iter().for_each(|part| inner.update(part));
    Sha256::new_with_prefix(pad(0x5c))
        .chain_update(inner.finalize())
        .finalize()
        .into()
}

#[test]
fn the_published_vectors_hold_for_both_sides() {
    for vector in Vector::all() {
        let (secrets, name) = (vector.secrets(), vector.name());
        secrets.check(name.epoch).expect("the epoch's hash");
        assert_eq!(
            HEXLOWER.encode(&name.info()),
            vector.text("info"),
            "the encoding of the transcript"
        );
        for (own, other) in [("sender", "receiver"), ("receiver", "sender")] {
            let ours = Ephemeral::from_bytes(vector.bytes(&format!("{own}-private")));
            assert_eq!(ours.public(), vector.side(own).public);
            let pair =
                PairSecret::new(&secrets, &ours, vector.side(other).public).expect("honest keys");
            assert_eq!(pair.0, vector.bytes("prk"));
            assert_eq!(*pair.key(&name).expose(), vector.bytes("okm"));
        }
    }
    assert_eq!(Vector::all().count(), 4);
}

#[test]
fn the_schedule_is_hkdf_as_rfc_5869_writes_it() {
    for vector in Vector::all() {
        let info = vector.name().info();
        let prk = hmac(
            vector.secrets().data.expose(),
            &[&vector.bytes::<32>("shared-secret")],
        );
        let first = hmac(&prk, &[&info, &[1]]);
        let second = hmac(&prk, &[&first, &info, &[2]]);
        let okm = [first, second].concat();
        assert_eq!(prk, vector.bytes("prk"));
        assert_eq!(okm[..KeyMaterial::LEN], vector.bytes::<36>("okm"));
    }
}

#[test]
fn a_peer_of_small_order_has_no_key_with_anyone() {
    let mut rng = StdRng::seed_from_u64(1);
    let (secrets, ours) = (EpochSecrets::random(&mut rng), Ephemeral::random(&mut rng));
    // 0, 1 and p − 1 (RFC 7748 section 6.1).
    let mut last = [0xff; 32];
    (last[0], last[31]) = (0xec, 0x7f);
    let mut one = [0; 32];
    one[0] = 1;
    for small in [[0; 32], one, last].map(PublicKey::from_bytes) {
        assert_eq!(
            PairSecret::new(&secrets, &ours, small).err(),
            Some(PairError::ZeroSharedSecret(small))
        );
    }
}

#[test]
fn every_field_of_the_transcript_changes_the_key() {
    let vector = Vector::all().next().expect("a vector");
    let (base, pair) = (vector.name(), PairSecret(vector.bytes("prk")));
    type Change = fn(&mut SaName);
    let changes: [Change; 14] = [
        |_| {},
        |name| name.cluster = ClusterId::from_bytes([0; 16]),
        |name| name.epoch.incarnation += 1,
        |name| name.epoch.number += 1,
        |name| name.epoch.hash[7] ^= 1,
        |name| name.sender.node = NodeId::from_bytes([0; 16]),
        |name| name.sender.generation.0 += 1,
        |name| name.sender.public = PublicKey::from_bytes([0; 32]),
        |name| name.receiver.node = NodeId::from_bytes([0; 16]),
        |name| name.receiver.generation.0 += 1,
        |name| name.receiver.public = PublicKey::from_bytes([0; 32]),
        |name| name.session += 1,
        |name| name.slot = Slot::new(name.slot.get() + 1),
        |name| std::mem::swap(&mut name.sender, &mut name.receiver),
    ];
    let keys: BTreeSet<_> = changes
        .iter()
        .map(|change| {
            let mut name = base;
            change(&mut name);
            *pair.key(&name).expose()
        })
        .collect();
    assert_eq!(keys.len(), changes.len());
    let lanes: BTreeSet<_> = (0..16)
        .map(|lane| {
            let lane = Lane::new(lane).expect("a lane");
            *pair.key(&SaName { lane, ..base }).expose()
        })
        .collect();
    assert_eq!(lanes.len(), 16);
}
