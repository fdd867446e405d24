//! The local API of the agent: what the `overlay` command, the CNI plugin and the Docker driver ask
//! it, as HTTP/1.1 and JSON over a Unix socket.
//!
//! Paths begin with `/v1`. Field names are stable: a release adds fields and removes none. A request
//! with a field that the agent does not know is refused, so that nothing asked for is left out in
//! silence; a response may have fields that the client does not know. Times are RFC 3339 text in UTC,
//! durations are seconds, networks and addresses are text.
//!
//! Every error has one form, [`ApiError`]: a code for programs, a message and a remedy for people.

pub mod client;
pub mod cluster;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod keys;
pub mod network;
pub mod node;
pub mod path;
mod refused;
pub mod secret;
pub mod status;
pub mod time;

pub use error::{ApiError, Code};
pub use secret::SecretText;
pub use time::Time;

/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// Members of this group may use the API, beside root.
pub const GROUP: &str = "overlay";

/// Where an agent takes connections of other nodes if nobody says otherwise.
pub use crate::daemon::config::DEFAULT_PORT;

/// Nothing to say: a request without parameters, a response without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}
