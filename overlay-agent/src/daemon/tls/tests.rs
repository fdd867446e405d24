//! Pairs of connections in memory, with a clock of their own.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use overlay_cluster::{
    id::ClusterId,
    identity::{
        Role,
        authority::{Authority, Validity},
        node_key::NodeKey,
    },
    time::Timestamp,
};
use rand::{SeedableRng as _, rngs::StdRng};
use rustls::{
    AlertDescription, CertificateError, ClientConnection, Error, HandshakeKind, OtherError,
    ProtocolVersion, ServerConnection,
    crypto::ring::sign::any_eddsa_type,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime},
    server::Acceptor,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_780_000_000);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

#[derive(Debug)]
struct At(Timestamp);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        let since = Duration::from_secs(self.0.as_secs());
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// What all nodes of a test know.
#[derive(Debug)]
struct Cluster {
    authority: Authority,
    trust: Mutex<Arc<TrustBundle>>,
    roster: Mutex<BTreeMap<NodeId, Standing>>,
}

impl Members for Cluster {
    fn trust(&self) -> Arc<TrustBundle> {
        let trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        trust.clone()
    }

    fn standing(&self, node: NodeId) -> Standing {
        let roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        roster.get(&node).copied().unwrap_or(Standing::Unknown)
    }
}

impl Cluster {
    fn new(cluster: ClusterId, seed: u64) -> Arc<Self> {
        let authority = authority(cluster, seed);
        let trust = Arc::new(TrustBundle::new(authority.root().clone()));
        Arc::new(Self {
            authority,
            trust: Mutex::new(trust),
            roster: Mutex::default(),
        })
    }

    fn change_trust(&self, change: impl FnOnce(&mut TrustBundle)) {
        let mut trust = self.trust.lock().unwrap();
        change(Arc::make_mut(&mut trust));
    }

    fn set_standing(&self, node: NodeId, standing: Standing) {
        self.roster.lock().unwrap().insert(node, standing);
    }

    fn join(self: &Arc<Self>, seed: u64, role: Role) -> Node {
        self.join_under(&self.authority, seed, role)
    }

    fn join_under(self: &Arc<Self>, authority: &Authority, seed: u64, role: Role) -> Node {
        let key = NodeKey::generate(&mut rng(seed));
        let certificate = issue(authority, &key, role, NOW);
        let id = key.node_id();
        self.set_standing(id, member(role));
        Node {
            id,
            own: Arc::new(Own::new(key.clone(), &certificate).expect("its own")),
            key,
            certificate,
            cluster: self.clone(),
        }
    }
}

const fn member(role: Role) -> Standing {
    let joined = Timestamp::from_millis(0);
    Standing::Member { role, joined }
}

fn authority(cluster: ClusterId, seed: u64) -> Authority {
    Authority::generate(cluster, &Validity::default(), NOW, &mut rng(seed)).expect("generates")
}

fn issue(authority: &Authority, key: &NodeKey, role: Role, now: Timestamp) -> Vec<u8> {
    authority
        .issue(&key.public(), role, &Validity::default(), now, &mut rng(0))
        .expect("issues")
}

struct Node {
    id: NodeId,
    key: NodeKey,
    own: Arc<Own>,
    certificate: Vec<u8>,
    cluster: Arc<Cluster>,
}

impl Node {
    fn tls(&self, now: Timestamp) -> Tls {
        Tls::new(self.own.clone(), self.cluster.clone(), Arc::new(At(now)))
    }

    fn server(&self, service: Service, now: Timestamp) -> ServerConnection {
        let config = self.tls(now).server(service).expect("a config");
        ServerConnection::new(Arc::new(config)).expect("a connection")
    }

    fn client(&self, service: Service, to: &Self, now: Timestamp) -> ClientConnection {
        let config = self.tls(now).client(service).expect("a config");
        call(config, server_name(to.id))
    }
}

