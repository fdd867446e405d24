//! The key schedule: what a pair of nodes derives, and from what.
//!
//! - [`epoch_secrets`]: two secrets per epoch, made by a manager, pulled by every node over TLS.
//! - [`ephemeral`]: an X25519 key per node, epoch and agent start, never written anywhere.
//! - [`pair`]: both together, and the names of all that took part, give the key of one ESP SA.

pub mod ephemeral;
pub mod epoch_secrets;
pub mod pair;

pub use ephemeral::{Ephemeral, EphemeralRecord, PublicKey, RecordError};
pub use epoch_secrets::{EpochSecrets, WrongSecrets};
pub use pair::{PairError, PairSecret, SaName, Side};
