use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, date_time_ymd,
};

use super::*;
use crate::identity::{
    der::{Signer, Subject},
    node_key::NodeKey,
    testing::{CLUSTER, DAY, NOW, Pki, flipped, issue, mangled},
};

const MINUTE: Duration = Duration::from_secs(60);

/// What is issued, to be changed.
fn params(key: &NodeKey, role: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2026, 5, 28);
    params.not_after = date_time_ymd(2026, 8, 28);
    params.distinguished_name = subject(&CLUSTER.to_string(), role, &key.node_id().to_string());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

fn subject(cluster: &str, role: &str, node: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, cluster);
    name.push(DnType::OrganizationalUnitName, role);
    name.push(DnType::CommonName, node);
    name
}

/// Signed by the cluster's authority, which would never issue it.
fn sign(pki: &Pki, key: &NodeKey, params: &CertificateParams) -> Vec<u8> {
    let root = pki.authority.root();
    let secret = pki.authority.key();
    let signing = ed25519_dalek::SigningKey::from_bytes(secret.expose());
    let issuer = Issuer::from_ca_cert_der(&root.der().into(), Signer(&signing)).expect("root");
    let signed = params.signed_by(&Subject(&key.public()), &issuer);
    signed.expect("signs").der().to_vec()
}

fn refused(pki: &Pki, key: &NodeKey, params: &CertificateParams) -> CertificateError {
    verify(&sign(pki, key, params), &pki.trust, NOW).expect_err("never issued")
}

#[test]
fn what_is_issued_is_accepted_and_says_who() {
    let pki = Pki::new(1);
    let key = pki.node_key(1);
    for role in Role::ALL {
        let identity = verify(&pki.issue(&key, role), &pki.trust, NOW).expect("issued");
        assert_eq!(identity.node, key.node_id());
        assert_eq!(identity.role, role);
        assert_eq!(identity.cluster, CLUSTER);
        assert_eq!(identity.key, key.public());
        assert_eq!(identity.issuer, pki.trust.issuer().digest());
    }
    // The changes of other tests are changes of something good.
    let der = sign(&pki, &key, &params(&key, "worker"));
    assert!(verify(&der, &pki.trust, NOW).is_ok());
}

#[test]
fn every_flipped_bit_and_every_change_is_refused() {
    let pki = Pki::new(1);
    let der = pki.issue(&pki.node_key(1), Role::Worker);
    assert!(der.len() < 700, "{}", der.len());
    for (bit, changed) in flipped(&der) {
        assert!(verify(&changed, &pki.trust, NOW).is_err(), "bit {bit}");
    }
    for changed in mangled(&der, 1) {
        assert!(changed == der || verify(&changed, &pki.trust, NOW).is_err());
    }
    let long = vec![0x30; MAX_LEN + 1];
    assert_eq!(
        verify(&long, &pki.trust, NOW),
        Err(CertificateError::TooLong { len: long.len() })
    );
}

#[test]
fn spare_bits_of_the_signature_are_refused() {
    let pki = Pki::new(1);
    let mut der = pki.issue(&pki.node_key(1), Role::Worker);
    let unused_bits = der.len() - 65;
    assert_eq!(der[unused_bits], 0);
    for unused in 1..8 {
        der[unused_bits] = unused;
        assert!(matches!(
            verify(&der, &pki.trust, NOW),
            Err(CertificateError::Form { .. })
        ));
    }
}

#[test]
fn an_expired_certificate_is_told_from_a_clock_that_is_behind() {
    let pki = Pki::new(1);
    let key = pki.node_key(1);
    let der = pki.issue(&key, Role::Worker);
    let at = |now| verify(&der, &pki.trust, now);
    let (node, hour) = (key.node_id(), 60 * MINUTE);
    let (begins, ended) = (NOW.saturating_sub(hour), NOW.saturating_add(90 * DAY));

    // An hour that it was dated back, and five minutes.
    assert!(at(NOW.saturating_sub(65 * MINUTE)).is_ok());
    let now = NOW.saturating_sub(65 * MINUTE + Duration::from_millis(1));
    assert_eq!(at(now), Err(CertificateError::ClockBehind { begins, now }));
    let message = at(now).expect_err("early").to_string();
    assert!(message.contains("clock of this host"), "{message}");

    assert!(at(ended.saturating_add(5 * MINUTE)).is_ok());
    let now = ended.saturating_add(5 * MINUTE + Duration::from_millis(1));
    assert_eq!(at(now), Err(CertificateError::Expired { node, ended, now }));

    let now = NOW.saturating_add(3651 * DAY);
    assert!(matches!(at(now), Err(CertificateError::RootExpired { .. })));
}