fn call(config: ClientConfig, name: ServerName<'static>) -> ClientConnection {
    ClientConnection::new(Arc::new(config), name).expect("a connection")
}

/// Moves bytes until both sides are silent. What each side says in the end.
fn shake_hands(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> (Result<(), Error>, Result<(), Error>) {
    let (mut at_client, mut at_server) = (Ok(()), Ok(()));
    loop {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut to_server).expect("memory");
        }
        let mut rest = to_server.as_slice();
        while !rest.is_empty() && at_server.is_ok() {
            server.read_tls(&mut rest).expect("memory");
            at_server = server.process_new_packets().map(|_| ());
        }
        while server.wants_write() {
            server.write_tls(&mut to_client).expect("memory");
        }
        let mut rest = to_client.as_slice();
        while !rest.is_empty() && at_client.is_ok() {
            client.read_tls(&mut rest).expect("memory");
            at_client = client.process_new_packets().map(|_| ());
        }
        if to_server.is_empty() && to_client.is_empty() {
            return (at_client, at_server);
        }
    }
}

/// The text of an error that has ours in it.
fn refusal(result: Result<(), Error>) -> String {
    match result.expect_err("refused") {
        Error::InvalidCertificate(CertificateError::Other(OtherError(error))) => error.to_string(),
        other => panic!("{other}"),
    }
}

fn alert(result: Result<(), Error>) -> AlertDescription {
    match result.expect_err("refused") {
        Error::AlertReceived(alert) => alert,
        other => panic!("{other}"),
    }
}

#[test]
fn members_meet_and_each_knows_the_other() {
    let cluster = Cluster::new(CLUSTER, 1);
    let (a, b) = (
        cluster.join(1, Role::Worker),
        cluster.join(2, Role::Manager),
    );
    let mut client = a.client(Service::Member, &b, NOW);
    let mut server = b.server(Service::Member, NOW);
    assert_eq!(shake_hands(&mut client, &mut server), (Ok(()), Ok(())));
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.alpn_protocol(), Some(Service::Member.alpn()));
    // Nobody on the way learns who was called.
    assert_eq!(server.server_name(), None);

    let at_client = peer(client.peer_certificates(), Service::Member, &*cluster, NOW);
    let at_client = at_client.expect("a member");
    assert_eq!(at_client.identity.node, b.id);
    assert_eq!(at_client.admission.role, Role::Manager);
    let at_server = peer(server.peer_certificates(), Service::Member, &*cluster, NOW);
    let at_server = at_server.expect("a member");
    assert_eq!(at_server.identity.node, a.id);
    assert_eq!(at_server.admission.role, Role::Worker);

    client.writer().write_all(b"hello").expect("memory");
    assert_eq!(shake_hands(&mut client, &mut server), (Ok(()), Ok(())));
    let mut heard = [0; 5];
    server.reader().read_exact(&mut heard).expect("memory");
    assert_eq!(&heard, b"hello");
}

#[test]
fn another_node_than_the_one_called_is_refused() {
    let cluster = Cluster::new(CLUSTER, 1);
    let [a, b, c] = [1, 2, 3].map(|seed| cluster.join(seed, Role::Worker));
    let mut client = a.client(Service::Member, &b, NOW);
    let mut server = c.server(Service::Member, NOW);
    let (at_client, at_server) = shake_hands(&mut client, &mut server);
    let text = refusal(at_client);
    assert!(
        text.contains(&format!("node {} answered where {}", c.id, b.id)),
        "{text}"
    );
    assert!(at_server.is_err());
}

