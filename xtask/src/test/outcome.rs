//! What a test run said.

use std::ops::AddAssign;
use std::time::Duration;

use anyhow::Result;

/// Sums of libtest's closing lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl Counts {
    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn parse(line: &str) -> Option<Self> {
        let (_verdict, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let number = |what: &str| {
            rest.split("; ")
                .find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            ignored: number("ignored")?,
        })
    }
}

/// One run of a test binary, or of all host tests.
#[derive(Debug)]
pub struct Outcome {
    pub name: String,
    pub place: String,
    pub counts: Counts,
    /// Names of failed tests, or why the run itself failed.
    pub failures: Vec<String>,
    /// Whether the run ended with success.
    succeeded: bool,
    pub took: Duration,
    /// Whether having run no test is fine.
    pub may_be_empty: bool,
}

impl Outcome {
    /// Judges by libtest's lines and by the exit status: each alone can lie.
    pub fn of(name: &str, place: &str, output: &str, status: Result<i32>, took: Duration) -> Self {
        let mut counts = Counts::default();
        let mut failures = Vec::new();
        for line in output.lines() {
            if let Some(more) = Counts::parse(line) {
                counts += more;
            } else if let Some(test) = line
                .strip_prefix("test ")
                .and_then(|line| line.strip_suffix(" ... FAILED"))
            {
                failures.push(test.to_owned());
            }
        }
        let succeeded = match &status {
            Ok(status) => *status == 0,
            Err(_) => false,
        };
        match status {
            Err(error) => failures.push(format!("{error:#}")),
            Ok(status) if status != 0 && failures.is_empty() => {
                failures.push(format!("ended with status {status}"));
            }
            Ok(_) => {}
        }
        Self {
            name: name.to_owned(),
            place: place.to_owned(),
            counts,
            failures,
            succeeded,
            took,
            may_be_empty: false,
        }
    }

    /// `ok`, or what is wrong. A run of no test is wrong unless a filter
    /// explains it.
    pub fn verdict(&self, filtered: bool) -> &'static str {
        let Counts {
            passed,
            failed,
            ignored,
        } = self.counts;
        if !self.succeeded || failed > 0 {
            "FAILED"
        } else if passed + failed + ignored == 0 && !(filtered || self.may_be_empty) {
            "NO TESTS"
        } else {
            "ok"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test arp::answers ... ok
test arp::probe ... FAILED
test slow ... ignored

failures:
    arp::probe

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s
";

    fn outcome(output: &str, status: Result<i32>) -> Outcome {
        Outcome::of("kernel_x", "here", output, status, Duration::ZERO)
    }

    #[test]
    fn closing_lines_are_summed_and_failures_named() {
        let outcome = outcome(&format!("{OUTPUT}{OUTPUT}"), Ok(101));
        let counts = Counts {
            passed: 2,
            failed: 2,
            ignored: 2,
        };
        assert_eq!(outcome.counts, counts);
        assert_eq!(outcome.failures, ["arp::probe", "arp::probe"]);
        assert_eq!(outcome.verdict(false), "FAILED");
    }

    #[test]
    fn a_crash_after_good_tests_is_a_failure() {
        let good = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(outcome(good, Ok(0)).verdict(false), "ok");
        let crashed = outcome(good, Ok(139));
        assert_eq!(crashed.verdict(false), "FAILED");
        assert_eq!(crashed.failures, ["ended with status 139"]);
    }

    #[test]
    fn a_dead_guest_is_a_failure_with_its_reason() {
        let dead = outcome("", Err(anyhow::anyhow!("the guest died")));
        assert_eq!(dead.verdict(true), "FAILED");
        assert_eq!(dead.failures, ["the guest died"]);
    }

    #[test]
    fn no_tests_are_fine_only_under_a_filter() {
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        assert_eq!(outcome(none, Ok(0)).verdict(false), "NO TESTS");
        assert_eq!(outcome(none, Ok(0)).verdict(true), "ok");
    }
}
