//! The bodies of the fuzz targets: the files that `cargo test` runs too.

#[path = "../../../overlay-ebpf/tests/noise/targets.rs"]
pub mod targets;

#[path = "../../../overlay-agent/cluster/tests/control_noise/targets.rs"]
pub mod control;

#[path = "../../tests/dns_noise/targets.rs"]
pub mod dns;

#[path = "../../../overlay-agent/cluster/tests/gossip_noise/targets.rs"]
pub mod gossip;

#[path = "../../../overlay-agent/cluster/tests/identity_noise/targets.rs"]
pub mod identity;

#[path = "../../../overlay-agent/cluster/tests/log_noise/targets.rs"]
pub mod log;

#[path = "../../../overlay-agent/cluster/tests/rotation_noise/targets.rs"]
pub mod rotation;

#[path = "../../../overlay-agent/src/daemon/api/noise/targets.rs"]
pub mod api;
