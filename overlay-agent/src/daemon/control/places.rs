//! Places for connections: so many in all, and so many for each source or node.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Places, by whom they are taken.
#[derive(Debug)]
pub struct Places<K> {
    all: usize,
    each: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    by: HashMap<K, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// None for anybody.
    #[error("all {0} places for connections are taken")]
    All(usize),
    /// None for this one.
    #[error("all {0} places for connections of one peer are taken")]
    Each(usize),
}

/// One place. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    places: Arc<Places<K>>,
    key: K,
}

impl<K: Eq + Hash + Copy> Places<K> {
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        let taken = Taken {
            all: 0,
            by: HashMap::new(),
        };
        Arc::new(Self {
            all,
            each,
            taken: Mutex::new(taken),
        })
    }

    pub fn take(self: &Arc<Self>, key: K) -> Result<Place<K>, NoPlace> {
        let mut taken = self.lock();
        if taken.all >= self.all {
            return Err(NoPlace::All(self.all));
        }
        if taken.by.get(&key).copied().unwrap_or(0) >= self.each {
            return Err(NoPlace::Each(self.each));
        }
        *taken.by.entry(key).or_insert(0) += 1;
        taken.all += 1;
        Ok(Place {
            places: self.clone(),
            key,
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().all
    }
}

impl<K> Places<K> {
    fn lock(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(count) = taken.by.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.by.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_for_each_and_for_all_and_come_back() {
        let places = Places::new(3, 2);
        let first = places.take('a').expect("free");
        let _second = places.take('a').expect("free");
        assert_eq!(places.take('a').err(), Some(NoPlace::Each(2)));
        let _third = places.take('b').expect("free");
        assert_eq!(places.take('c').err(), Some(NoPlace::All(3)));
        drop(first);
        assert_eq!(places.taken(), 2);
        let _fourth = places.take('c').expect("free");
        assert!(places.lock().by.len() == 3);
    }
}
