//! What a packet costs in instructions, kept in `counted_costs.json`: a change that makes a path longer
//! is seen here, and not by who runs it. Runs in a VM whose time counts instructions.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::bench::{Cipher, Competitor, Load, Rig, path_costs};

/// Growth that is refused, per cent.
const ALLOWANCE: u64 = 3;
/// The same on another build of the kernel than the one that the costs were taken on.
const ALLOWANCE_ELSEWHERE: u64 = 10;

/// Of which the shortest counts.
const ROUNDS: usize = 3;

/// Instructions by path.
type Costs = BTreeMap<String, u64>;

#[derive(serde::Deserialize)]
struct Kept {
    /// `uname -r`.
    kernel: String,
    costs: Costs,
}

#[test]
fn no_path_has_become_longer() -> Result<()> {
    if std::env::var_os("OVERLAY_COUNTED").is_none() {
        eprintln!("left out: `cargo xtask test` runs this where time counts instructions");
        return Ok(());
    }
    let kept: Kept = serde_json::from_str(include_str!("../counted_costs.json"))
        .context("read counted_costs.json")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.trim();
    let allowance = if kept.kernel == kernel {
        ALLOWANCE
    } else {
        println!(
            "taken on {}, this is {kernel}: {ALLOWANCE_ELSEWHERE} %",
            kept.kernel
        );
        ALLOWANCE_ELSEWHERE
    };
    let found = costs()?;
    let shown = serde_json::to_string_pretty(&found)?;
    println!("{kernel}: {shown}");
    ensure!(
        found.keys().eq(kept.costs.keys()),
        "counted_costs.json has other paths: {kernel} counts {shown}"
    );
    let over: Vec<String> = found
        .iter()
        .filter(|(path, cost)| **cost * 100 > kept.costs[*path] * (100 + allowance))
        .map(|(path, cost)| format!("{path}: {cost}, was {}", kept.costs[path]))
        .collect();
    ensure!(
        over.is_empty(),
        "more than {allowance} % above counted_costs.json: {}. Make it shorter, or record what it is \
         worth: {shown}",
        over.join("; ")
    );
    Ok(())
}

fn costs() -> Result<Costs> {
    let mut costs: Costs = path_costs(51)?
        .into_iter()
        .map(|(path, cost)| (path, u64::from(cost)))
        .collect();
    for cipher in [Cipher::Plain, Cipher::Null] {
        let rig = Rig::build(Competitor::Ours, cipher)?;
        rig.passes_traffic()?;
        for load in [Load::Udp64, Load::Udp1400, Load::UdpRoundTrip] {
            // What else the guest has to do now and then only adds to it.
            let mut cost = u64::MAX;
            for _ in 0..ROUNDS {
                let measured = load.run(&rig.ends()?, Duration::from_millis(50))?;
                // A nanosecond is an instruction.
                cost = cost.min((1e9 / measured.value) as u64);
            }
            costs.insert(format!("{} {}", load.name(), cipher.name()), cost);
        }
    }
    Ok(costs)
}
