//! What the kernel drops for us outside the programs: its block policies, XFRM, and the firewall.

use std::{collections::BTreeMap, io};

use serde::Serialize;

use super::{
    features,
    firewall::{self, Counters},
    xfrm,
};

/// The kernel's counter of what a block policy stopped (Documentation/networking/xfrm_proc.rst).
pub const BLOCK_POLICY: &str = "XfrmOutPolBlock";
const LOCAL_INJECTION: &str = "local_injection";
const STRAY: &str = "stray";

/// A counter of this network namespace.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct KernelDrop {
    /// The kernel's name of it, or that of the counter in table `inet overlay`.
    pub counter: String,
    /// `None` where nothing counts: no such counter in this kernel, or no firewall table of ours.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
    pub text: &'static str,
}

/// Why the counters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Xfrm(#[from] xfrm::Error),
    #[error(transparent)]
    Firewall(#[from] firewall::Error),
}

/// What there is to count in this network namespace.
pub async fn read() -> Result<Vec<KernelDrop>, Error> {
    let errors = match xfrm::errors() {
        Ok(errors) => errors,
        Err(xfrm::Error::Statistics { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            BTreeMap::new()
        }
        Err(error) => return Err(error.into()),
    };
    let firewall = if features::nft() {
        firewall::counters().await?
    } else {
        None
    };
    Ok(list(errors, firewall))
}

/// Those that show a barrier at work, whatever they say, then the XFRM errors that occurred.
fn list(mut errors: BTreeMap<String, u64>, firewall: Option<Counters>) -> Vec<KernelDrop> {
    let injected = firewall.map(|counters| counters.local_injection);
    let stray = firewall.map(|counters| counters.stray);
    let mut drops = vec![
        KernelDrop {
            counter: BLOCK_POLICY.to_owned(),
            packets: errors.remove(BLOCK_POLICY),
            bytes: None,
            text: "A block policy (the second barrier) kept it from leaving in clear.",
        },
        KernelDrop {
            counter: LOCAL_INJECTION.to_owned(),
            packets: injected.map(|count| count.packets),
            bytes: injected.map(|count| count.bytes),
            text: "The firewall dropped a local process' datagram to the overlay's port.",
        },
        KernelDrop {
            counter: STRAY.to_owned(),
            packets: stray.map(|count| count.packets),
            bytes: stray.map(|count| count.bytes),
            text: "The firewall dropped what came from a device of the overlay without its program.",
        },
    ];
    let occurred = errors.into_iter().filter(|(_, packets)| *packets > 0);
    drops.extend(occurred.map(|(counter, packets)| KernelDrop {
        counter,
        packets: Some(packets),
        bytes: None,
        text: "XFRM error (Documentation/networking/xfrm_proc.rst)",
    }));
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(drops: &[KernelDrop]) -> Vec<(&str, Option<u64>)> {
        drops
            .iter()
            .map(|drop| (drop.counter.as_str(), drop.packets))
            .collect()
    }

    #[test]
    fn barriers_are_listed_always_and_other_xfrm_errors_once_they_occurred() {
        let errors = [
            ("XfrmInError", 0),
            (BLOCK_POLICY, 0),
            ("XfrmInStateProtoError", 3),
        ];
        let errors = errors.map(|(name, packets)| (name.to_owned(), packets));
        let count = |packets, bytes| firewall::Count { packets, bytes };
        let counters = Counters {
            local_injection: count(2, 120),
            stray: count(1, 60),
        };
        let drops = list(errors.into(), Some(counters));
        assert_eq!(
            packets(&drops),
            [
                (BLOCK_POLICY, Some(0)),
                (LOCAL_INJECTION, Some(2)),
                (STRAY, Some(1)),
                ("XfrmInStateProtoError", Some(3)),
            ]
        );
        assert_eq!(drops[1].bytes, Some(120));
    }

    #[test]
    fn a_counter_that_is_not_there_is_not_zero() {
        let drops = list(BTreeMap::new(), None);
        assert_eq!(
            packets(&drops),
            [(BLOCK_POLICY, None), (LOCAL_INJECTION, None), (STRAY, None)]
        );
    }
}