#[test]
fn a_node_is_called_by_no_other_name() {
    let cluster = Cluster::new(CLUSTER, 1);
    let [a, b] = [1, 2].map(|seed| cluster.join(seed, Role::Worker));
    for name in [
        join_name(),
        ServerName::try_from("192.0.2.1").expect("an address"),
        ServerName::try_from(b.id.to_string()).expect("a name"),
    ] {
        let config = a.tls(NOW).client(Service::Member).expect("a config");
        let mut client = call(config, name);
        let mut server = b.server(Service::Member, NOW);
        let (at_client, _) = shake_hands(&mut client, &mut server);
        assert!(refusal(at_client).contains("called by its id"));
    }
    assert_eq!(called(&server_name(b.id)), Some(b.id));
}

#[test]
fn nodes_of_another_cluster_are_refused_by_both_sides() {
    let (ours, theirs) = (
        Cluster::new(CLUSTER, 1),
        Cluster::new(ClusterId::from_bytes([2; 16]), 1),
    );
    let (a, b) = (ours.join(1, Role::Worker), theirs.join(2, Role::Worker));
    let (at_client, at_server) = shake_hands(
        &mut a.client(Service::Member, &b, NOW),
        &mut b.server(Service::Member, NOW),
    );
    assert!(refusal(at_client).contains("is of cluster"));
    assert_eq!(alert(at_server), AlertDescription::CertificateUnknown);

    // A client that trusts anybody is refused by the server.
    let config = a.tls(NOW).client(Service::Member).expect("a config");
    let mut anybody = config.clone();
    anybody
        .dangerous()
        .set_certificate_verifier(Arc::new(peer::Server {
            members: theirs.clone(),
        }));
    let mut client = call(anybody, server_name(b.id));
    let mut server = b.server(Service::Member, NOW);
    let (at_client, at_server) = shake_hands(&mut client, &mut server);
    assert!(refusal(at_server).contains("is of cluster"));
    assert_eq!(alert(at_client), AlertDescription::CertificateUnknown);
}

#[test]
fn an_expired_certificate_is_good_for_its_renewal_alone() {
    let cluster = Cluster::new(CLUSTER, 1);
    let (worker, manager) = (
        cluster.join(1, Role::Worker),
        cluster.join(2, Role::Manager),
    );
    let late = NOW.saturating_add(91 * DAY);
    let renewed = issue(&cluster.authority, &manager.key, Role::Manager, late);
    manager.own.renew(&renewed).expect("its own");
    let meet = |service| {
        let mut client = worker.client(service, &manager, late);
        let mut server = manager.server(service, late);
        let (at_client, at_server) = shake_hands(&mut client, &mut server);
        let certificates = server.peer_certificates();
        let peer = peer(certificates, service, &*cluster, late);
        (at_client, at_server, peer)
    };
    let (at_client, at_server, _) = meet(Service::Member);
    assert_eq!(alert(at_client), AlertDescription::CertificateExpired);
    assert_eq!(
        at_server,
        Err(Error::InvalidCertificate(CertificateError::Expired))
    );

    let (at_client, at_server, peer) = meet(Service::Renew);
    assert_eq!((at_client, at_server), (Ok(()), Ok(())));
    assert_eq!(peer.expect("a member").identity.node, worker.id);

    let renewed = issue(&cluster.authority, &worker.key, Role::Worker, late);
    worker.own.renew(&renewed).expect("its own");
    let (_, at_server, _) = meet(Service::Renew);
    assert!(refusal(at_server).contains("is valid until"));
    let (at_client, at_server, _) = meet(Service::Member);
    assert_eq!((at_client, at_server), (Ok(()), Ok(())));
}

