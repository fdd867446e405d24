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

/// What libtest wrote, to its end or so far. With `--test-threads=1` it names a test before it runs
/// it: `test NAME ... `, and then the verdict.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub counts: Counts,
    /// Names of failed tests.
    pub failed: Vec<String>,
    /// The test that has no verdict yet.
    pub running: Option<String>,
    /// Tests of the binary that runs, and how many of them have a verdict.
    announced: u64,
    done: u64,
}

impl Log {
    pub fn parse(output: &str) -> Self {
        let mut log = Self::default();
        // What single lines say, until a closing line says it.
        let mut open = Counts::default();
        for line in output.lines() {
            if let Some(closed) = Counts::parse(line) {
                log.counts += closed;
                open = Counts::default();
                log.running = None;
            } else if let Some(announced) = announced(line) {
                log.announced = announced;
                log.done = 0;
            } else if let Some((name, verdict)) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.split_once(" ... "))
            {
                log.running = Some(name.to_owned());
                log.judge(verdict, &mut open);
            } else {
                // What the test's children wrote may stand between.
                log.judge(line, &mut open);
            }
        }
        log.counts += open;
        log
    }

    /// Takes the running test's verdict, if it is one.
    fn judge(&mut self, verdict: &str, counts: &mut Counts) {
        let word = verdict.split(',').next().unwrap_or_default();
        let count = match word {
            "ok" => &mut counts.passed,
            "FAILED" => &mut counts.failed,
            "ignored" => &mut counts.ignored,
            _ => return,
        };
        let Some(name) = self.running.take() else {
            return;
        };
        *count += 1;
        self.done += 1;
        if word == "FAILED" {
            self.failed.push(name);
        }
    }

    /// Where it is, for somebody who waits.
    pub fn progress(&self) -> String {
        let Self {
            announced, done, ..
        } = self;
        match &self.running {
            Some(test) => format!("at {test}, {done} of {announced} tests done"),
            None if *announced == 0 => "starting".to_owned(),
            None => format!("{done} of {announced} tests done"),
        }
    }
}

/// Reads `running 3 tests`.
fn announced(line: &str) -> Option<u64> {
    let (count, noun) = line.strip_prefix("running ")?.split_once(' ')?;
    noun.starts_with("test").then(|| count.parse().ok())?
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
        let Log {
            mut counts,
            failed: mut failures,
            running,
            announced,
            done,
        } = Log::parse(output);
        let succeeded = matches!(status, Ok(0));
        let reason = match status {
            Err(error) => Some(format!("{error:#}")),
            Ok(status) if status != 0 && (failures.is_empty() || running.is_some()) => {
                Some(format!("ended with status {status}"))
            }
            Ok(_) => None,
        };
        match (running, reason) {
            (Some(test), Some(reason)) => {
                counts.failed += 1;
                let after = announced.saturating_sub(done + 1);
                failures.push(format!(
                    "{test} was running, and {after} more were to run: {reason}"
                ));
            }
            (None, Some(reason)) => failures.push(reason),
            (_, None) => {}
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
    fn what_runs_and_what_is_done_is_known_at_any_time() {
        let log = Log::parse("running 3 tests\ntest a ... ok\ntest slow ... said by a child\n");
        assert_eq!(log.running.as_deref(), Some("slow"));
        assert_eq!(log.counts.passed, 1);
        assert_eq!(log.progress(), "at slow, 1 of 3 tests done");
        assert_eq!(Log::parse("").progress(), "starting");
        let log =
            Log::parse("running 2 tests\ntest slow ... said\nFAILED\ntest b ... ignored, x\n");
        assert_eq!(
            (log.running, &*log.failed),
            (None, &["slow".to_owned()][..])
        );
        assert_eq!((log.counts.failed, log.counts.ignored), (1, 1));
    }

    #[test]
    fn a_dead_guest_is_a_failure_with_its_reason() {
        let dead = outcome("", Err(anyhow::anyhow!("the guest died")));
        assert_eq!(dead.verdict(true), "FAILED");
        assert_eq!(dead.failures, ["the guest died"]);
    }

    #[test]
    fn a_killed_test_is_named_and_those_before_it_count() {
        let output = "running 4 tests\ntest a ... ok\ntest b ... FAILED\ntest hangs ... ";
        for status in [Ok(124), Err(anyhow::anyhow!("not done after 1200 s"))] {
            let killed = outcome(output, status);
            assert_eq!((killed.counts.passed, killed.counts.failed), (1, 2));
            assert_eq!(killed.failures[0], "b");
            let hung = &killed.failures[1];
            assert!(
                hung.starts_with("hangs was running, and 1 more were to run: "),
                "{hung}"
            );
        }
    }

    #[test]
    fn no_tests_are_fine_only_under_a_filter() {
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        assert_eq!(outcome(none, Ok(0)).verdict(false), "NO TESTS");
        assert_eq!(outcome(none, Ok(0)).verdict(true), "ok");
    }
}
