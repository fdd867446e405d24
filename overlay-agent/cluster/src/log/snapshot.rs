//! The state as bytes: for a manager that is far behind, and for backups.

use zeroize::Zeroizing;

use super::{
    state::State,
    wire::{self, DecodeError},
};

/// The version that [`State::encode`] writes.
pub const VERSION: u8 = 1;

/// Bytes of a snapshot at the most. A state at all its bounds has about 170 MiB.
pub const MAX_LEN: usize = 256 * 1024 * 1024;

impl State {
    /// The whole state, secrets included: [`VERSION`] and postcard. Equal states give equal bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        wire::encode(VERSION, self)
    }

    /// The state in `bytes`, if it is one that commands can give.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "snapshot";
        let state: Self = wire::decode(what, VERSION, MAX_LEN, bytes)?;
        match state.fault() {
            None => Ok(state),
            Some(fault) => Err(DecodeError::Unsound { what, fault }),
        }
    }
}
