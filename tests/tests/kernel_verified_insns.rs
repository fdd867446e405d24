//! What the programs cost the verifier, kept in `verified_insns.json`: a change that makes one much
//! harder to verify is seen here, and not on the kernel of a user that refuses it.

use std::collections::BTreeMap;

use overlay_agent::kernel::bpf::{Bpf, Verified};
use overlay_tests::testrun::Harness;

/// Program → instructions, by kernel (`major.minor`).
type Budget = BTreeMap<String, BTreeMap<String, u64>>;

/// Growth that needs a look, per cent.
const ALLOWANCE: u64 = 20;

fn budget() -> Budget {
    serde_json::from_str(include_str!("../verified_insns.json")).expect("a table of numbers")
}

#[test]
fn no_program_has_become_much_harder_to_verify() {
    if Harness::missing().is_some() {
        return;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let kernel = release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");

    let found: BTreeMap<String, u64> = Bpf::verify()
        .expect("the object is read")
        .into_iter()
        .map(|Verified { program, outcome }| {
            let report = outcome.unwrap_or_else(|error| panic!("{program}: {error}"));
            let insns = report.verified_insns.expect("kernels from 5.16 count them");
            (program.to_owned(), u64::from(insns))
        })
        .collect();
    let shown = serde_json::to_string_pretty(&found).expect("a table of numbers");
    let Some(budget) = budget().remove(&kernel) else {
        println!("Linux {kernel} has no budget; it counts {shown}");
        return;
    };
    assert!(
        found.keys().eq(budget.keys()),
        "verified_insns.json names other programs for Linux {kernel}: it counts {shown}"
    );
    let over: Vec<String> = found
        .iter()
        .filter(|(program, insns)| **insns * 100 > budget[*program] * (100 + ALLOWANCE))
        .map(|(program, insns)| format!("{program}: {insns}, was {}", budget[program]))
        .collect();
    assert!(
        over.is_empty(),
        "more than {ALLOWANCE} % above verified_insns.json on Linux {kernel}: {}. Make it simpler, or \
         record what it is worth: {shown}",
        over.join("; ")
    );
}

#[test]
fn every_test_kernel_has_a_budget() {
    let budget = budget();
    for kernel in ["6.1", "6.12", "6.18"] {
        assert!(budget.contains_key(kernel), "{kernel}");
    }
}
