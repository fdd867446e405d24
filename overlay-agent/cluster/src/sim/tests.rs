use std::time::Duration;

use super::*;

#[test]
fn a_small_cluster_runs_through_everything() {
    for nodes in [3, 10] {
        let report = measure(nodes, 1, 0.01);
        println!("{}", table(&[report]));
    }
}
