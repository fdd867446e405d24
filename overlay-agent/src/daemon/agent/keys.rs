//! Key epochs, as the API asks for them.

use std::time::Duration;

use overlay_cluster::log::{command::Command, epochs::Reason};
use overlay_ebpf::abi::PeerIndex;

use super::{
    Agent, Running, errors,
    networks::{manager, propose},
};
use crate::api::{
    ApiError,
    keys::{ClusterKeys, KeysStatus, PeerKeys, Policy, PolicyRequest, RotationBegun},
};

impl Agent {
    pub(super) fn list_keys(&self) -> Result<KeysStatus, ApiError> {
        let running = self.running()?;
        let status = running.node.status();
        let interval = status.epochs.policy.interval.as_secs();
        let name = |index| name(&running, index);
        let cluster = running
            .managers()
            .and_then(|managers| managers.rotation())
            .map(|status| ClusterKeys::new(&status, interval, name));
        Ok(KeysStatus {
            cluster,
            peers: status
                .peers
                .iter()
                .map(|peer| PeerKeys::new(peer, name))
                .collect(),
        })
    }

    pub(super) async fn do_rotate_keys(&self) -> Result<RotationBegun, ApiError> {
        let running = self.running()?;
        let managers = manager(&running)?;
        let command = managers
            .next_epoch(Reason::Operator)
            .map_err(|refused| errors::propose(&refused))?;
        let Command::StageEpoch { next, .. } = &command else {
            return Err(ApiError::unavailable("no rotation can be begun"));
        };
        let epoch = next.name.into();
        propose(&running, command).await?;
        Ok(RotationBegun { epoch })
    }

    pub(super) async fn do_set_policy(&self, request: PolicyRequest) -> Result<Policy, ApiError> {
        let running = self.running()?;
        let managers = manager(&running)?;
        let policy = managers.with_log(|log| log.map(|log| *log.epochs().policy()));
        let mut policy = policy
            .ok_or_else(|| ApiError::unavailable("this manager does not have the log yet"))?;
        for (setting, wanted) in [
            (&mut policy.interval, request.interval_seconds),
            (&mut policy.deadline, request.deadline_seconds),
            (&mut policy.grace, request.grace_seconds),
        ] {
            *setting = wanted.map_or(*setting, Duration::from_secs);
        }
        // An eviction is not slower than any other rotation.
        policy.urgent_deadline = policy.urgent_deadline.min(policy.deadline);
        policy.urgent_grace = policy.urgent_grace.min(policy.grace);
        policy
            .check()
            .map_err(|error| ApiError::bad_request(&error))?;
        propose(&running, Command::SetRotationPolicy(policy)).await?;
        Ok(Policy {
            interval_seconds: policy.interval.as_secs(),
            deadline_seconds: policy.deadline.as_secs(),
            grace_seconds: policy.grace.as_secs(),
        })
    }
}

/// The name of a node.
pub(super) fn name(running: &Running, index: PeerIndex) -> String {
    let view = running.node.view();
    let peer = view.peers.values().find(|peer| peer.index == index);
    peer.map_or_else(|| format!("node {index}"), |peer| peer.name.to_string())
}
