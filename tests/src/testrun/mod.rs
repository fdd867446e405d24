//! Tables for `BPF_PROG_TEST_RUN`: a packet and the maps in; verdict, bytes, mark, origin, counters
//! and events out.
//!
//! [`frames`] builds packets with an implementation that is not ours, [`world`] fills the maps,
//! [`row`] is one line of a table, [`harness`] runs it, [`place`] is the network namespace in which
//! the programs find their devices, routes and neighbours.

pub mod capture;
pub mod frames;
pub mod harness;
pub mod place;
pub mod row;
mod shim;
mod sys;
pub mod world;

pub use harness::Harness;
pub use row::{Row, row};
pub use world::World;

/// Runs a table on the running kernel, in a network namespace of its own, and reports every row
/// that does not hold.
pub fn run(rows: Vec<Row>) {
    place::inside(move || {
        let Some(mut harness) = Harness::ready() else {
            return;
        };
        let all = rows.len();
        let rows: Vec<Row> = rows
            .into_iter()
            .filter(|row| harness.supports_decap_l3() || !row.needs_decap_l3)
            .collect();
        let total = rows.len();
        if total < all {
            println!(
                "{} rows need BPF_F_ADJ_ROOM_DECAP_L3 (Linux 6.3)",
                all - total
            );
        }
        let failures: Vec<String> = rows
            .iter()
            .filter_map(|row| harness.check(row).err())
            .collect();
        assert!(
            failures.is_empty(),
            "{} of {total} rows do not hold:\n{}",
            failures.len(),
            failures.join("\n")
        );
        println!("{total} rows hold");
    });
}