#[test]
fn only_expired_certificates_are_good_for_renewal() {
    let pki = Pki::new(1);
    let key = pki.node_key(1);
    let der = pki.issue(&key, Role::Worker);
    let at = |now| verify_for_renewal(&der, &pki.trust, now);
    let later = NOW.saturating_add(91 * DAY);
    assert_eq!(at(later).expect("expired").node, key.node_id());
    assert!(matches!(at(NOW), Err(CertificateError::NotExpired { .. })));
    let early = NOW.saturating_sub(DAY);
    assert!(matches!(
        at(early),
        Err(CertificateError::ClockBehind { .. })
    ));
    // Everything else is verified as ever.
    let foreign = Pki::of(ClusterId::from_bytes([2; 16]), 1);
    let foreign = foreign.issue(&key, Role::Worker);
    assert!(matches!(
        verify_for_renewal(&foreign, &pki.trust, later),
        Err(CertificateError::ForeignCluster { .. })
    ));
    for (bit, changed) in flipped(&der).filter(|(bit, _)| bit % 7 == 0) {
        let refused = verify_for_renewal(&changed, &pki.trust, later);
        assert!(refused.is_err(), "bit {bit}");
    }
}

#[test]
fn another_cluster_and_a_forged_issuer_are_told_apart() {
    let (pki, key) = (Pki::new(1), Pki::new(1).node_key(1));
    let theirs = ClusterId::from_bytes([2; 16]);
    let foreign = Pki::of(theirs, 1).issue(&key, Role::Worker);
    assert_eq!(
        verify(&foreign, &pki.trust, NOW),
        Err(CertificateError::ForeignCluster {
            theirs,
            ours: CLUSTER
        })
    );
    // Another authority under the name of ours.
    let root = pki.authority.root();
    let forger = pki.node_key(2);
    let mut name = CertificateParams::default();
    name.distinguished_name = subject(
        &CLUSTER.to_string(),
        "authority",
        &NodeId::of(root.key()).to_string(),
    );
    let issuer = Issuer::new(name, Signer(forger.signing_key()));
    let forged = params(&key, "manager")
        .signed_by(&Subject(&key.public()), &issuer)
        .expect("signs");
    assert_eq!(
        verify(forged.der(), &pki.trust, NOW),
        Err(CertificateError::Signature {
            root: root.digest()
        })
    );
    // A node is no authority, whatever its certificate says of the issuer.
    let mut name = CertificateParams::default();
    name.distinguished_name = subject(
        &CLUSTER.to_string(),
        "worker",
        &forger.node_id().to_string(),
    );
    let issuer = Issuer::new(name, Signer(forger.signing_key()));
    let forged = params(&key, "manager")
        .signed_by(&Subject(&key.public()), &issuer)
        .expect("signs");
    assert!(matches!(
        verify(forged.der(), &pki.trust, NOW),
        Err(CertificateError::UnknownIssuer { .. })
    ));
}

#[test]
fn the_node_id_must_be_the_hash_of_the_key() {
    let pki = Pki::new(1);
    let (key, other) = (pki.node_key(1), pki.node_key(2));
    assert_eq!(
        refused(&pki, &key, &params(&other, "worker")),
        CertificateError::NodeId {
            named: other.node_id(),
            actual: key.node_id()
        }
    );
}

