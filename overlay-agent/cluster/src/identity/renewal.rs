//! When a node renews its certificate, and a cluster its root.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::{
    Role,
    certificate::{self, CertificateError, Identity},
    trust::{Root, TrustBundle},
};
use crate::{id::NodeId, time::Timestamp};

/// Over how long the renewals of a cluster are spread after its root has changed.
pub const CROSSOVER: Duration = Duration::from_secs(60 * 60);

/// The longest time from one try to the next.
pub const LONGEST_RETRY: Duration = Duration::from_secs(10 * 60);

/// What a node does about its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing before this time.
    At(Timestamp),
    /// It is renewed now, over a connection that it authenticates.
    Due,
    /// It is renewed now, by the service for those that have expired.
    Expired,
    /// No manager would believe it.
    Refused(CertificateError),
}

/// What a node does now about its certificate, which is DER; `role` is its own in the roster.
///
/// A change of role is followed at once. So is a change of root by managers: join tokens name the new
/// root, and a joining node believes no manager that shows the old one. The others follow within
/// [`CROSSOVER`].
pub fn decide(der: &[u8], role: Role, trust: &TrustBundle, now: Timestamp) -> Renewal {
    let own = match certificate::verify(der, trust, now) {
        Ok(own) => own,
        Err(CertificateError::Expired { .. }) => return Renewal::Expired,
        Err(error) => return Renewal::Refused(error),
    };
    let follows =
        own.role == role && (role == Role::Worker || own.issuer == trust.issuer().digest());
    let after = renew_after(&own, trust);
    if follows && now < after {
        Renewal::At(after)
    } else {
        Renewal::Due
    }
}

