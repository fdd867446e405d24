//! What a flood costs: token buckets per source and overall, before anything is computed.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::time::Instant;

/// Sources told apart; beyond, all others share one bucket.
pub const MAX_SOURCES: usize = 4096;

/// So many per second, and so many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// Datagrams of one address. A busy node sends about 20 to all others together.
pub const PER_SOURCE: Rate = Rate {
    per_second: 200,
    burst: 400,
};
/// Datagrams of all addresses that a member's signed record names.
pub const FROM_MEMBERS: Rate = Rate {
    per_second: 4000,
    burst: 8000,
};
/// Datagrams of all other addresses, so that a flood of made-up ones leaves the members' share alone.
pub const FROM_OTHERS: Rate = Rate {
    per_second: 200,
    burst: 400,
};
/// What an unauthenticated header says of an epoch or a start, passed on to the caller.
pub const HINTS: Rate = Rate {
    per_second: 1,
    burst: 4,
};

/// Anti-entropy messages of one member that are answered: 50,000 endpoints take about 300.
pub const ANSWERS: Rate = Rate {
    per_second: 50,
    burst: 500,
};

#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    /// In units of 2⁻³² tokens.
    tokens: u64,
    filled: Instant,
}

impl TokenBucket {
    pub const fn full(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: (rate.burst as u64) << 32,
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.since(self.filled);
        self.filled = self.filled.max(now);
        let gained = (passed.as_nanos() << 32) / Duration::from_secs(1).as_nanos();
        let gained = gained.saturating_mul(u128::from(self.rate.per_second));
        let limit = u64::from(self.rate.burst) << 32;
        self.tokens = u64::try_from(gained)
            .unwrap_or(limit)
            .saturating_add(self.tokens)
            .min(limit);
    }

    /// Whether there was a token. A refusal takes none.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let rest = self.tokens.checked_sub(1 << 32);
        self.tokens = rest.unwrap_or(self.tokens);
        rest.is_some()
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens == u64::from(self.rate.burst) << 32
    }
}

/// Admits datagrams.
#[derive(Debug)]
pub struct Limiter {
    members: TokenBucket,
    others: TokenBucket,
    sources: BTreeMap<IpAddr, TokenBucket>,
    swept: Instant,
}

impl Limiter {
    pub const fn new(now: Instant) -> Self {
        Self {
            members: TokenBucket::full(FROM_MEMBERS, now),
            others: TokenBucket::full(FROM_OTHERS, now),
            sources: BTreeMap::new(),
            swept: now,
        }
    }

    /// Whether to look at a datagram. `is_member`: a member's signed record names the address.
    pub fn admit(&mut self, now: Instant, source: IpAddr, is_member: bool) -> bool {
        if self.sources.len() >= MAX_SOURCES
            && !self.sources.contains_key(&source)
            && now.since(self.swept) >= Duration::from_secs(1)
        {
            // Who has rested long enough is as good as new.
            self.sources.retain(|_, bucket| !bucket.is_full(now));
            self.swept = now;
        }
        if self.sources.len() < MAX_SOURCES || self.sources.contains_key(&source) {
            let bucket = self
                .sources
                .entry(source)
                .or_insert_with(|| TokenBucket::full(PER_SOURCE, now));
            if !bucket.take(now) {
                return false;
            }
        }
        let all = match is_member {
            true => &mut self.members,
            false => &mut self.others,
        };
        all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    fn admitted(limiter: &mut Limiter, now: Instant, source: u32, is_member: bool) -> bool {
        limiter.admit(now, IpAddr::from(source.to_be_bytes()), is_member)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate {
            per_second: 10,
            burst: 3,
        };
        let mut bucket = TokenBucket::full(rate, at(0));
        let taken = |bucket: &mut TokenBucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, at(0)), 3);
        assert_eq!(taken(&mut bucket, at(99)), 0);
        assert_eq!(taken(&mut bucket, at(101)), 1);
        assert_eq!(taken(&mut bucket, at(60_000)), 3);
        assert_eq!(taken(&mut bucket, at(0)), 0, "time never goes back");
        assert_eq!(taken(&mut bucket, Instant::from_start(Duration::MAX)), 3);
    }

    #[test]
    fn one_source_cannot_use_up_what_the_others_have() {
        let mut limiter = Limiter::new(at(0));
        let flood = (0..100_000)
            .filter(|_| admitted(&mut limiter, at(0), 1, true))
            .count();
        assert_eq!(flood, PER_SOURCE.burst as usize);
        assert!(admitted(&mut limiter, at(0), 2, true));
    }

    #[test]
    fn made_up_sources_leave_the_members_alone_and_take_no_memory() {
        let mut limiter = Limiter::new(at(0));
        let flood = (10..100_000)
            .filter(|source| admitted(&mut limiter, at(0), *source, false))
            .count();
        assert_eq!(flood, FROM_OTHERS.burst as usize);
        assert!(limiter.sources.len() <= MAX_SOURCES);
        assert!(admitted(&mut limiter, at(0), 1, true));
        assert!(admitted(&mut limiter, at(60_000), 100_001, false));
        assert!(limiter.sources.len() <= 1 + 1, "the rested are forgotten");
    }
}
