//! Time as it is passed in. Nothing in this crate reads a clock.

use std::{fmt, time::Duration};

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};
use serde::{Deserialize, Serialize};

/// Wall-clock time in milliseconds since the Unix epoch: what certificates, tokens and the
/// managers' log speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Ends at the largest time instead of wrapping.
    pub fn saturating_add(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    pub fn saturating_sub(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// How long ago `earlier` was; zero if it is still to come.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// In UTC, to the second: `2026-11-29T19:08:00Z` (RFC 3339 section 5.6).
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = i64::try_from(self.as_secs())
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .and_then(|time| time.format(&Rfc3339).ok());
        f.write_str(text.as_deref().unwrap_or("a time after the year 9999"))
    }
}

/// Monotonic time of one process, since a start of its own choice: what timeouts speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    pub const fn from_start(duration: Duration) -> Self {
        Self(duration)
    }

    pub const fn since_start(self) -> Duration {
        self.0
    }

    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The first time from this one on that is a whole number of steps after the start: what waits for the same
    /// step is done together. Without a step, and near the end of time, it is this one.
    pub fn at_whole(self, step: Duration) -> Self {
        let whole = self
            .0
            .as_nanos()
            .checked_next_multiple_of(step.as_nanos())
            .and_then(|nanos| u64::try_from(nanos).ok());
        whole.map_or(self, |nanos| Self(Duration::from_nanos(nanos)))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_one_step_are_one_time() {
        let at = |millis| Instant::from_start(Duration::from_millis(millis));
        let step = Duration::from_secs(2);
        assert_eq!(at(0).at_whole(step), at(0));
        assert_eq!(at(1).at_whole(step), at(2000));
        assert_eq!(at(1999).at_whole(step), at(2000));
        assert_eq!(at(2000).at_whole(step), at(2000));
        assert_eq!(at(2001).at_whole(Duration::ZERO), at(2001));
    }

    #[test]
    fn times_are_written_as_dates_as_far_as_there_are_dates() {
        let text = |seconds| Timestamp::from_secs(seconds).to_string();
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(text(1_795_979_280), "2026-11-29T19:08:00Z");
        assert_eq!(text(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(text(253_402_300_800), "a time after the year 9999");
        assert_eq!(text(u64::MAX), "a time after the year 9999");
    }

    #[test]
    fn time_neither_wraps_nor_goes_below_its_start() {
        let last = Timestamp::from_millis(u64::MAX);
        assert_eq!(last.saturating_add(Duration::from_secs(1)), last);
        assert_eq!(Timestamp::from_secs(u64::MAX), last);
        let first = Timestamp::from_millis(0);
        assert_eq!(first.saturating_sub(Duration::MAX), first);
        assert_eq!(first.since(last), Duration::ZERO);
        let end = Instant::from_start(Duration::MAX);
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(end.at_whole(Duration::from_secs(7)), end);
    }
}
