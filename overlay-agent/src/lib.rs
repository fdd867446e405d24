//! The agent of the encrypted overlay network.
//!
//! Deciding and doing are apart. [`dataplane`] decides: from the [`dataplane::desired`] data plane of
//! a node it derives the kernel [`dataplane::objects`] that must exist, and from what exists the steps
//! that lead there; it does no I/O and reads no clock. [`kernel`] does: it observes and changes the
//! kernel over netlink, BPF, nftables and sysctl. [`daemon`] runs the cluster, and [`plan`] makes a desired
//! data plane of what it agreed on.

pub mod api;
pub mod bpf_object;
pub mod cli;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
pub mod kernel;
pub mod member;
pub mod memory;
pub mod pages;
pub mod plan;
pub mod state;

pub use overlay_cluster::secret;

/// The fuzz targets name this crate as the fuzzer does, which is outside of it.
#[cfg(test)]
extern crate self as overlay_agent;