/// How long to wait after the `failures`-th failure in a row: about twice as long each time. The
/// random number spreads nodes that failed together.
pub fn retry_after(failures: u32, random: u32) -> Duration {
    let longest = LONGEST_RETRY.min(Duration::from_secs(1 << failures.min(10)));
    let half = longest / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// From when on the owner renews its certificate, and tries again until it succeeds.
///
/// At two thirds of its lifetime, and up to a twelfth of it later: each node has its own share of
/// that twelfth, so that nodes that joined together do not come back together. A quarter of the
/// lifetime remains for trying. After the root has changed, within [`CROSSOVER`].
pub fn renew_after(own: &Identity, trust: &TrustBundle) -> Timestamp {
    let lifetime = own.not_after.since(own.not_before);
    let regular = own
        .not_before
        .saturating_add(lifetime / 3 * 2)
        .saturating_add(share(lifetime / 12, own.node));
    if own.issuer == trust.issuer().digest() {
        return regular;
    }
    let crossover = trust.promoted().saturating_add(share(CROSSOVER, own.node));
    regular.min(crossover)
}

/// From when on managers should replace a root: at two thirds of its lifetime, long before the
/// certificates that it issues would have to end with it.
pub fn replace_after(root: &Root) -> Timestamp {
    let lifetime = root.not_after().since(root.not_before());
    root.not_before().saturating_add(lifetime / 3 * 2)
}

/// A part of `whole` that depends on the node alone, the parts of all nodes spread evenly.
fn share(whole: Duration, node: NodeId) -> Duration {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(b"overlay-cluster renewal jitter v1")
        .chain_update(node.as_bytes())
        .finalize()
        .into();
    let (first, _) = hash.split_first_chunk::<4>().expect("a hash has 32 bytes");
    let millis = (whole.as_millis() * u128::from(u32::from_be_bytes(*first))) >> 32;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{DAY, NOW, Pki};

    #[test]
    fn nodes_renew_between_two_thirds_and_three_quarters_each_at_its_time() {
        let pki = Pki::new(1);
        let mut times = Vec::new();
        for seed in 0..200 {
            let own = pki.identity(&pki.node_key(seed));
            let after = renew_after(&own, &pki.trust);
            assert_eq!(after, renew_after(&own, &pki.trust));
            times.push(after.since(NOW).as_secs_f64() / DAY.as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        assert!(times[0] > 59.9 && times[0] < 60.5, "{times:?}");
        assert!(times[199] > 67.0 && times[199] < 67.6, "{times:?}");
        let middle = times[100];
        assert!(middle > 62.5 && middle < 65.0, "{middle}");
    }

    #[test]
    fn a_root_is_replaced_years_before_its_end() {
        let pki = Pki::new(1);
        let root = pki.authority.root();
        let remains = root.not_after().since(replace_after(root));
        assert!(remains > 1216 * DAY && remains < 1217 * DAY, "{remains:?}");
    }

    #[test]
    fn a_new_root_is_followed_within_the_hour_and_puts_nothing_off() {
        let mut pki = Pki::new(2);
        let own = pki.identity(&pki.node_key(9));
        let regular = renew_after(&own, &pki.trust);
        let next = pki.next_authority(3);
        pki.trust.introduce(next.root().clone()).expect("trusted");
        assert_eq!(renew_after(&own, &pki.trust), regular);
        let promoted_at = |promoted| {
            let mut trust = pki.trust.clone();
            trust
                .promote(next.root().digest(), promoted)
                .expect("known");
            renew_after(&own, &trust)
        };
        let promoted = NOW.saturating_add(DAY);
        let after = promoted_at(promoted);
        assert!(after >= promoted && after < promoted.saturating_add(CROSSOVER));
        assert_eq!(promoted_at(regular.saturating_add(DAY)), regular);
    }

    #[test]
    fn a_good_certificate_waits_and_an_expired_one_is_renewed_elsewhere() {
        let pki = Pki::new(4);
        let key = pki.node_key(1);
        let der = pki.issue(&key, Role::Worker);
        let at = |now| decide(&der, Role::Worker, &pki.trust, now);
        let after = renew_after(&pki.identity(&key), &pki.trust);
        assert_eq!(at(NOW), Renewal::At(after));
        assert_eq!(at(after), Renewal::Due);
        assert_eq!(at(NOW.saturating_add(91 * DAY)), Renewal::Expired);
        assert!(matches!(
            at(NOW.saturating_sub(DAY)),
            Renewal::Refused(CertificateError::ClockBehind { .. })
        ));
        let other = Pki::new(5).trust;
        assert!(matches!(
            decide(&der, Role::Worker, &other, NOW),
            Renewal::Refused(CertificateError::UnknownIssuer { .. })
        ));
    }

    #[test]
    fn a_new_role_is_followed_at_once_and_a_new_root_by_managers() {
        let mut pki = Pki::new(6);
        let key = pki.node_key(1);
        let [worker, manager] = Role::ALL.map(|role| (role, pki.issue(&key, role)));
        assert_eq!(
            decide(&worker.1, Role::Manager, &pki.trust, NOW),
            Renewal::Due
        );
        assert_eq!(
            decide(&manager.1, Role::Worker, &pki.trust, NOW),
            Renewal::Due
        );
        let next = pki.next_authority(7);
        pki.trust.introduce(next.root().clone()).expect("trusted");
        let root = next.root().digest();
        pki.trust.promote(root, NOW).expect("known");
        let decide = |(role, der): &(Role, Vec<u8>)| decide(der, *role, &pki.trust, NOW);
        assert_eq!(decide(&manager), Renewal::Due);
        assert!(matches!(decide(&worker), Renewal::At(at) if at < NOW.saturating_add(CROSSOVER)));
    }

    #[test]
    fn retries_come_later_and_later_and_not_all_at_once() {
        let secs = |failures, random| retry_after(failures, random).as_secs_f64();
        assert!(secs(1, 0) >= 1.0 && secs(1, u32::MAX) <= 2.0);
        assert!(secs(5, 0) < secs(5, u32::MAX));
        for failures in 1..100 {
            assert!(secs(failures, 0) >= secs(failures - 1, 0));
            assert!(retry_after(failures, u32::MAX) <= LONGEST_RETRY);
        }
        assert!(secs(100, 0) >= 300.0);
    }
}
