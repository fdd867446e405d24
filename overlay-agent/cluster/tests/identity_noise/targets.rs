//! What is done to bytes that claim to be someone: by the fuzzer in `tests/fuzz`, and by `cargo
//! test` in `main.rs` beside this file.
//!
//! Each target checks of what it accepts that it means what it says. It returns whether it
//! accepted. The two whose names end in `_body` sign what they get before they show it: no fuzzer
//! finds a signature, so they alone lead behind its verification.

#[path = "../../../../tests/fuzz/noise/crypto_random.rs"]
mod crypto_random;

use std::{sync::LazyLock, time::Duration};

use ed25519_dalek::{Signer as _, SigningKey};
use overlay_cluster::{
    control::found::{Founder, found},
    id::{ClusterId, NodeId},
    identity::{
        Role,
        authority::{Authority, Validity},
        backup::{Backup, BackupKey},
        certificate::{self, CertificateError},
        csr::CertificateRequest,
        node_key::NodeKey,
        seal::{self, SealKind, Subject},
        token::JoinToken,
        trust::{Root, TrustBundle},
        unlock::{LockKey, LockedKey, UnlockKey},
    },
    log::{
        command::Command,
        epochs::RotationPolicy,
        member::Contact,
        names::{Labels, NodeName, SoftwareVersion},
        settings::Settings,
        state::State,
    },
    secret::Secret,
    time::Timestamp,
};

pub use self::crypto_random::rng;

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the name of its fuzz binary and of its seed.
pub const ALL: [Target; 11] = [
    ("token", token),
    ("unlock_key", unlock_key),
    ("certificate", certificate),
    ("certificate_body", certificate_body),
    ("request", request),
    ("request_body", request_body),
    ("roots", roots),
    ("sealed", sealed),
    ("locked_key", locked_key),
    ("backup", backup),
    ("backup_key", backup_key),
];

pub const CLUSTER: ClusterId = ClusterId::from_bytes(*b"a cluster's name");
pub const NOW: Timestamp = Timestamp::from_secs(1_780_000_000);
pub const SUBJECT: Subject = Subject {
    cluster: CLUSTER,
    kind: SealKind::LogEntry,
    number: 7,
};

/// The node that sends what is sent.
pub static NODE: LazyLock<NodeKey> = LazyLock::new(|| NodeKey::generate(&mut rng(1)));

pub static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    Authority::generate(CLUSTER, &Validity::default(), NOW, &mut rng(2)).expect("an authority")
});

pub static TRUST: LazyLock<TrustBundle> =
    LazyLock::new(|| TrustBundle::new(AUTHORITY.root().clone()));

pub static UNLOCK_KEY: LazyLock<UnlockKey> = LazyLock::new(|| UnlockKey::generate(&mut rng(3)));

pub static BACKUP_KEY: LazyLock<BackupKey> = LazyLock::new(|| BackupKey::generate(&mut rng(6)));

/// The state of a cluster that has just begun.
fn state() -> State {
    let founder = Founder {
        key: &NODE,
        name: NodeName::new("node-1").expect("a name"),
        contact: Contact {
            vteps: [[192, 0, 2, 1].into()].into_iter().collect(),
            control: ([192, 0, 2, 1], 7946).into(),
            software: SoftwareVersion::new("0.1.0").expect("a version"),
        },
        labels: Labels::default(),
        settings: Settings::default(),
        policy: RotationPolicy::default(),
        validity: Validity::default(),
        token_lifetime: None,
    };
    let founded = found(founder, NOW, &mut rng(7)).expect("founds");
    let mut state = State::default();
    let begin = Command::Initialise(Box::new(founded.genesis));
    state.apply(NOW, begin).expect("begins");
    state
}

pub fn state_key() -> Secret {
    Secret::random(&mut rng(4))
}

pub fn token(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    match text.parse::<JoinToken>() {
        Ok(token) => {
            assert_eq!(token.to_text().as_str(), text);
            true
        }
        Err(error) => {
            tells_nothing_of(&error.to_string(), text);
            false
        }
    }
}

pub fn unlock_key(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    match text.parse::<UnlockKey>() {
        Ok(key) => {
            assert_eq!(key.to_text().as_str(), text);
            true
        }
        Err(error) => {
            tells_nothing_of(&error.to_string(), text);
            false
        }
    }
}

/// No eight characters of a group of what was typed, which may be a secret, are in an error.
fn tells_nothing_of(error: &str, text: &str) {
    for group in text.split('-').filter(|group| {
        group.len() >= 20
            && group
                .bytes()
                .all(|it| it.is_ascii_uppercase() || it.is_ascii_digit())
    }) {
        for at in 0..=group.len() - 8 {
            assert!(!error.contains(&group[at..at + 8]), "{error}");
        }
    }
}

pub fn certificate(der: &[u8]) -> bool {
    let expired = NOW.saturating_add(Duration::from_secs(100 * 24 * 60 * 60));
    let good = verified(der);
    // One that has expired is good for renewal if it was good before, and for nothing else.
    let renewal = certificate::verify_for_renewal(der, &TRUST, expired);
    let over = certificate::verify(der, &TRUST, expired);
    assert!(!(renewal.is_ok() && over.is_ok()));
    if let Ok(identity) = renewal {
        assert_eq!(identity.node, NodeId::of(&identity.key));
        assert!(matches!(over, Err(CertificateError::Expired { .. })));
    }
    _ = Root::from_der(der);
    good
}

