//! What the nodes say to each other over mutual TLS, and what a manager answers.
//!
//! Four services, each with its own messages ([`message`]: a version byte, a kind, postcard; no
//! kind is longer than its limit):
//!
//! | service | who calls | messages |
//! |---|---|---|
//! | [`join`] | anybody with a token | one request: a certificate and the first view for a token |
//! | [`renew`] | a member whose certificate has expired | one request: a new certificate |
//! | [`member`] | a member | views, [`secrets`] of epochs, acknowledgements, anti-entropy, proposals |
//! | [`raft`] | a manager, of a manager | how the managers agree on their log |
//!
//! [`handler`] decides: from a request, who sends it and the state of the managers' log follows an
//! answer, a command for the log, or what the caller has to do. It asks the log on every request:
//! what a TLS handshake believed of a peer may be an hour old. [`permission`] says who may propose
//! which command. [`found`] is what comes before all of it: a new cluster.

pub mod found;
pub mod handler;
pub mod join;
pub mod member;
pub mod message;
mod nested;
pub mod permission;
pub mod raft;
pub mod renew;
pub mod secrets;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