#[test]
fn a_subject_of_another_shape_is_refused() {
    let pki = Pki::new(1);
    let key = pki.node_key(1);
    let (cluster, node) = (CLUSTER.to_string(), key.node_id().to_string());
    let mut two_roles = subject(&cluster, "worker", &node);
    two_roles.push(DnType::CountryName, "manager");
    let mut without_role = DistinguishedName::new();
    without_role.push(DnType::OrganizationName, cluster.as_str());
    without_role.push(DnType::CommonName, node.as_str());
    let mut turned = DistinguishedName::new();
    turned.push(DnType::CommonName, node.as_str());
    turned.push(DnType::OrganizationalUnitName, "worker");
    turned.push(DnType::OrganizationName, cluster.as_str());
    for name in [
        subject(&cluster, "Worker", &node),
        subject(&cluster, "authority", &node),
        subject("", "worker", &node),
        subject(&cluster, "worker", ""),
        two_roles,
        without_role,
        turned,
        DistinguishedName::new(),
    ] {
        let mut params = params(&key, "worker");
        params.distinguished_name = name;
        assert!(matches!(
            refused(&pki, &key, &params),
            CertificateError::Form { .. }
        ));
    }
}

#[test]
fn other_uses_than_tls_on_both_sides_are_refused() {
    let pki = Pki::new(1);
    let key = pki.node_key(1);
    type Change = fn(&mut CertificateParams);
    let changes: [Change; 9] = [
        |it| it.is_ca = IsCa::NoCa,
        |it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        |it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |it| it.key_usages = vec![],
        |it| it.key_usages.push(KeyUsagePurpose::KeyCertSign),
        |it| it.extended_key_usages = vec![],
        |it| it.extended_key_usages.truncate(1),
        |it| it.extended_key_usages.push(ExtendedKeyUsagePurpose::Any),
        |it| {
            it.extended_key_usages
                .push(ExtendedKeyUsagePurpose::Other(vec![1, 2, 3]))
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut params = params(&key, "worker");
        change(&mut params);
        assert!(
            matches!(refused(&pki, &key, &params), CertificateError::Form { .. }),
            "{number}"
        );
    }
    // A root that issued itself a certificate with the extensions of a root.
    assert!(matches!(
        verify(pki.authority.root().der(), &pki.trust, NOW),
        Err(CertificateError::Form { what }) if what.contains("not a node's")
    ));
}

#[test]
fn unknown_extensions_are_passed_over_unless_critical() {
    let pki = Pki::new(1);
    let key = pki.node_key(1);
    let mut params = params(&key, "worker");
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 9, 7], vec![5, 0]);
    params.custom_extensions = vec![extension.clone()];
    assert!(verify(&sign(&pki, &key, &params), &pki.trust, NOW).is_ok());
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    assert_eq!(
        refused(&pki, &key, &params),
        CertificateError::CriticalExtension {
            oid: "1.3.9.7".to_owned()
        }
    );
    // Known to the parser, and not looked at here.
    let mut constraint = CustomExtension::from_oid_content(&[2, 5, 29, 54], vec![2, 1, 0]);
    constraint.set_criticality(true);
    params.custom_extensions = vec![constraint];
    assert!(matches!(
        refused(&pki, &key, &params),
        CertificateError::CriticalExtension { oid } if oid == "2.5.29.54"
    ));
    // Key usage once more.
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        &[2, 5, 29, 15],
        vec![3, 2, 2, 4],
    )];
    assert!(matches!(
        refused(&pki, &key, &params),
        CertificateError::Form { what } if what.contains("twice")
    ));
}

#[test]
fn a_certificate_for_another_kind_of_key_is_refused() {
    let pki = Pki::new(1);
    let key = pki.node_key(1);
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let secret = pki.authority.key();
    let signing = ed25519_dalek::SigningKey::from_bytes(secret.expose());
    let root = pki.authority.root().der().into();
    let issuer = Issuer::from_ca_cert_der(&root, Signer(&signing)).expect("root");
    let signed = params(&key, "worker").signed_by(&ecdsa, &issuer);
    let refused = verify(signed.expect("signs").der(), &pki.trust, NOW);
    assert!(matches!(refused, Err(CertificateError::Form { what }) if what.contains("Ed25519")));
    let self_signed = params(&key, "worker").self_signed(&ecdsa).expect("signs");
    assert!(matches!(
        verify(self_signed.der(), &pki.trust, NOW),
        Err(CertificateError::Form { .. })
    ));
}

