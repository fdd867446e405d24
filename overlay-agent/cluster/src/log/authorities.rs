//! The cluster's authority, as the log keeps it: the trusted roots, each with its private key, so
//! that every manager issues certificates.
//!
//! It changes in three steps, each by compare-and-set from the root that issues: a new root is
//! introduced, promoted, and the old one is retired ([`crate::identity::trust`]).

use std::{collections::BTreeMap, time::Duration};

use ed25519_dalek::VerifyingKey;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};

use super::{command::Command, member::Role, roster::RosterRefusal, state::Cluster};
use crate::{
    id::{ClusterId, NodeId},
    identity::{
        authority::{Authority, AuthorityError, Validity},
        renewal::CROSSOVER,
        token::JoinToken,
        trust::{MAX_ROOTS, RootDigest, TrustBundle, TrustError},
    },
    secret::Secret,
    time::Timestamp,
};

/// A step that nodes must have the time to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootStep {
    Promoted,
    Retired,
}

impl std::fmt::Display for RootStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Promoted => "promoted",
            Self::Retired => "retired",
        })
    }
}

/// Why the authority stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AuthorityRefusal {
    /// Compare-and-set: another change was faster.
    #[error("the command expects root {expected} to issue, and {found} does: read the state again")]
    Expected {
        expected: RootDigest,
        found: RootDigest,
    },
    /// A root of another cluster.
    #[error(
        "the root {root} is of cluster {theirs}, and this is {ours}: make one for this cluster"
    )]
    Foreign {
        root: RootDigest,
        theirs: ClusterId,
        ours: ClusterId,
    },
    /// As many roots are trusted as may be.
    #[error("{MAX_ROOTS} roots are trusted already: retire one first")]
    Full,
    /// Not among the trusted roots.
    #[error("no root {root} is trusted here: introduce it first")]
    Unknown { root: RootDigest },
    /// The root that issues.
    #[error(
        "root {root} issues the certificates of this cluster: promote another before it is retired"
    )]
    Issues { root: RootDigest },
    /// Nodes may not know the root, or have no certificate of it yet.
    #[error(
        "root {root} is {what} on {due} at the earliest, when the nodes have had the time to follow: wait, or force it, and nodes that did not follow join again"
    )]
    TooEarly {
        root: RootDigest,
        what: RootStep,
        due: Timestamp,
    },
    /// A root that is over or not yet good.
    #[error(
        "root {root} is good from {begins} to {ends}, and the log's time is {now}: make another, with a clock that is right"
    )]
    NotGood {
        root: RootDigest,
        begins: Timestamp,
        ends: Timestamp,
        now: Timestamp,
    },
}

impl From<TrustError> for AuthorityRefusal {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::ForeignRoot { root, theirs, ours } => Self::Foreign { root, theirs, ours },
            TrustError::Unknown { root } => Self::Unknown { root },
            TrustError::Issues { root } => Self::Issues { root },
            TrustError::Full | TrustError::Root(_) | TrustError::Stored { .. } => Self::Full,
        }
    }
}

/// Why a manager does not issue a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// No member, or no longer.
    #[error(transparent)]
    Roster(#[from] RosterRefusal),
    /// The roster changed in between.
    #[error(
        "node {node} is a {role} now, and a certificate for a {asked} was asked for: ask again"
    )]
    OtherRole {
        node: NodeId,
        role: Role,
        asked: Role,
    },
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// What the leader does next about the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootDue {
    /// Make a new root and propose it: the one that issues is past two thirds of its life.
    Introduce,
    /// Propose that this root issues.
    Promote(RootDigest),
    /// Propose that this root is trusted no more.
    Retire(RootDigest),
}

/// The private key of a trusted root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    key: Secret,
    introduced: Timestamp,
}

/// The trusted roots and their keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorities {
    trust: TrustBundle,
    held: BTreeMap<RootDigest, Held>,
}

