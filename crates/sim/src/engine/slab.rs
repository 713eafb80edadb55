//! Things that come and go, in one block of memory.

use std::fmt;
use std::marker::PhantomData;

/// Names one thing in a [`Slab`] for its lifetime; what comes later to the same place has another name.
pub(crate) struct Id<T> {
    index: u32,
    generation: u32,
    what: PhantomData<fn() -> T>,
}

impl<T> Id<T> {
    /// Names nothing.
    pub(crate) const NONE: Self = Self { index: u32::MAX, generation: 0, what: PhantomData };
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}

/// Values by name. Places are used again, so that it grows to what lives at once and then allocates no more.
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> Id<T> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, value: None });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.value = Some(value);
        Id { index, generation: place.generation, what: PhantomData }
    }

    pub(crate) fn get(&self, id: Id<T>) -> Option<&T> {
        let place = self.places.get(id.index as usize)?;
        if place.generation == id.generation { place.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation == id.generation { place.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, id: Id<T>) -> Option<T> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(value)
    }

    /// Those that fit, in the order of their places.
    pub(crate) fn find(&self, fits: impl Fn(&T) -> bool) -> Vec<Id<T>> {
        let named = (0u32..).zip(&self.places).filter(|(_, place)| place.value.as_ref().is_some_and(&fits));
        named.map(|(index, place)| Id { index, generation: place.generation, what: PhantomData }).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_name_does_not_find_what_came_later() {
        let mut slab = Slab::new();
        let first = slab.insert(1);
        assert_eq!(slab.remove(first), Some(1));
        let second = slab.insert(2);
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&2)));
        assert_eq!(slab.remove(first), None);
        assert!(slab.get(Id::NONE).is_none() && !slab.is_empty());
        assert_eq!(slab.places.len(), 1);
    }
}
