//! The bodies of the fuzz targets: the file that `cargo test` runs too.

#[path = "../../../overlay-ebpf/tests/noise/targets.rs"]
pub mod targets;

#[path = "../../../overlay-agent/cluster/tests/rotation_noise/targets.rs"]
pub mod rotation;