#[test]
fn an_evicted_or_unknown_node_is_refused_by_both_sides() {
    let cluster = Cluster::new(CLUSTER, 1);
    let [a, b] = [1, 2].map(|seed| cluster.join(seed, Role::Worker));
    let meet = |client: &Node, server: &Node| {
        shake_hands(
            &mut client.client(Service::Member, server, NOW),
            &mut server.server(Service::Member, NOW),
        )
    };
    cluster.set_standing(a.id, Standing::Evicted);
    let (at_client, at_server) = meet(&a, &b);
    assert_eq!(
        at_server,
        Err(Error::InvalidCertificate(CertificateError::Revoked))
    );
    assert_eq!(alert(at_client), AlertDescription::CertificateRevoked);
    let (at_client, _) = meet(&b, &a);
    assert!(refusal(at_client).contains("was evicted"));

    cluster.set_standing(a.id, Standing::Unknown);
    let (_, at_server) = meet(&a, &b);
    assert!(refusal(at_server).contains("not in the roster"));
    let (at_client, _) = meet(&b, &a);
    assert!(refusal(at_client).contains("not in the roster"));

    // An eviction is noticed on a connection that is already there.
    cluster.set_standing(a.id, member(Role::Worker));
    let mut client = a.client(Service::Member, &b, NOW);
    let mut server = b.server(Service::Member, NOW);
    assert_eq!(shake_hands(&mut client, &mut server), (Ok(()), Ok(())));
    let again = || peer(server.peer_certificates(), Service::Member, &*cluster, NOW);
    assert!(again().is_ok());
    cluster.set_standing(a.id, Standing::Evicted);
    assert!(matches!(again(), Err(PeerError::Refused(_))));
}

#[test]
fn a_node_that_left_and_one_with_a_certificate_of_before_are_refused_by_both_sides() {
    let cluster = Cluster::new(CLUSTER, 1);
    let [a, b] = [1, 2].map(|seed| cluster.join(seed, Role::Worker));
    let meet = |client: &Node, server: &Node| {
        shake_hands(
            &mut client.client(Service::Member, server, NOW),
            &mut server.server(Service::Member, NOW),
        )
    };
    let role = Role::Worker;
    for (standing, words) in [
        (Standing::Left, "has left"),
        (
            // Its certificate begins an hour before.
            Standing::Member { role, joined: NOW },
            "of an earlier membership",
        ),
    ] {
        cluster.set_standing(a.id, standing);
        let (_, at_server) = meet(&a, &b);
        assert!(refusal(at_server).contains(words));
        let (at_client, _) = meet(&b, &a);
        assert!(refusal(at_client).contains(words));
    }
    let validity = Validity::default();
    let issued =
        cluster
            .authority
            .issue_since(NOW, &a.key.public(), role, &validity, NOW, &mut rng(9));
    a.own.renew(&issued.expect("issues")).expect("its own");
    assert_eq!(meet(&a, &b), (Ok(()), Ok(())));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let cluster = Cluster::new(CLUSTER, 1);
    let manager = cluster.join(1, Role::Manager);
    let root = cluster.authority.root().digest();
    for service in [Service::Member, Service::Renew] {
        let mut config = join_client(root, Arc::new(At(NOW))).expect("a config");
        config.alpn_protocols = vec![service.alpn().to_vec()];
        // It takes the server for who it is, which shows no root to members.
        let verifier = peer::Server {
            members: cluster.clone(),
        };
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(verifier));
        let mut client = call(config, server_name(manager.id));
        let mut server = manager.server(service, NOW);
        let (_, at_server) = shake_hands(&mut client, &mut server);
        assert_eq!(at_server, Err(Error::NoCertificatesPresented));
    }
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let cluster = Cluster::new(CLUSTER, 1);
    let [a, b, thief] = [1, 2, 3].map(|seed| cluster.join(seed, Role::Worker));
    let pkcs8 = thief.key.to_pkcs8();
    let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice())).expect("a key");
    let stolen = |certificate: &[u8]| {
        let certificate = CertificateDer::from(certificate.to_vec());
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            vec![certificate],
            key.clone(),
        )))
    };
    let mut config = thief.tls(NOW).server(Service::Member).expect("a config");
    config.cert_resolver = stolen(&b.certificate);
    let mut server = ServerConnection::new(Arc::new(config)).expect("a connection");
    let (at_client, _) = shake_hands(&mut a.client(Service::Member, &b, NOW), &mut server);
    assert!(refusal(at_client).contains("does not have the key"));

    let mut config = thief.tls(NOW).client(Service::Member).expect("a config");
    config.client_auth_cert_resolver = stolen(&a.certificate);
    let mut client = call(config, server_name(b.id));
    let (_, at_server) = shake_hands(&mut client, &mut b.server(Service::Member, NOW));
    assert!(refusal(at_server).contains("does not have the key"));
}

