//! What is done to bytes that claim to be the body of a request: by the fuzzer in `tests/fuzz`, and by
//! `cargo test` in `mod.rs` beside this file.
//!
//! Each target checks of what it accepts that it is written the same again. It returns whether it
//! accepted.

use std::fmt::Debug;

use overlay_agent::{
    api::{
        Empty,
        cluster::{
            AutolockRequest, InitRequest, JoinRequest, LeaveRequest, RestoreRequest, RotateToken,
            UnlockRequest,
        },
        endpoint::EndpointAttach,
        keys::PolicyRequest,
        network::{NetworkCreate, PruneRequest},
        node::NodeUpdate,
    },
    daemon::api::parse,
};
use serde::{Serialize, de::DeserializeOwned};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the operation that takes such a body.
pub const ALL: [Target; 12] = [
    ("init", body::<InitRequest>),
    ("join", body::<JoinRequest>),
    ("leave", body::<LeaveRequest>),
    ("unlock", body::<UnlockRequest>),
    ("autolock", body::<AutolockRequest>),
    ("rotate_token", body::<RotateToken>),
    ("restore", body::<RestoreRequest>),
    ("create_network", body::<NetworkCreate>),
    ("prune_networks", body::<PruneRequest>),
    ("attach", attach),
    ("update_node", body::<NodeUpdate>),
    ("policy", body::<PolicyRequest>),
];

/// All of them: the kinds overlap, and a fuzzer that has one has the others.
pub fn any(bytes: &[u8]) -> bool {
    // What it says of the bytes is of no interest, only that it says it.
    let _ = parse::<Empty>(bytes);
    let mut accepted = false;
    for (_, target) in ALL {
        accepted |= target(bytes);
    }
    accepted
}

fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(request) = parse::<T>(bytes) else {
        return false;
    };
    let again = serde_json::to_vec(&request).expect("plain fields encode");
    assert_eq!(parse::<T>(&again).as_ref(), Ok(&request));
    true
}

fn attach(bytes: &[u8]) -> bool {
    let request = parse::<EndpointAttach>(bytes);
    if let Ok(Ok(request)) = request.map(EndpointAttach::into_request) {
        for route in &request.routes {
            let same = |via: std::net::IpAddr| via.is_ipv4() == route.to.0.is_ipv4();
            assert!(route.via.is_none_or(same));
        }
    }
    body::<EndpointAttach>(bytes)
}

/// A body that each target accepts: seeds by name.
pub const SEEDS: [(&str, &str); 12] = [
    (
        "init",
        r#"{"advertise":["192.0.2.1","2001:db8::1"],"listen":"0.0.0.0:7790","name":"n1","labels":{"zone":"a"},"autolock":true,"key_rotation_interval_seconds":43200,"subnet_pools":[{"net":"10.0.0.0/8","prefix":24}]}"#,
    ),
    (
        "join",
        r#"{"token":"OVL1-W-EXAMPLE","managers":["192.0.2.1:7790"],"advertise":["192.0.2.2"],"listen":null,"name":null,"labels":{}}"#,
    ),
    ("leave", r#"{"force":true}"#),
    ("unlock", r#"{"key":"OVLKEY-1-EXAMPLE"}"#),
    ("autolock", r#"{"enabled":true}"#),
    ("rotate_token", r#"{"expires_in_seconds":3600}"#),
    (
        "restore",
        r#"{"backup":"AAEC/w==","key":"OVLKEY-1-EXAMPLE","advertise":[],"listen":null}"#,
    ),
    (
        "create_network",
        r#"{"name":"my-net","vni":4097,"encrypted":true,"attachable":false,"replicate":false,"mtu":1400,"subnets":[{"subnet":"10.0.9.0/24","gateway":"10.0.9.1","ip_range":"10.0.9.0/25","block_prefix":28}],"rules":["node.zone==a"],"labels":{"tier":"web"}}"#,
    ),
    (
        "prune_networks",
        r#"{"older_than_seconds":86400,"labels":{"tier":"web"}}"#,
    ),
    (
        "attach",
        r#"{"network":"my-net","name":"web-1","netns":{"path":"/proc/7/ns/net"},"interface":"eth0","mac":"02:42:0a:00:09:02","addresses":["10.0.9.2"],"routes":[{"to":"10.1.0.0/16","via":"10.0.9.1"}],"labels":{},"managed":true}"#,
    ),
    (
        "update_node",
        r#"{"name":"n2","role":"manager","availability":"drain","labels_add":{"a":"1"},"labels_remove":["b"]}"#,
    ),
    ("policy", r#"{"interval_seconds":43200,"grace_seconds":30}"#),
];
