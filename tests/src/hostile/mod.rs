//! What a careless or hostile administrator does to a running node, and the watch over the wire
//! meanwhile.

pub mod barriers;
pub mod damage;
pub mod maps;
mod pressure;
mod siege;

pub use self::{
    pressure::{MARKER, Pressure},
    siege::{Siege, VNI, pair, stays_encrypted},
};
