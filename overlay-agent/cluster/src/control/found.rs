//! A new cluster: what its first manager makes of a name, an address and random numbers.

use std::time::Duration;

use rand::CryptoRng;

use crate::{
    id::ClusterId,
    identity::{
        Role,
        authority::{Authority, AuthorityError, Validity},
        node_key::NodeKey,
    },
    keys::EpochSecrets,
    log::{
        command::Genesis,
        epochs::{NewEpoch, RotationPolicy},
        member::{Contact, KeyError, NodeKey as LogKey},
        names::{Labels, NodeName},
        roster::Applicant,
        settings::Settings,
        tokens::Tokens,
    },
    time::Timestamp,
};

/// The first manager and its wishes.
#[derive(Debug, Clone)]
pub struct Founder<'a> {
    pub key: &'a NodeKey,
    pub name: NodeName,
    pub contact: Contact,
    pub labels: Labels,
    pub settings: Settings,
    pub policy: RotationPolicy,
    pub validity: Validity,
    /// Of the first join tokens; `None` is without end.
    pub token_lifetime: Option<Duration>,
}

/// A cluster that begins when its [`Genesis`] is the first entry of the log. It is proposed within
/// minutes: the certificate must not begin long before the manager joins its own cluster.
#[derive(Debug, Clone)]
pub struct Founded {
    pub genesis: Genesis,
    /// DER of the first manager's certificate.
    pub certificate: Vec<u8>,
}

