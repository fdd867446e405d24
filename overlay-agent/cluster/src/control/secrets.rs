//! Secrets of epochs, on their way from a manager to a member.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    id::EpochName,
    keys::{EpochSecrets, WrongSecrets},
    rotation::LogView,
};

/// Epochs that are asked for at a time: as many as are live.
pub const MAX_EPOCHS: usize = LogView::EPOCHS;

/// Secrets by epoch. They are zeroized when dropped, and not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handout(pub(super) Vec<(EpochName, EpochSecrets)>);

/// What was handed out is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandoutError {
    /// Nobody asked for it.
    #[error("a manager hands out secrets of epoch {0:?}, which were not asked for: ask another")]
    Unasked(EpochName),
    /// Twice the same epoch.
    #[error("a manager hands out secrets of epoch {0:?} twice: ask another")]
    Twice(EpochName),
    /// The name of the epoch is the hash of other secrets.
    #[error(transparent)]
    Wrong(#[from] WrongSecrets),
}

impl Handout {
    /// The secrets, if they are those of the epochs `asked` for. An epoch that has retired since is
    /// missing.
    pub fn open(self, asked: &[EpochName]) -> Result<Vec<(EpochName, EpochSecrets)>, HandoutError> {
        for (i, (name, secrets)) in self.0.iter().enumerate() {
            if !asked.contains(name) {
                return Err(HandoutError::Unasked(*name));
            }
            if self.0[..i].iter().any(|(earlier, _)| earlier == name) {
                return Err(HandoutError::Twice(*name));
            }
            secrets.check(*name)?;
        }
        Ok(self.0)
    }

    /// Which epochs are in it.
    pub fn names(&self) -> impl Iterator<Item = EpochName> {
        self.0.iter().map(|(name, _)| *name)
    }
}

impl fmt::Debug for Handout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handout(…)")
    }
}
