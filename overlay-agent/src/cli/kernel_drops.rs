//! What the kernel drops for us outside the programs: its block policies, XFRM, and the firewall.

use std::{collections::BTreeMap, io};

use serde::Serialize;

use super::Failure;
use crate::kernel::{features, firewall, xfrm};

const BLOCK_POLICY: &str = "XfrmOutPolBlock";
const LOCAL_INJECTION: &str = "local_injection";

/// A counter of this network namespace.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct KernelDrop {
    /// The kernel's name of it, or that of the counter in table `inet overlay`.
    pub counter: String,
    /// `None` where nothing counts: no such counter in this kernel, or no firewall table of ours.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
    pub text: &'static str,
}

pub(super) async fn read() -> Result<Vec<KernelDrop>, Failure> {
    let errors = match xfrm::errors() {
        Ok(errors) => errors,
        Err(xfrm::Error::Statistics { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            BTreeMap::new()
        }
        Err(error) => return Err(error.into()),
    };
    let injected = if features::nft() {
        firewall::local_injection().await?
    } else {
        None
    };
    Ok(list(errors, injected))
}

/// The two that show a barrier at work, whatever they say, then the XFRM errors that occurred.
fn list(mut errors: BTreeMap<String, u64>, injected: Option<(u64, u64)>) -> Vec<KernelDrop> {
    let mut drops = vec![
        KernelDrop {
            counter: BLOCK_POLICY.to_owned(),
            packets: errors.remove(BLOCK_POLICY),
            bytes: None,
            text: "A block policy (the second barrier) kept it from leaving in clear.",
        },
        KernelDrop {
            counter: LOCAL_INJECTION.to_owned(),
            packets: injected.map(|(packets, _)| packets),
            bytes: injected.map(|(_, bytes)| bytes),
            text: "The firewall dropped a local process' datagram to the overlay's port.",
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
        let drops = list(errors.into(), Some((2, 120)));
        assert_eq!(
            packets(&drops),
            [
                (BLOCK_POLICY, Some(0)),
                (LOCAL_INJECTION, Some(2)),
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
            [(BLOCK_POLICY, None), (LOCAL_INJECTION, None)]
        );
    }
}
