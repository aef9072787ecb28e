//! What is in flight: messages between their sending and their delivery.
//!
//! A message is some eighty bytes, and the queue moves its entries about. So an entry holds a message's place, and the
//! message stays here. A place that falls free is the next one taken: at some thirty messages in flight, of thousands a
//! second, all that is in use stays in the processor's nearest cache.

use super::protocol::To;

/// A message on its way.
#[derive(Clone)]
pub struct Letter<M> {
    /// Who sent it.
    pub from: u32,
    /// To whom.
    pub to: To,
    /// Its payload, in bytes.
    pub bytes: u32,
    /// What it says.
    pub message: M,
}

/// Where a letter waits. Good for one [`Letters::take`].
#[derive(Debug)]
pub struct Place(u32);

/// The letters in flight.
///
/// Invariant: a place is in `free` exactly while nothing waits there.
pub struct Letters<M> {
    places: Vec<Option<Letter<M>>>,
    free: Vec<u32>,
}

impl<M> Letters<M> {
    /// Nothing is in flight.
    pub fn new() -> Letters<M> {
        Letters {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Keeps a letter.
    #[inline]
    pub fn put(&mut self, letter: Letter<M>) -> Place {
        match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(letter);
                Place(place)
            }
            None => {
                let place = u32::try_from(self.places.len());
                self.places.push(Some(letter));
                Place(place.expect("fewer than four billion messages are in flight"))
            }
        }
    }

    /// Hands a letter out.
    #[inline]
    pub fn take(&mut self, place: Place) -> Letter<M> {
        let letter = self.places[place.0 as usize].take();
        self.free.push(place.0);
        letter.expect("a place is taken once")
    }
}

impl<M> Default for Letters<M> {
    fn default() -> Self {
        Letters::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(message: u32) -> Letter<u32> {
        Letter {
            from: 0,
            to: To::Node(1),
            bytes: 0,
            message,
        }
    }

    #[test]
    fn what_falls_free_is_taken_next() {
        let mut letters = Letters::new();
        let places: Vec<Place> = (0..3).map(|n| letters.put(letter(n))).collect();
        let [first, second, third] = places.try_into().unwrap();
        assert_eq!(letters.take(second).message, 1);
        let again = letters.put(letter(7));
        assert_eq!((again.0, letters.places.len()), (1, 3));
        let left = [first, again, third].map(|place| letters.take(place).message);
        assert_eq!(left, [0, 7, 2]);
    }
}