#[test]
fn a_joining_node_trusts_the_root_of_its_token_alone() {
    let pki = Pki::new(1);
    let (key, next) = (pki.node_key(1), pki.next_authority(2));
    let (old, new) = (pki.authority.root(), next.root());
    let roots = [old.der(), new.der()];
    let manager = issue(&next, &key, Role::Manager, NOW);
    let (trust, identity) = verify_pinned(&manager, roots, new.digest(), NOW).expect("the manager");
    assert_eq!(identity.node, key.node_id());
    assert_eq!(trust.roots(), std::slice::from_ref(new));

    // The manager has a certificate of the new root, the token names the old one.
    let pin = old.digest();
    assert_eq!(
        verify_pinned(&manager, roots, pin, NOW),
        Err(CertificateError::OldPin { pin })
    );
    let pin = RootDigest::of(b"another");
    assert_eq!(
        verify_pinned(&manager, roots, pin, NOW),
        Err(CertificateError::Pin { pin })
    );
    let worker = issue(&next, &key, Role::Worker, NOW);
    assert!(matches!(
        verify_pinned(&worker, roots, new.digest(), NOW),
        Err(CertificateError::OtherRole { .. })
    ));
    // The pinned bytes must be a root.
    let pin = RootDigest::of(&manager);
    assert!(verify_pinned(&manager, [manager.as_slice()], pin, NOW).is_err());
}

#[test]
fn a_signature_shows_who_owns_a_certificate() {
    let pki = Pki::new(1);
    let (key, other) = (pki.node_key(1), pki.node_key(2));
    let der = pki.issue(&key, Role::Worker);
    let signed = |key: &NodeKey| key.sign(b"handshake").to_bytes();
    let verify = |signature: &[u8]| verify_possession(&der, b"handshake", signature);
    assert_eq!(verify(&signed(&key)), Ok(()));
    let refused = Err(CertificateError::Possession);
    assert_eq!(verify(&signed(&other)), refused);
    assert_eq!(verify(&signed(&key)[..63]), refused);
    assert_eq!(verify(&[]), refused);
}

#[test]
fn the_caller_says_whom_it_expects() {
    let pki = Pki::new(1);
    let (key, other) = (pki.node_key(1), pki.node_key(2));
    let identity = pki.identity(&key);
    assert!(identity.clone().expect_node(key.node_id()).is_ok());
    assert!(identity.clone().expect_role(Role::Worker).is_ok());
    assert_eq!(
        identity.clone().expect_node(other.node_id()),
        Err(CertificateError::OtherNode {
            expected: other.node_id(),
            actual: key.node_id()
        })
    );
    assert!(identity.expect_role(Role::Manager).is_err());
}

proptest! {
    #[test]
    fn parse_noise(der in proptest::collection::vec(any::<u8>(), 0..700)) {
        let trust = Pki::new(1).trust;
        prop_assert!(verify(&der, &trust, NOW).is_err());
        prop_assert!(verify_for_renewal(&der, &trust, NOW).is_err());
    }

    #[test]
    fn noise_in_the_frame_of_a_certificate_is_refused(
        body in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let trust = Pki::new(1).trust;
        let mut content = vec![0x30, body.len() as u8];
        content.extend(&body);
        content.extend([0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x41, 0]);
        content.extend([0; 64]);
        let mut der = match content.len() {
            len @ 0..0x80 => vec![0x30, len as u8],
            len => vec![0x30, 0x81, len as u8],
        };
        der.extend(content);
        prop_assert!(verify(&der, &trust, NOW).is_err());
    }

    #[test]
    fn parse_back(seed: u64, manager: bool, hours in 0..8760_u32) {
        let pki = Pki::new(1);
        let role = if manager { Role::Manager } else { Role::Worker };
        let (key, now) = (pki.node_key(seed), NOW.saturating_add(60 * MINUTE * hours));
        let identity = verify(&issue(&pki.authority, &key, role, now), &pki.trust, now);
        let identity = identity.expect("issued");
        prop_assert_eq!((identity.node, identity.role), (key.node_id(), role));
    }
}
