//! How fast queries are taken: a token bucket.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub struct Pace {
    /// Between two queries.
    every: Duration,
    /// How far the next may lie behind now.
    burst: Duration,
    /// When the next may be taken; `None` before the first.
    next: Option<Instant>,
}

impl Pace {
    /// `rate` queries a second, and `burst` at once after a silence.
    pub fn new(rate: u32, burst: u32) -> Self {
        let every = Duration::from_secs(1) / rate.max(1);
        Self {
            every,
            burst: every * burst.max(1),
            next: None,
        }
    }

    /// Takes a query, and returns when it may be taken.
    pub fn take(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.burst - self.every).unwrap_or(now);
        let taken = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(taken + self.every);
        taken.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_taken_at_once_and_the_rest_at_the_rate() {
        let mut pace = Pace::new(10, 3);
        let now = Instant::now() + Duration::from_secs(60);
        let mut taken = || (pace.take(now) - now).as_millis();
        assert_eq!([taken(), taken(), taken()], [0, 0, 0]);
        assert_eq!([taken(), taken()], [100, 200]);
    }

    #[test]
    fn silence_gives_back_a_burst_and_no_more() {
        let mut pace = Pace::new(10, 3);
        let now = Instant::now() + Duration::from_secs(60);
        for _ in 0..3 {
            pace.take(now);
        }
        let later = now + Duration::from_secs(3600);
        let delays = [(); 4].map(|()| (pace.take(later) - later).as_millis());
        assert_eq!(delays, [0, 0, 0, 100]);
    }
}
