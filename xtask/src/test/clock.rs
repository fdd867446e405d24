//! Where the time of a test run went.

use std::fmt;
use std::time::{Duration, Instant};

/// Measures phases that follow each other.
pub struct Clock {
    since: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            since: Instant::now(),
            laps: Vec::new(),
        }
    }

    /// Ends a phase and gives it its name.
    pub fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.laps.push((name, now - self.since));
        self.since = now;
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: Duration = self.laps.iter().map(|(_, took)| *took).sum();
        write!(f, "time: {} s in all", total.as_secs())?;
        for (index, (name, took)) in self.laps.iter().enumerate() {
            let mark = if index == 0 { ':' } else { ',' };
            write!(f, "{mark} {name} {} s", took.as_secs())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_their_sum_are_one_line() {
        let lap = |name, seconds| (name, Duration::from_secs(seconds));
        let clock = Clock {
            since: Instant::now(),
            laps: vec![lap("building", 30), lap("VMs", 600)],
        };
        assert_eq!(
            clock.to_string(),
            "time: 630 s in all: building 30 s, VMs 600 s"
        );
    }
}