/// Why no cluster begins.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The key of the node is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Makes a cluster: its id, authority, tokens and the secrets of epoch 1. What the log would refuse of
/// `founder`, such as an address that nobody reaches, it refuses when the command is applied.
pub fn found(
    founder: Founder<'_>,
    now: Timestamp,
    rng: &mut impl CryptoRng,
) -> Result<Founded, FoundError> {
    let Founder {
        key,
        name,
        contact,
        labels,
        settings,
        policy,
        validity,
        token_lifetime,
    } = founder;
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    let cluster = ClusterId::from_bytes(id);
    let authority = Authority::generate(cluster, &validity, now, rng)?;
    let role = Role::Manager;
    let certificate = authority.issue_since(now, &key.public(), role, &validity, now, rng)?;
    let secrets = EpochSecrets::random(rng);
    let genesis = Genesis {
        cluster,
        authority,
        manager: Applicant {
            key: LogKey::new(key.public().to_bytes())?,
            name,
            contact,
            labels,
        },
        tokens: Tokens::random(now, token_lifetime, rng),
        epoch: NewEpoch {
            name: secrets.name(0, 1),
            secrets,
        },
        policy,
        settings,
    };
    Ok(Founded {
        genesis,
        certificate,
    })
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::{
        control::{
            handler::Handler,
            join::{Join, JoinError, Joiner},
        },
        identity::{certificate, revocation, trust::TrustBundle},
        log::{
            command::Command,
            samples::{contact, now},
            state::State,
        },
    };

    fn rng(seed: u64) -> StdRng {
        StdRng::seed_from_u64(seed)
    }

    fn founded(seed: u64) -> (NodeKey, Founded) {
        let key = NodeKey::generate(&mut rng(seed));
        let founder = Founder {
            key: &key,
            name: NodeName::new("first").expect("a name"),
            contact: contact(1),
            labels: Labels::default(),
            settings: Settings::default(),
            policy: RotationPolicy::default(),
            validity: Validity::default(),
            token_lifetime: Some(Duration::from_secs(3600)),
        };
        let founded = found(founder, now(0), &mut rng(seed + 100)).expect("founds");
        (key, founded)
    }

    #[test]
    fn the_log_takes_it_and_the_first_manager_is_known() {
        let (key, founded) = founded(1);
        let mut state = State::default();
        let begin = Command::Initialise(Box::new(founded.genesis.clone()));
        state.apply(now(0), begin).expect("begins");
        assert_eq!(state.fault(), None);
        let cluster = state.cluster().expect("a cluster");
        let trust = TrustBundle::new(founded.genesis.authority.root().clone());
        assert_eq!(*cluster.trust(), trust);
        let identity = certificate::verify(&founded.certificate, &trust, now(0)).expect("good");
        assert_eq!(
            (identity.node, identity.role),
            (key.node_id(), Role::Manager)
        );
        let roster = |node| cluster.roster().standing(&node);
        let admission = revocation::admit(&identity, &roster).expect("admitted");
        assert_eq!((admission.role, admission.renew), (Role::Manager, false));
        let secrets = &founded.genesis.epoch.secrets;
        assert!(secrets.check(cluster.epochs().current()).is_ok());
        assert_ne!(secrets.gossip, secrets.data);
    }

    #[test]
    fn the_log_may_begin_a_little_later() {
        let (_, founded) = founded(1);
        let admitted = |at| {
            let mut state = State::default();
            let begin = Command::Initialise(Box::new(founded.genesis.clone()));
            state.apply(now(at), begin).expect("begins");
            let cluster = state.cluster().expect("a cluster");
            let (trust, roster) = (cluster.trust(), cluster.roster());
            let identity = certificate::verify(&founded.certificate, trust, now(at));
            revocation::admit(&identity.expect("good"), &|node| roster.standing(&node))
        };
        assert!(admitted(1).is_ok());
        assert!(admitted(300).is_ok());
        assert!(admitted(302).is_err());
    }

    #[test]
    fn a_node_joins_with_the_token_that_a_manager_shows() {
        let (first, founded) = founded(1);
        let mut state = State::default();
        let begin = Command::Initialise(Box::new(founded.genesis));
        state.apply(now(0), begin).expect("begins");
        let cluster = state.cluster().expect("a cluster").clone();
        let key = NodeKey::generate(&mut rng(9));
        let joiner = Joiner {
            key: &key,
            name: NodeName::new("second").expect("a name"),
            contact: contact(2),
            labels: Labels::default(),
        };
        for role in Role::ALL {
            let text = cluster.token(role).to_text();
            let join = Join::new(&text, joiner.clone(), now(1)).expect("joins");
            let handler = Handler {
                own: first.node_id(),
                trust: cluster.trust(),
                log: Some(&cluster),
                now: now(1),
            };
            let accepted = handler.join(&join).expect("may join");
            assert_eq!(
                (accepted.issue.key, accepted.issue.role),
                (key.public(), role)
            );
            let mut state = state.clone();
            let command = accepted.command.expect("a new node");
            state.apply(now(1), command).expect("joins");
            let issued = state.cluster().expect("a cluster").issue(
                &accepted.issue.key,
                role,
                &Validity::default(),
                now(1),
                &mut rng(10),
            );
            let identity = certificate::verify(&issued.expect("issued"), cluster.trust(), now(1));
            assert_eq!(identity.expect("good").role, role);
        }
        assert!(matches!(
            Join::new("OVL1-W-", joiner.clone(), now(1)),
            Err(JoinError::Token(_))
        ));
        let mut nowhere = joiner;
        nowhere.contact.vteps = Default::default();
        let text = cluster.token(Role::Worker).to_text();
        assert!(matches!(
            Join::new(&text, nowhere, now(1)),
            Err(JoinError::Contact(_))
        ));
    }

    #[test]
    fn no_two_clusters_have_anything_in_common() {
        let ((_, a), (_, b)) = (founded(1), founded(2));
        let (a, b) = (a.genesis, b.genesis);
        assert_ne!(a.cluster, b.cluster);
        assert_ne!(a.authority, b.authority);
        assert_ne!(a.tokens.worker.secret, a.tokens.manager.secret);
        assert_ne!(a.tokens.worker.secret, b.tokens.worker.secret);
        assert_ne!(a.epoch.secrets.data, b.epoch.secrets.data);
    }
}
