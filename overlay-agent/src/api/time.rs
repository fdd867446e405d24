use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};
use overlay_cluster::time::Timestamp;
use serde::{Deserialize, Serialize, de};

/// A time of the cluster, in JSON as RFC 3339 text in UTC, to the second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Timestamp);

impl Time {
    /// By the clock of this host.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(Timestamp::from_millis(
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        ))
    }

    pub const fn from_secs(seconds: u64) -> Self {
        Self(Timestamp::from_secs(seconds))
    }

    /// How long ago it was at `now`; zero if it is still to come.
    pub const fn age(self, now: Self) -> Duration {
        now.0.since(self.0)
    }

    /// How long it is until then; zero if it is past.
    pub const fn until(self, now: Self) -> Duration {
        self.0.since(now.0)
    }
}

impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Self {
        Self(time)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(de::Error::custom)?;
        let seconds = u64::try_from(time.unix_timestamp())
            .map_err(|_| de::Error::custom("a time before 1970"))?;
        Ok(Self::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        let time = Time::from_secs(1_796_000_000);
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(json, r#""2026-11-30T00:53:20Z""#);
        assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), time);
        for bad in [r#""yesterday""#, r#""1969-01-01T00:00:00Z""#, "5"] {
            assert!(serde_json::from_str::<Time>(bad).is_err(), "{bad}");
        }
    }
}
