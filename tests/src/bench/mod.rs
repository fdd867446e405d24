//! What `cargo xtask bench` measures: the same load over every competitor, one after the other, in
//! one process on one kernel.
//!
//! A [`Rig`] is a pair of hosts on a cable of their own, all cables alike, with a container on each;
//! a [`Load`] runs between the two containers. Every [`Sample`] is a line of JSON on standard output;
//! what they mean together is the business of xtask.

mod cipher;
mod competitor;
mod control;
mod load;
mod programs;
mod rig;
mod sample;
mod traffic;

pub use self::{
    cipher::Cipher,
    competitor::Competitor,
    control::{Control, control},
    load::{Ends, Load, Measured},
    programs::{Growth, Programs, growth, path_costs, programs},
    rig::Rig,
    sample::Sample,
    traffic::{Traffic, traffic},
};
