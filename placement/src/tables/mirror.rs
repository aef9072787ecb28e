//! A table's rows as interned values, in memory, with hash indexes by need.
//!
//! Invariants: a slot is either free or holds a row of the schema's width; every index lists exactly the
//! occupied slots whose indexed cells have no NULL; slots are never renumbered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::{Schema, Value};

/// Slots by key, and how many keys have more than one.
#[derive(Debug, Default)]
struct Index {
    slots: HashMap<Box<[Value]>, Vec<u32>>,
    shared: usize,
}

impl Index {
    fn add(&mut self, key: Box<[Value]>, slot: u32) {
        let list = self.slots.entry(key).or_default();
        list.push(slot);
        self.shared += usize::from(list.len() == 2);
    }

    fn take(&mut self, key: &[Value], slot: u32) {
        if let Some(list) = self.slots.get_mut(key) {
            let before = list.len();
            list.retain(|&s| s != slot);
            self.shared -= usize::from(before == 2 && list.len() == 1);
            if list.is_empty() {
                self.slots.remove(key);
            }
        }
    }
}

/// The rows of one table or of one query over constants.
#[derive(Debug)]
pub struct Mirror {
    /// Its shape.
    pub schema: Rc<Schema>,
    slots: Vec<Option<Box<[Value]>>>,
    free: Vec<u32>,
    indexes: RefCell<Vec<(Box<[usize]>, Index)>>,
}

fn key_of(row: &[Value], columns: &[usize]) -> Option<Box<[Value]>> {
    let key: Box<[Value]> = columns.iter().map(|&c| row[c].key()).collect();
    if key.iter().any(|v| v.is_null()) {
        None
    } else {
        Some(key)
    }
}

impl Mirror {
    /// A mirror of `rows`.
    pub fn new(schema: Rc<Schema>, rows: Vec<Box<[Value]>>) -> Mirror {
        let slots = rows.into_iter().map(Some).collect();
        Mirror {
            schema,
            slots,
            free: Vec::new(),
            indexes: RefCell::default(),
        }
    }

    /// The number of slots, free ones included.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// The row in a slot.
    pub fn row(&self, slot: u32) -> Option<&[Value]> {
        self.slots.get(slot as usize)?.as_deref()
    }

    /// The occupied slots in order.
    pub fn occupied(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots()).filter(|&slot| self.slots[slot as usize].is_some())
    }

    /// Puts a row into a free slot.
    pub fn insert(&mut self, row: Box<[Value]>) -> u32 {
        assert_eq!(
            row.len(),
            self.schema.columns.len(),
            "a row has its table's width"
        );
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots() - 1
            }
        };
        for (columns, index) in self.indexes.get_mut() {
            if let Some(key) = key_of(&row, columns) {
                index.add(key, slot);
            }
        }
        self.slots[slot as usize] = Some(row);
        slot
    }

    /// Takes a row out; its slot becomes free.
    pub fn remove(&mut self, slot: u32) -> Option<Box<[Value]>> {
        let row = self.slots.get_mut(slot as usize)?.take()?;
        for (columns, index) in self.indexes.get_mut() {
            if let Some(key) = key_of(&row, columns) {
                index.take(&key, slot);
            }
        }
        self.free.push(slot);
        Some(row)
    }

    /// Replaces the row in an occupied slot.
    pub fn replace(&mut self, slot: u32, row: Box<[Value]>) {
        if self.remove(slot).is_some() {
            self.free.pop();
            for (columns, index) in self.indexes.get_mut() {
                if let Some(key) = key_of(&row, columns) {
                    index.add(key, slot);
                }
            }
            self.slots[slot as usize] = Some(row);
        }
    }

    /// The slots whose `columns` equal `key` (no NULL is equal to anything), in slot order.
    pub fn find(&self, columns: &[usize], key: &[Value]) -> Vec<u32> {
        let key: Box<[Value]> = key.iter().map(|v| v.key()).collect();
        self.with_index(columns, |index| {
            index.slots.get(&key).cloned().unwrap_or_default()
        })
    }

    /// Whether no two rows agree on `columns`.
    pub fn is_unique(&self, columns: &[usize]) -> bool {
        self.with_index(columns, |index| index.shared == 0)
    }

    fn with_index<T>(&self, columns: &[usize], read: impl FnOnce(&Index) -> T) -> T {
        let mut indexes = self.indexes.borrow_mut();
        if let Some((_, index)) = indexes.iter().find(|(c, _)| **c == *columns) {
            return read(index);
        }
        let mut index = Index::default();
        for slot in self.occupied() {
            if let Some(row) = self.row(slot)
                && let Some(key) = key_of(row, columns)
            {
                index.add(key, slot);
            }
        }
        let result = read(&index);
        indexes.push((columns.into(), index));
        result
    }
}
