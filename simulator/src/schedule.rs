//! What will happen when: a queue ordered by time, and by order of insertion
//! among equals, so that equal seeds give equal histories.

use manta_protocol::Time;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

struct Entry<E> {
    at: Time,
    order: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The event queue; popping moves the time forward, never back.
pub struct Schedule<E> {
    queue: BinaryHeap<Reverse<Entry<E>>>,
    inserted: u64,
    now: Time,
    longest: usize,
}

impl<E> Schedule<E> {
    /// An empty queue at the time `now`.
    pub fn new(now: Time) -> Self {
        Self { queue: BinaryHeap::new(), inserted: 0, now, longest: 0 }
    }

    /// The time of the latest event that was taken out.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Plans `event`; what should have been in the past happens now.
    pub fn at(&mut self, at: Time, event: E) {
        self.queue.push(Reverse(Entry { at: at.max(self.now), order: self.inserted, event }));
        self.inserted += 1;
        self.longest = self.longest.max(self.queue.len());
    }

    /// The next event; the time moves to it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(entry) = self.queue.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }

    /// Most events that have waited at once.
    pub fn longest(&self) -> usize {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_insertion() {
        let mut schedule = Schedule::new(Time(5));
        for (at, name) in [(9, "c"), (7, "a"), (7, "b"), (1, "past")] {
            schedule.at(Time(at), name);
        }
        let order: Vec<_> = std::iter::from_fn(|| schedule.pop().map(|event| (schedule.now().0, event))).collect();
        assert_eq!(order, [(5, "past"), (7, "a"), (7, "b"), (9, "c")]);
        assert_eq!(schedule.longest(), 4);
    }
}