fn verified(der: &[u8]) -> bool {
    let Ok(identity) = certificate::verify(der, &TRUST, NOW) else {
        return false;
    };
    assert_eq!(identity.node, NodeId::of(&identity.key));
    assert_eq!(identity.cluster, CLUSTER);
    assert_eq!(identity.issuer, TRUST.issuer().digest());
    let tolerance = certificate::CLOCK_TOLERANCE;
    assert!(identity.not_before <= NOW.saturating_add(tolerance));
    assert!(identity.not_after >= NOW.saturating_sub(tolerance));
    true
}

pub fn certificate_body(body: &[u8]) -> bool {
    verified(&signed(body, AUTHORITY.key()))
}

pub fn request(der: &[u8]) -> bool {
    let Ok(request) = CertificateRequest::parse(der) else {
        return false;
    };
    assert_eq!(request.node_id(), NodeId::of(request.key()));
    true
}

pub fn request_body(body: &[u8]) -> bool {
    let pkcs8 = NODE.to_pkcs8();
    let (_, key) = pkcs8.split_last_chunk().expect("longer than a key");
    let der = signed(body, Secret::new(*key));
    let accepted = request(&der);
    // There is one request of a key.
    let ours = CertificateRequest::sign(&NODE).expect("signs");
    assert_eq!(accepted, der == ours);
    accepted
}

/// `body` in the frame of a certificate or request, signed.
fn signed(body: &[u8], key: Secret) -> Vec<u8> {
    let signature = SigningKey::from_bytes(key.expose()).sign(body);
    let len = body.len() + 74;
    let mut der = vec![0x30];
    match len {
        0..0x80 => der.push(len as u8),
        0x80..0x100 => der.extend([0x81, len as u8]),
        _ => der.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    der.extend(body);
    der.extend([0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x41, 0]);
    der.extend(signature.to_bytes());
    der
}

pub fn roots(bytes: &[u8]) -> bool {
    let Ok(trust) = postcard::from_bytes::<TrustBundle>(bytes) else {
        return false;
    };
    assert!(trust.get(trust.issuer().digest()).is_some());
    assert!(
        trust
            .roots()
            .iter()
            .all(|it| it.cluster() == trust.cluster())
    );
    let written = postcard::to_stdvec(&trust).expect("encodes");
    assert_eq!(postcard::from_bytes(&written), Ok(trust));
    true
}

pub fn sealed(blob: &[u8]) -> bool {
    let Ok(plain) = seal::open(&state_key(), SUBJECT, blob) else {
        return false;
    };
    assert_eq!(plain.len() + seal::OVERHEAD, blob.len());
    true
}

pub fn locked_key(bytes: &[u8]) -> bool {
    let Ok(locked) = LockedKey::from_bytes(bytes) else {
        return false;
    };
    assert_eq!(locked.to_bytes().as_slice(), bytes);
    locked.unlock(LockKey::Unlock(&UNLOCK_KEY), CLUSTER).is_ok()
}

/// A backup says of which cluster it is and when it was made, and the key proves it.
pub fn backup(bytes: &[u8]) -> bool {
    let Ok(backup) = Backup::parse(bytes) else {
        return false;
    };
    let Ok(state) = backup.open(&BACKUP_KEY, None) else {
        return false;
    };
    assert_eq!(state.fault(), None);
    assert_eq!(state.cluster().map(|it| it.id()), Some(backup.cluster));
    let other = backup.open(&BACKUP_KEY, Some(CLUSTER));
    assert_eq!(other.is_ok(), backup.cluster == CLUSTER);
    true
}

pub fn backup_key(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    match text.parse::<BackupKey>() {
        Ok(key) => {
            assert_eq!(key.to_text().as_str(), text);
            true
        }
        Err(error) => {
            tells_nothing_of(&error.to_string(), text);
            false
        }
    }
}

/// What each target accepts, as this version makes it.
pub fn made_now() -> Vec<(&'static str, Vec<u8>)> {
    let rng = &mut rng(5);
    let certificate = AUTHORITY
        .issue(&NODE.public(), Role::Worker, &Validity::default(), NOW, rng)
        .expect("issues");
    let request = CertificateRequest::sign(&NODE).expect("signs");
    // Between the header of the frame, 4 bytes from 256 on and 2 below 128, and the signature.
    let certificate_body = certificate[4..certificate.len() - 74].to_vec();
    let request_body = request[2..request.len() - 74].to_vec();
    let token = JoinToken::generate(Role::Worker, TRUST.issuer().digest(), rng);
    let mut trust = TRUST.clone();
    let next = Authority::generate(CLUSTER, &Validity::default(), NOW, rng).expect("generates");
    trust.introduce(next.root().clone()).expect("room");
    let data = overlay_cluster::identity::unlock::DataKey::generate(rng);
    let locked = LockedKey::new(&data, LockKey::Unlock(&UNLOCK_KEY), CLUSTER, rng);
    let blob = seal::Sealer::new(&state_key(), rng)
        .seal(SUBJECT, b"a manager's state", rng)
        .expect("seals");
    vec![
        ("token", token.to_text().as_bytes().to_vec()),
        ("unlock_key", UNLOCK_KEY.to_text().as_bytes().to_vec()),
        ("certificate", certificate),
        ("certificate_body", certificate_body),
        ("request", request),
        ("request_body", request_body),
        ("roots", postcard::to_stdvec(&trust).expect("encodes")),
        ("sealed", blob),
        ("locked_key", locked.to_bytes().to_vec()),
        (
            "backup",
            Backup::seal(&state(), NOW, &BACKUP_KEY, rng).expect("seals"),
        ),
        ("backup_key", BACKUP_KEY.to_text().as_bytes().to_vec()),
    ]
}
