//! Who a node is, and who says so.
//!
//! A node is its Ed25519 key ([`node_key`]); its [`NodeId`](crate::id::NodeId) is the hash of that
//! key. It joins with a [`token`] that a manager finds in its log, sends a request ([`csr`]), and gets a certificate from the cluster's [`authority`]; from then on it shows the
//! certificate, which every node checks ([`certificate`]) against the roots that it trusts
//! ([`trust`]) and against the roster ([`revocation`]), and which it renews in time ([`renewal`]).
//! What a manager keeps on disk is sealed ([`seal`]) under a key that is itself wrapped
//! ([`unlock`]); a [`backup`] of it is sealed under a key of its own.

pub mod authority;
pub mod backup;
pub mod certificate;
pub mod csr;
mod der;
pub mod key_text;
pub mod node_key;
pub mod pem;
pub mod renewal;
pub mod revocation;
pub mod role;
pub mod seal;
#[cfg(test)]
mod testing;
mod text;
pub mod token;
pub mod trust;
pub mod unlock;
mod x509;

pub use role::Role;
