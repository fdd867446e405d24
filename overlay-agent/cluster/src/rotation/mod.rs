//! Rotation of keys: the machine of one node, and the managers' schedule.
//!
//! # One node
//!
//! [`Rotation`] turns what the managers' log says, what peers say and what the kernel reports into
//! the SAs that each peer should have. For every ordered pair of nodes and every live epoch:
//!
//! 1. Both pull the epoch's secrets, make an ephemeral key each and publish it ([`Action::Publish`]).
//! 2. The receiver chooses a slot and a session number, derives the keys and installs inbound SAs.
//! 3. Once its kernel has them it says so ([`Acknowledgement`]): the first that the sender hears of the
//!    slot is that the receiver is ready.
//! 4. The sender installs outbound SAs with the same keys, and sends in them when the log makes the
//!    epoch active: one write of the peer's map entry.
//! 5. When the log retires the old epoch, the sender removes its outbound SAs after [`Settings::drain`];
//!    the receiver removes its inbound ones when the sender has said so, or after
//!    [`Settings::linger`].
//!
//! A new start of either agent (generation) repeats steps 1 to 4 within the epoch; the old SAs go when
//! they are replaced. Keys leave the machine once, in one [`Action::Apply`], and are forgotten with
//! it.
//!
//! | guarantee | by |
//! |---|---|
//! | receive before send | the slot is named only in the acknowledgement |
//! | no outbound key twice | `keys::pair`, "Session"; each key handed out once |
//! | a slot is not reused while anyone knows it | the receiver passes over what either end holds; a sender removes first |
//! | bounded SAs | four slots per direction and peer, those being removed among them |
//! | no secret outlives its use | an epoch's secrets go when it begins to retire |
//!
//! # The managers
//!
//! [`schedule`] decides from the log, the clock and the nodes' [`Digest`]s when an epoch is staged,
//! activated and retired. [`status`] puts the same into words for an operator.

mod acknowledgement;
mod alarm;
mod alarms;
mod digest;
mod epochs;
mod log_view;
mod machine;
mod peer;
mod sa;
pub mod schedule;
mod settings;
mod slots;
pub mod status;

pub use acknowledgement::{
    Acknowledgement, AcknowledgementError, EpochState, Refused, Seen, Staged,
};
pub use alarm::Alarm;
pub use digest::{Digest, DigestError, Lag};
pub use log_view::{LogView, Member, Role};
pub use machine::{Action, Identity, Rotation, RotationError, Usage};
pub use sa::{AdoptedSa, Direction, KernelEvent, Keying, PeerSas, Sa, SlotKey, Transmit};
pub use settings::Settings;
