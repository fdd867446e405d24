//! One value in many places: what grows with the cluster is compared, planned and kept without copies.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// A value whose clones are the same one until one of them is changed.
#[derive(Default)]
pub struct CopyOnWrite<T>(Arc<T>);

impl<T> CopyOnWrite<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// Whether the two are one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for CopyOnWrite<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for CopyOnWrite<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Makes it a copy of its own, unless it is the only one.
impl<T: Clone> DerefMut for CopyOnWrite<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for CopyOnWrite<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.0 == other.0
    }
}

impl<T: Eq> Eq for CopyOnWrite<T> {}

impl<T: fmt::Debug> fmt::Debug for CopyOnWrite<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> From<T> for CopyOnWrite<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<A, T: FromIterator<A>> FromIterator<A> for CopyOnWrite<T> {
    fn from_iter<I: IntoIterator<Item = A>>(all: I) -> Self {
        Self::new(all.into_iter().collect())
    }
}

impl<'a, T> IntoIterator for &'a CopyOnWrite<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_one_until_it_changes() {
        let mut one: CopyOnWrite<Vec<u8>> = [1, 2].into_iter().collect();
        let other = one.clone();
        assert!(one.is(&other));
        one.push(3);
        assert!(!one.is(&other));
        assert_eq!((&*one, &*other), (&vec![1, 2, 3], &vec![1, 2]));
        assert_ne!(one, other);
        one.pop();
        assert_eq!(one, other);
        // The only one is changed in place.
        let place = one.as_ptr();
        one[0] = 7;
        assert_eq!(one.as_ptr(), place);
    }
}