#[test]
fn a_joining_node_finds_the_manager_by_the_root_of_its_token() {
    let cluster = Cluster::new(CLUSTER, 1);
    let (manager_node, worker) = (
        cluster.join(1, Role::Manager),
        cluster.join(2, Role::Worker),
    );
    let root = cluster.authority.root().digest();
    let join = |root, server: &Node, now| {
        let config = join_client(root, Arc::new(At(now))).expect("a config");
        let mut client = call(config, join_name());
        let mut server = server.server(Service::Join, NOW);
        let said = shake_hands(&mut client, &mut server);
        (said, client, server)
    };
    let (said, client, server) = join(root, &manager_node, NOW);
    assert_eq!(said, (Ok(()), Ok(())));
    let (trust, found) = manager(client.peer_certificates(), root, NOW).expect("the manager");
    assert_eq!(found.node, manager_node.id);
    assert_eq!(trust.issuer().digest(), root);
    assert_eq!(server.peer_certificates(), None);
    assert_eq!(
        peer(server.peer_certificates(), Service::Join, &*cluster, NOW),
        Err(PeerError::Nobody)
    );

    let other = Cluster::new(CLUSTER, 9).authority.root().digest();
    let ((at_client, _), ..) = join(other, &manager_node, NOW);
    assert!(refusal(at_client).contains("cluster of the join token"));
    let ((at_client, _), ..) = join(root, &worker, NOW);
    assert!(refusal(at_client).contains("only a manager does this"));
    let ((at_client, _), ..) = join(root, &manager_node, NOW.saturating_sub(DAY));
    assert!(refusal(at_client).contains("the clock of this host"));
}

#[test]
fn members_meet_while_the_root_changes() {
    let cluster = Cluster::new(CLUSTER, 1);
    let next = authority(CLUSTER, 2);
    let (old_root, new_root) = (cluster.authority.root().digest(), next.root().digest());
    let old = cluster.join(1, Role::Manager);
    let new = cluster.join_under(&next, 2, Role::Manager);
    let meet = |client: &Node, server: &Node| {
        shake_hands(
            &mut client.client(Service::Member, server, NOW),
            &mut server.server(Service::Member, NOW),
        )
    };
    assert!(meet(&old, &new).0.is_err());
    cluster.change_trust(|trust| trust.introduce(next.root().clone()).expect("room"));
    assert_eq!(meet(&old, &new), (Ok(()), Ok(())));
    assert_eq!(meet(&new, &old), (Ok(()), Ok(())));

    // Both roots are shown; a token is good at the managers whose certificate its root issued.
    let join = |root, server: &Node| {
        let config = join_client(root, Arc::new(At(NOW))).expect("a config");
        let mut server = server.server(Service::Join, NOW);
        shake_hands(&mut call(config, join_name()), &mut server).0
    };
    assert_eq!(join(old_root, &old), Ok(()));
    assert_eq!(join(new_root, &new), Ok(()));
    assert!(refusal(join(old_root, &new)).contains("token of today"));

    cluster.change_trust(|trust| {
        trust.promote(new_root, NOW).expect("known");
        trust.retire(old_root).expect("known");
    });
    assert!(refusal(meet(&new, &old).0).contains("does not trust"));
    old.own
        .renew(&issue(&next, &old.key, Role::Manager, NOW))
        .expect("its own");
    assert_eq!(meet(&new, &old), (Ok(()), Ok(())));
}