impl Authorities {
    /// How long nodes have to follow one step before the next, unless it is forced.
    pub const SETTLE: Duration = CROSSOVER;
    /// From introduction to promotion, when the leader replaces a root by itself.
    pub const PROMOTE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
    /// From promotion to retirement, when the leader does it by itself: certificates of the old root
    /// have ended by then, with the default validity.
    pub const RETIRE_AFTER: Duration = Duration::from_secs(100 * 24 * 3600);

    /// Of a new cluster, begun at `now`.
    pub fn new(
        cluster: ClusterId,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<Self, AuthorityRefusal> {
        let root = authority.root();
        if root.cluster() != cluster {
            return Err(AuthorityRefusal::Foreign {
                root: root.digest(),
                theirs: root.cluster(),
                ours: cluster,
            });
        }
        check_good(authority, now)?;
        Ok(Self {
            trust: TrustBundle::new(root.clone()),
            held: BTreeMap::from([(root.digest(), held(authority, now))]),
        })
    }

    pub const fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// What issues certificates now.
    pub fn issuer(&self) -> Result<Authority, AuthorityError> {
        self.authority(self.trust.issuer().digest())
    }

    fn authority(&self, root: RootDigest) -> Result<Authority, AuthorityError> {
        match (self.held.get(&root), self.trust.get(root)) {
            (Some(held), Some(trusted)) => Authority::restore(&held.key, trusted.clone()),
            _ => Err(AuthorityError::OtherKey { root }),
        }
    }

    /// Trusts one more root, whose key the managers have from now on. To do it again changes
    /// nothing.
    pub fn introduce(
        &mut self,
        expected: RootDigest,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<(), AuthorityRefusal> {
        self.check_expected(expected)?;
        check_good(authority, now)?;
        let root = authority.root();
        self.trust.introduce(root.clone())?;
        self.held
            .entry(root.digest())
            .or_insert_with(|| held(authority, now));
        Ok(())
    }

    /// Whether `root` may issue from `now` on.
    pub fn check_promote(
        &self,
        expected: RootDigest,
        root: RootDigest,
        force: bool,
        now: Timestamp,
    ) -> Result<(), AuthorityRefusal> {
        self.check_expected(expected)?;
        let authority = self
            .authority(root)
            .map_err(|_| AuthorityRefusal::Unknown { root })?;
        check_good(&authority, now)?;
        let introduced = self.held.get(&root).map_or(now, |held| held.introduced);
        check_settled(root, RootStep::Promoted, introduced, force, now)
    }

    pub fn promote(
        &mut self,
        expected: RootDigest,
        root: RootDigest,
        force: bool,
        now: Timestamp,
    ) -> Result<(), AuthorityRefusal> {
        self.check_promote(expected, root, force, now)?;
        Ok(self.trust.promote(root, now)?)
    }

    /// Trusts a root no more, and forgets its key.
    pub fn retire(
        &mut self,
        expected: RootDigest,
        root: RootDigest,
        force: bool,
        now: Timestamp,
    ) -> Result<(), AuthorityRefusal> {
        self.check_expected(expected)?;
        // The answer to who asks for the impossible is not "wait".
        self.trust.clone().retire(root)?;
        check_settled(root, RootStep::Retired, self.trust.promoted(), force, now)?;
        self.trust.retire(root)?;
        self.held.remove(&root);
        Ok(())
    }

    /// What the leader does at `now`, if no operator does it before.
    pub fn due(&self, now: Timestamp) -> Option<RootDue> {
        let issuer = self.trust.issuer();
        let newest = self
            .trust
            .roots()
            .iter()
            .filter_map(|root| Some((self.held.get(&root.digest())?.introduced, root.digest())))
            .max();
        let (introduced, newest) = newest?;
        if newest != issuer.digest() && introduced >= self.trust.promoted() {
            let promote = now >= introduced.saturating_add(Self::PROMOTE_AFTER);
            return promote.then_some(RootDue::Promote(newest));
        }
        if now >= crate::identity::renewal::replace_after(issuer)
            && self.trust.roots().len() < MAX_ROOTS
        {
            return Some(RootDue::Introduce);
        }
        let old = self
            .trust
            .roots()
            .iter()
            .find(|root| root.digest() != issuer.digest())?;
        let retire = now >= self.trust.promoted().saturating_add(Self::RETIRE_AFTER);
        retire.then_some(RootDue::Retire(old.digest()))
    }

    fn check_expected(&self, expected: RootDigest) -> Result<(), AuthorityRefusal> {
        let found = self.trust.issuer().digest();
        if found == expected {
            Ok(())
        } else {
            Err(AuthorityRefusal::Expected { expected, found })
        }
    }

    /// What is wrong with the authority, if anything.
    pub fn fault(&self, cluster: ClusterId) -> Option<String> {
        if self.trust.cluster() != cluster {
            return Some(format!("the roots are of cluster {}", self.trust.cluster()));
        }
        if self.held.len() != self.trust.roots().len() {
            return Some("there are more or fewer keys than roots".into());
        }
        let mut roots = self.trust.roots().iter();
        roots.find_map(|root| Some(self.authority(root.digest()).err()?.to_string()))
    }
}

fn held(authority: &Authority, now: Timestamp) -> Held {
    Held {
        key: authority.key(),
        introduced: now,
    }
}

fn check_good(authority: &Authority, now: Timestamp) -> Result<(), AuthorityRefusal> {
    let root = authority.root();
    let (begins, ends) = (root.not_before(), root.not_after());
    if now < begins || now >= ends {
        return Err(AuthorityRefusal::NotGood {
            root: root.digest(),
            begins,
            ends,
            now,
        });
    }
    Ok(())
}

fn check_settled(
    root: RootDigest,
    what: RootStep,
    since: Timestamp,
    force: bool,
    now: Timestamp,
) -> Result<(), AuthorityRefusal> {
    let due = since.saturating_add(Authorities::SETTLE);
    if force || now >= due {
        Ok(())
    } else {
        Err(AuthorityRefusal::TooEarly { root, what, due })
    }
}

impl Cluster {
    /// The roots that are trusted now.
    pub const fn trust(&self) -> &TrustBundle {
        self.authorities().trust()
    }

    /// What issues certificates now.
    pub fn authority(&self) -> Result<Authority, AuthorityError> {
        self.authorities().issuer()
    }

    /// DER of a certificate for a member, by its key. That whoever asks has the key is for the caller
    /// to know.
    pub fn issue(
        &self,
        key: &VerifyingKey,
        role: Role,
        validity: &Validity,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, IssueError> {
        let node = NodeId::of(key);
        let member = self.roster().present(&node)?;
        if member.role != role {
            return Err(IssueError::OtherRole {
                node,
                role: member.role,
                asked: role,
            });
        }
        let authority = self.authority()?;
        Ok(authority.issue_since(member.joined, key, role, validity, now, rng)?)
    }

    /// The command that a leader proposes by itself about the authority, if one is due. A new root lives
    /// as long as the one before.
    pub fn next_root_step(
        &self,
        clock: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Command>, AuthorityError> {
        let now = self.now(clock);
        let issuer = self.trust().issuer();
        let expected = issuer.digest();
        let Some(due) = self.authorities().due(now) else {
            return Ok(None);
        };
        Ok(Some(match due {
            RootDue::Introduce => {
                let validity = Validity {
                    root: issuer.not_after().since(issuer.not_before()),
                    ..Validity::default()
                };
                let authority = Authority::generate(self.id(), &validity, now, rng)?;
                Command::IntroduceRoot {
                    expected,
                    authority: Box::new(authority),
                }
            }
            RootDue::Promote(root) => Command::PromoteRoot {
                expected,
                root,
                tokens: self.tokens().renewed(now, rng),
                force: false,
            },
            RootDue::Retire(root) => Command::RetireRoot {
                expected,
                root,
                force: false,
            },
        }))
    }

    /// The join token of a role, which names the root of today. Whether it has expired,
    /// [`Self::tokens`] says.
    pub fn token(&self, role: Role) -> JoinToken {
        JoinToken {
            role,
            root: self.trust().issuer().digest(),
            secret: self.tokens().of(role).secret.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{certificate, revocation},
        log::{
            refusal::Refusal,
            samples::{CLUSTER, apply, authority, founded, join, key, node, now, tokens},
            state::State,
            view::{Update, UpdateError, View},
        },
    };

    const SETTLED: u64 = Authorities::SETTLE.as_secs();

    fn root(n: u8) -> RootDigest {
        authority(n).root().digest()
    }

    fn cluster(state: &State) -> &Cluster {
        state.cluster().expect("a cluster")
    }

    fn introduce(expected: u8, n: u8) -> Command {
        Command::IntroduceRoot {
            expected: root(expected),
            authority: Box::new(authority(n)),
        }
    }

    fn promote(expected: u8, n: u8, force: bool) -> Command {
        Command::PromoteRoot {
            expected: root(expected),
            root: root(n),
            tokens: tokens(20 + n),
            force,
        }
    }

    fn retire(expected: u8, n: u8, force: bool) -> Command {
        Command::RetireRoot {
            expected: root(expected),
            root: root(n),
            force,
        }
    }

    fn refused(state: &State, at: u64, command: Command) -> AuthorityRefusal {
        match state.clone().apply(now(at), command) {
            Err(Refusal::Authority(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn issue(state: &State, n: u8, role: Role, at: u64) -> Result<Vec<u8>, IssueError> {
        use rand::{SeedableRng as _, rngs::StdRng};

        let rng = &mut StdRng::seed_from_u64(5);
        let key = *key(n).verifying_key();
        cluster(state).issue(&key, role, &Validity::default(), now(at), rng)
    }

    fn issuer(state: &State, der: &[u8], at: u64) -> RootDigest {
        let trust = cluster(state).trust();
        certificate::verify(der, trust, now(at))
            .expect("good")
            .issuer
    }

    fn whole(state: &State) -> View {
        match cluster(state).update(&node(1), None) {
            Ok(Update::Whole(view)) => *view,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_root_is_introduced_promoted_and_retired() {
        let mut state = founded();
        join(&mut state, 2);
        let old = issue(&state, 2, Role::Worker, 0).expect("issued");
        assert_eq!(issuer(&state, &old, 0), root(1));

        apply(&mut state, 10, introduce(1, 2));
        let der = issue(&state, 2, Role::Worker, 10).expect("issued");
        assert_eq!(
            issuer(&state, &der, 10),
            root(1),
            "the old one still issues"
        );
        assert_eq!(cluster(&state).token(Role::Worker).root, root(1));

        let at = 10 + SETTLED;
        apply(&mut state, at, promote(1, 2, false));
        let der = issue(&state, 2, Role::Worker, at).expect("issued");
        assert_eq!(issuer(&state, &der, at), root(2));
        assert_eq!(issuer(&state, &old, at), root(1), "it is still trusted");
        let token = cluster(&state).token(Role::Manager);
        assert_eq!((token.root, token.role), (root(2), Role::Manager));
        assert_eq!(token.secret, tokens(22).manager.secret);

        let at = at + SETTLED;
        apply(&mut state, at, retire(2, 1, false));
        let trust = cluster(&state).trust();
        assert!(certificate::verify(&old, trust, now(at)).is_err());
        assert!(certificate::verify(&der, trust, now(at)).is_ok());
        let bytes = state.encode();
        let key = authority(1).key();
        let kept = bytes.windows(32).any(|window| window == key.expose());
        assert!(!kept, "the key of a retired root is forgotten");
    }

    #[test]
    fn each_step_names_the_root_that_issues_and_comes_in_its_order() {
        let mut state = founded();
        let expected = AuthorityRefusal::Expected {
            expected: root(2),
            found: root(1),
        };
        assert_eq!(refused(&state, 0, introduce(2, 3)), expected);
        assert_eq!(refused(&state, 0, promote(2, 2, true)), expected);
        assert_eq!(refused(&state, 0, retire(2, 2, true)), expected);
        let unknown = AuthorityRefusal::Unknown { root: root(2) };
        assert_eq!(refused(&state, 0, promote(1, 2, true)), unknown);
        assert_eq!(refused(&state, 0, retire(1, 2, true)), unknown);
        let issues = AuthorityRefusal::Issues { root: root(1) };
        assert_eq!(refused(&state, 0, retire(1, 1, true)), issues);

        apply(&mut state, 0, introduce(1, 2));
        let early = refused(&state, SETTLED - 1, promote(1, 2, false));
        assert!(matches!(early, AuthorityRefusal::TooEarly { .. }));
        assert!(early.to_string().contains("promoted"), "{early}");
        apply(&mut state, 1, promote(1, 2, true));
        let early = refused(&state, SETTLED, retire(2, 1, false));
        assert!(matches!(early, AuthorityRefusal::TooEarly { .. }));
        apply(&mut state, 2, introduce(2, 3));
        assert_eq!(refused(&state, 3, introduce(2, 4)), AuthorityRefusal::Full);
        // Once more is not another one.
        apply(&mut state, 4, introduce(2, 3));
        apply(&mut state, 5, retire(2, 1, true));
    }

    #[test]
    fn a_foreign_root_and_one_that_is_over_are_refused() {
        use rand::{SeedableRng as _, rngs::StdRng};

        let state = founded();
        let make = |id: u8, at| {
            let rng = &mut StdRng::seed_from_u64(50);
            let id = ClusterId::from_bytes([id; 16]);
            let authority = Authority::generate(id, &Validity::default(), at, rng);
            Command::IntroduceRoot {
                expected: root(1),
                authority: Box::new(authority.expect("an authority")),
            }
        };
        let foreign = refused(&state, 0, make(9, now(0)));
        assert!(matches!(foreign, AuthorityRefusal::Foreign { ours, .. } if ours == CLUSTER));
        for at in [
            now(0).saturating_sub(11 * 365 * Duration::from_secs(86400)),
            now(1 << 20),
        ] {
            let refusal = refused(&state, 0, make(7, at));
            assert!(matches!(refusal, AuthorityRefusal::NotGood { .. }));
        }
    }

    #[test]
    fn nodes_follow_a_change_and_take_no_roots_of_another_cluster() {
        let mut state = founded();
        let mut view = whole(&state);
        apply(&mut state, 0, introduce(1, 2));
        let delta = cluster(&state).update(&node(1), Some(view.version));
        let delta = delta.expect("an update");
        assert!(matches!(&delta, Update::Delta(delta) if delta.trust.is_some()));
        view.take(delta).expect("fits");
        assert_eq!(view, whole(&state));
        assert_eq!(view.trust.roots().len(), 2);

        let rng = &mut <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(60);
        let id = ClusterId::from_bytes([9; 16]);
        let foreign = Authority::generate(id, &Validity::default(), now(0), rng);
        let foreign = TrustBundle::new(foreign.expect("an authority").root().clone());
        let mut liar = view.clone();
        liar.trust = foreign;
        let before = view.clone();
        let taken = view.take(Update::Whole(Box::new(liar)));
        assert!(matches!(taken, Err(UpdateError::ForeignRoots { .. })));
        assert_eq!(view, before);
    }

    #[test]
    fn members_alone_get_certificates_and_in_the_role_of_today() {
        let mut state = founded();
        join(&mut state, 2);
        let other = issue(&state, 2, Role::Manager, 0);
        assert!(matches!(other, Err(IssueError::OtherRole { .. })));
        assert!(matches!(
            issue(&state, 3, Role::Worker, 0),
            Err(IssueError::Roster(RosterRefusal::Unknown(_)))
        ));
        let old = issue(&state, 2, Role::Worker, 0).expect("issued");
        apply(&mut state, 3600, Command::Leave { node: node(2) });
        assert!(matches!(
            issue(&state, 2, Role::Worker, 3600),
            Err(IssueError::Roster(RosterRefusal::HasLeft { .. }))
        ));
        // Back again, it shows the old certificate, then the new one.
        let command = Command::Join {
            token: crate::log::samples::worker(1),
            applicant: crate::log::samples::applicant(2),
        };
        apply(&mut state, 7200, command);
        let new = issue(&state, 2, Role::Worker, 7200).expect("issued");
        let admit = |der: &[u8]| {
            let log = cluster(&state);
            let peer = certificate::verify(der, log.trust(), now(7200)).expect("good");
            revocation::admit(&peer, &|node| log.roster().standing(&node))
        };
        let refused = admit(&old).expect_err("of the membership before");
        assert!(matches!(refused, revocation::Refusal::Earlier { .. }));
        assert!(admit(&new).is_ok());
    }

    #[test]
    fn the_leader_replaces_a_root_in_time() {
        use rand::{SeedableRng as _, rngs::StdRng};

        let days = |n: u64| now(n * 86_400);
        let mut roots = Authorities::new(CLUSTER, &authority(1), now(0)).expect("an authority");
        assert_eq!(roots.due(days(2000)), None);
        assert_eq!(roots.due(days(2434)), Some(RootDue::Introduce));
        let rng = &mut StdRng::seed_from_u64(70);
        let next = Authority::generate(CLUSTER, &Validity::default(), days(2434), rng);
        let next = next.expect("an authority");
        let digest = next.root().digest();
        roots
            .introduce(root(1), &next, days(2434))
            .expect("introduced");
        assert_eq!(roots.due(days(2440)), None);
        assert_eq!(roots.due(days(2441)), Some(RootDue::Promote(digest)));
        roots
            .promote(root(1), digest, false, days(2441))
            .expect("promoted");
        assert_eq!(roots.due(days(2540)), None);
        assert_eq!(roots.due(days(2541)), Some(RootDue::Retire(root(1))));
        roots
            .retire(digest, root(1), false, days(2541))
            .expect("retired");
        assert_eq!(roots.due(days(4000)), None);
    }

    #[test]
    fn a_cluster_that_is_left_alone_goes_from_root_to_root() {
        use rand::{SeedableRng as _, rngs::StdRng};

        let mut state = founded();
        let rng = &mut StdRng::seed_from_u64(80);
        let (mut steps, mut issuers) = (Vec::new(), vec![root(1)]);
        // 20 years, a few days at a time, as the log lets time pass.
        for day in (0..7300).step_by(3) {
            let at = day * 86_400;
            apply(&mut state, at, Command::ConfirmTime);
            let command = cluster(&state).next_root_step(now(at), rng).expect("made");
            let Some(command) = command else { continue };
            steps.push(match &command {
                Command::IntroduceRoot { .. } => 'i',
                Command::PromoteRoot { .. } => 'p',
                Command::RetireRoot { .. } => 'r',
                other => panic!("{other:?}"),
            });
            apply(&mut state, at, command);
            let issuer = cluster(&state).trust().issuer();
            assert!(issuer.not_after() > now(at + 1000 * 86_400), "day {day}");
            if issuers.last() != Some(&issuer.digest()) {
                issuers.push(issuer.digest());
            }
        }
        assert_eq!(steps.iter().collect::<String>(), "ipripr");
        assert_eq!(issuers.len(), 3);
    }

    #[test]
    fn nothing_secret_is_printed() {
        let authorities = Authorities::new(CLUSTER, &authority(1), now(0)).expect("ok");
        let printed = format!("{authorities:?} {:?}", introduce(1, 1));
        let key = authority(1).key();
        assert!(printed.contains("Secret(…)"));
        assert!(!printed.contains(&format!("{:?}", key.expose())));
        assert!(!printed.contains(&data_encoding::HEXLOWER.encode(key.expose())));
    }
}
