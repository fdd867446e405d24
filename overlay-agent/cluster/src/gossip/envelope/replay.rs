//! The replay window: which counters of one sender's start were seen (RFC 6479).

const WORDS: usize = 17;

/// Remembers the newest counter and the 1,024 or more before it. An older one counts as seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// One more than the newest counter; zero before the first.
    next: u64,
    /// A ring of words; the newest may be partly filled, so one word is not counted in [`Self::SPAN`].
    seen: [u64; WORDS],
}

impl Window {
    /// Counters below the newest that are told apart, at least.
    pub const SPAN: u64 = 64 * (WORDS as u64 - 1);

    /// Whether a datagram of this counter may still be opened.
    pub fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let oldest_word = ((self.next - 1) / 64).saturating_sub(WORDS as u64 - 1);
        if counter / 64 < oldest_word {
            return false;
        }
        self.seen[word(counter)] & bit(counter) == 0
    }

    /// Called once the tag was right: what is not authentic moves no window.
    pub fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            // The words between hold counters that fell out of the window.
            let newest = match self.next {
                0 => None,
                next => Some((next - 1) / 64),
            };
            let passed = match newest {
                None => WORDS as u64,
                Some(newest) => (counter / 64 - newest).min(WORDS as u64),
            };
            for back in 0..passed {
                self.seen[((counter / 64).wrapping_sub(back) % WORDS as u64) as usize] = 0;
            }
            self.next = counter.saturating_add(1);
        }
        self.seen[word(counter)] |= bit(counter);
    }
}

const _: () = assert!(Window::SPAN >= 1024);

const fn word(counter: u64) -> usize {
    ((counter / 64) % WORDS as u64) as usize
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_counter_is_new_once() {
        let mut window = Window::default();
        for counter in 0..5000 {
            assert!(window.is_new(counter));
            window.mark(counter);
            assert!(!window.is_new(counter));
        }
        assert!(!window.is_new(0), "older than the window counts as seen");
    }

    #[test]
    fn late_datagrams_within_the_span_are_still_new() {
        let mut window = Window::default();
        window.mark(10_000);
        assert!(window.is_new(10_000 - Window::SPAN));
        assert!(!window.is_new(10_000 - Window::SPAN - 64));
    }

    #[test]
    fn the_last_counter_leaves_a_window_that_still_refuses() {
        let mut window = Window::default();
        window.mark(u64::MAX - 1);
        assert!(!window.is_new(u64::MAX - 1));
        assert!(window.is_new(u64::MAX - 2));
    }

    proptest! {
        #[test]
        fn nothing_is_new_twice_and_nothing_recent_is_lost(
            steps in prop::collection::vec((0u64..3000, any::<bool>()), 1..400)
        ) {
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            let mut newest = 0;
            for (step, forward) in steps {
                let counter = if forward { newest + step } else { newest.saturating_sub(step) };
                let new = window.is_new(counter);
                if seen.contains(&counter) {
                    prop_assert!(!new);
                } else if seen.is_empty() || counter + Window::SPAN >= newest {
                    prop_assert!(new);
                }
                if new {
                    window.mark(counter);
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }
}
