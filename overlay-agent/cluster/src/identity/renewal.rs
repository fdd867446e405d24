//! When a node renews its certificate, and a cluster its root.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::{
    certificate::Identity,
    trust::{Root, TrustBundle},
};
use crate::{id::NodeId, time::Timestamp};

/// Over how long the renewals of a cluster are spread after its root has changed.
pub const CROSSOVER: Duration = Duration::from_secs(60 * 60);

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
}
