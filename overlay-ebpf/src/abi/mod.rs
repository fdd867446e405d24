//! The map ABI.
