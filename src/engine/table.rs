//! Values by their identities: found at once, gone over in the order of the identities.
//!
//! Invariant: the order and the way to find one tell of the same values; where a value lies is told to nobody.
//! Not here: what the values are (`state`, `domains`).

use core::cell::Cell;
use core::fmt;
use core::hash::Hash;
use std::collections::BTreeMap;

use journal_format::hash::IdMap;

/// A map that is looked into with each record, several times.
#[derive(Clone)]
pub(crate) struct Table<K, V> {
    order: BTreeMap<K, usize>,
    places: IdMap<K, usize>,
    values: Vec<Option<(K, V)>>,
    free: Vec<usize>,
    /// Where the one lies that was found last: each record is asked about several times.
    found: Cell<usize>,
}

impl<K: Copy + Ord + Hash, V> Table<K, V> {
    #[inline]
    fn place(&self, key: &K) -> Option<usize> {
        let place = self.found.get();
        if let Some(Some((known, _))) = self.values.get(place)
            && known == key
        {
            return Some(place);
        }
        let place = *self.places.get(key)?;
        self.found.set(place);
        Some(place)
    }

    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (_, value) = self.values.get(self.place(key)?)?.as_ref()?;
        Some(value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.place(key)?;
        let (_, value) = self.values.get_mut(place)?.as_mut()?;
        Some(value)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Puts a value in place of the one of that identity, which is given back.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(&key) {
            return Some(core::mem::replace(known, value));
        }
        let place = match self.free.pop() {
            Some(place) => {
                self.values[place] = Some((key, value));
                place
            }
            None => {
                self.values.push(Some((key, value)));
                self.values.len() - 1
            }
        };
        self.order.insert(key, place);
        self.places.insert(key, place);
        None
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.places.remove(key)?;
        self.order.remove(key);
        self.free.push(place);
        let (_, value) = self.values.get_mut(place)?.take()?;
        Some(value)
    }

    /// All, in the order of their identities.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let value = |place: &usize| self.values.get(*place)?.as_ref();
        self.order.values().filter_map(move |place| {
            let (key, value) = value(place)?;
            Some((key, value))
        })
    }

    /// Their identities, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.order.keys()
    }

    /// All values, in the order of their identities.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// All values, to be changed, in no order.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.iter_mut().flatten().map(|(_, value)| value)
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table {
            order: BTreeMap::new(),
            places: IdMap::default(),
            values: Vec::new(),
            free: Vec::new(),
            found: Cell::new(0),
        }
    }
}

impl<K: Copy + Ord + Hash, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Table<K, V>) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Copy + Ord + Hash, V: Eq> Eq for Table<K, V> {}

impl<K: Copy + Ord + Hash + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is put in, taken out and changed, it says what an ordinary ordered map says.
        #[test]
        fn it_is_an_ordered_map(moves in vec((0_u8..3, 0_u8..6, 0_u16..9), 0..60)) {
            let mut table = Table::default();
            let mut plain = BTreeMap::new();
            for (what, key, value) in moves {
                match what {
                    0 => prop_assert_eq!(table.insert(key, value), plain.insert(key, value)),
                    1 => prop_assert_eq!(table.remove(&key), plain.remove(&key)),
                    _ => {
                        for one in [table.get_mut(&key), plain.get_mut(&key)].into_iter().flatten() {
                            *one += value;
                        }
                    }
                }
                prop_assert_eq!(table.get(&key), plain.get(&key));
                prop_assert_eq!(table.contains_key(&key), plain.contains_key(&key));
                prop_assert_eq!(table.len(), plain.len());
                prop_assert!(table.iter().eq(plain.iter()));
                prop_assert!(table.keys().eq(plain.keys()));
                prop_assert!(table.values().eq(plain.values()));
            }
            table.values_mut().for_each(|value| *value += 1);
            prop_assert!(table.values().eq(plain.values().map(|value| value + 1).collect::<Vec<_>>().iter()));
            // Equal by what is in it, wherever that lies.
            let mut again = Table::default();
            for (key, value) in table.iter().collect::<Vec<_>>().into_iter().rev() {
                again.insert(*key, *value);
            }
            prop_assert_eq!(&again, &table);
            again.insert(9, 9);
            prop_assert_ne!(again, table);
        }
    }
}
