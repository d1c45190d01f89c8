//! A part of the state that most steps leave as it is: shared between states, copied when it is first changed, its hash taken once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(crate) struct Part<T> {
    value: Arc<T>,
    /// Of `value`; of an earlier one until [`Part::seal`].
    hash: u64,
}

impl<T: Hash + Clone> Part<T> {
    pub(crate) fn new(value: T) -> Self {
        let mut part = Self { value: Arc::new(value), hash: 0 };
        part.seal();
        part
    }

    pub(crate) fn get(&self) -> &T {
        &self.value
    }

    /// To change it; [`Part::seal`] it afterwards.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.value)
    }

    pub(crate) fn seal(&mut self) {
        let mut hasher = DefaultHasher::new();
        self.value.hash(&mut hasher);
        self.hash = hasher.finish();
    }

    /// Whether this is the very value that `other` has, unchanged.
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value)
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<T: PartialEq> PartialEq for Part<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value) || (self.hash == other.hash && self.value == other.value)
    }
}