#[test]
fn a_node_shows_no_certificate_but_its_own() {
    let cluster = Cluster::new(CLUSTER, 1);
    let [a, b] = [1, 2].map(|seed| cluster.join(seed, Role::Worker));
    let node = a.id;
    assert_eq!(
        a.own.renew(&b.certificate),
        Err(OwnError::OtherKey { node })
    );
    assert!(matches!(
        Own::new(a.key.clone(), b"no certificate"),
        Err(OwnError::Certificate(_))
    ));
    // The one that it had is still shown.
    let mut client = a.client(Service::Member, &b, NOW);
    let mut server = b.server(Service::Member, NOW);
    assert_eq!(shake_hands(&mut client, &mut server), (Ok(()), Ok(())));
    let printed = format!("{:?}", a.own);
    assert!(
        printed.contains(&format!("NodeKey(of {node})")),
        "{printed}"
    );
}

#[test]
fn nothing_is_resumed() {
    let cluster = Cluster::new(CLUSTER, 1);
    let [a, b] = [1, 2].map(|seed| cluster.join(seed, Role::Worker));
    let client_config = Arc::new(a.tls(NOW).client(Service::Member).expect("a config"));
    let server_config = Arc::new(b.tls(NOW).server(Service::Member).expect("a config"));
    for _ in 0..2 {
        let mut client =
            ClientConnection::new(client_config.clone(), server_name(b.id)).expect("a client");
        let mut server = ServerConnection::new(server_config.clone()).expect("a server");
        assert_eq!(shake_hands(&mut client, &mut server), (Ok(()), Ok(())));
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
        assert!(client.early_data().is_none());
    }
}

#[test]
fn the_service_is_known_from_the_first_message() {
    let cluster = Cluster::new(CLUSTER, 1);
    let [a, b] = [1, 2].map(|seed| cluster.join(seed, Role::Worker));
    let asked = |protocols: &[&[u8]]| {
        let mut config = a.tls(NOW).client(Service::Member).expect("a config");
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        let mut hello = Vec::new();
        let mut client = call(config, server_name(b.id));
        client.write_tls(&mut hello).expect("memory");
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut hello.as_slice()).expect("memory");
        let accepted = acceptor.accept().expect("a hello").expect("whole");
        Service::asked_for(&accepted.client_hello())
    };
    for service in Service::ALL {
        assert_eq!(asked(&[service.alpn()]), Ok(service));
    }
    assert_eq!(asked(&[]), Err(NotServed::Stranger));
    assert_eq!(asked(&[b"h2"]), Err(NotServed::Stranger));
    let [member, join, ..] = Service::ALL.map(Service::alpn);
    assert_eq!(asked(&[join, member]), Err(NotServed::Several));

    // The next release offers its own protocol first, and the one after it no longer this one.
    assert_eq!(asked(&[b"overlay-member/2", member]), Ok(Service::Member));
    assert_eq!(
        asked(&[b"overlay-new/2", b"overlay-join/2", join]),
        Ok(Service::Join)
    );
    let refused = asked(&[b"overlay-member/3", b"overlay-member/2"]).expect_err("too new");
    assert_eq!(
        refused.to_string(),
        "the peer speaks overlay-member/3 and this release overlay-member/1: they are more than one \
         release apart, update the older one"
    );
    let long = [&b"overlay-\n"[..], &[b'x'; 200]].concat();
    let quoted = asked(&[&long]).expect_err("unknown").to_string();
    assert!(quoted.len() < 200 && !quoted.contains('\n'), "{quoted}");

    let mut client = a.client(Service::Renew, &b, NOW);
    let mut server = b.server(Service::Member, NOW);
    let (at_client, at_server) = shake_hands(&mut client, &mut server);
    assert_eq!(at_server, Err(Error::NoApplicationProtocol));
    assert_eq!(alert(at_client), AlertDescription::NoApplicationProtocol);
}
