//! Deciding: from the desired data plane of a node to the steps that make the kernel equal to it.

pub mod desired;
pub mod endpoint_name;
pub mod objects;
