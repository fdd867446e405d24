//! What the kernel and the agent share, and the packet code that both run.
//!
//! - [`abi`]: the map ABI. Every key and value that crosses the BPF boundary.
//! - [`packet`]: pure packet code: parsing, header construction, checksums, flow hash.
//!
//! The crate is `no_std` and does no I/O; all of it is tested on the host.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod packet;
