//! Deciding: from the desired data plane of a node to the steps that make the kernel equal to it.
//!
//! In the order in which a data plane passes through them: a [`file`] becomes a [`desired`] data
//! plane, which [`validate`] checks and [`compile`] turns into [`objects`]; [`admit`] takes out what
//! would use a key twice; [`diff`] orders the [`step`]s from what is to what shall be, which keep the
//! rules of [`guard`]; [`reconcile`] does them, by [`batch`]es. From then on [`drift`] tells what others
//! change. What grows with the cluster is [`copy_on_write`].

pub mod admit;
pub mod batch;
pub mod compile;
pub mod copy_on_write;
pub mod desired;
pub mod diff;
pub mod drift;
pub mod endpoint_name;
pub mod file;
pub mod guard;
pub mod key_id;
pub mod mtu;
pub mod objects;
pub mod problem;
pub mod reconcile;
pub mod step;
pub mod validate;

#[cfg(test)]
pub(crate) mod testing;
