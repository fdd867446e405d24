//! What several times come to.

use std::time::Duration;

use serde_json::{Value, json};

/// The columns of a row: median, 99 % and longest, in microseconds.
pub fn columns(times: &mut [Duration]) -> [(&'static str, Value); 4] {
    times.sort_unstable();
    let at = |share: usize| {
        let last = times.len().saturating_sub(1);
        let time = times.get(last * share / 100).copied();
        json!(time.unwrap_or_default().as_micros() as u64)
    };
    [
        ("times", json!(times.len())),
        ("p50_us", at(50)),
        ("p99_us", at(99)),
        ("max_us", at(100)),
    ]
}
