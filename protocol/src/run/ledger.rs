//! Which batches of a run count, which are still to do.
//!
//! A run trains on batches 0 .. target; what text a batch is follows from the
//! run's seed and its number alone. Before each exchange every member is given
//! numbers: those that came back first, then fresh ones. When the exchange is
//! over the batches of those who contributed count, all others come back. So no
//! batch is lost and none counts twice, whoever comes, goes or hangs, and a run
//! that loses members takes longer instead of learning less.
//!
//! All of it is a pure function of the views and contributors so far: members
//! hold equal ledgers without telling each other.

use serde::{Deserialize, Serialize};

/// Pieces that batches may be in: a ledger is said in one message.
pub const SPANS_MAX: usize = 256;

/// Batches `first` .. `first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// The first.
    pub first: u64,
    /// How many; at least one.
    pub count: u64,
}

impl Span {
    fn end(self) -> u64 {
        self.first + self.count
    }
}

/// How many batches the spans hold together.
pub fn count(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.count).sum()
}

/// Which batches count and which are to do, between two exchanges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Batches of the whole run.
    pub target: u64,
    /// The first that was never given out.
    pub next: u64,
    /// Given out, not counted: ascending, apart from each other, all below `next`.
    pub returned: Vec<Span>,
}

impl Ledger {
    /// Nothing done of `target` batches.
    pub fn new(target: u64) -> Self {
        Self { target, next: 0, returned: Vec::new() }
    }

    /// Batches that count.
    pub fn done(&self) -> u64 {
        self.next - count(&self.returned)
    }

    /// Batches that are still to do.
    pub fn left(&self) -> u64 {
        self.target - self.done()
    }

    /// Whether it could have come about.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if self.returned.len() > SPANS_MAX {
            return Err(format!("{} spans of batches, at most {SPANS_MAX}", self.returned.len()));
        }
        let mut free_from = 0;
        for span in &self.returned {
            let end = span.first.checked_add(span.count).ok_or("a span of batches beyond 64 bits")?;
            if span.count == 0 || span.first < free_from || end > self.next {
                return Err(format!("batches {} to {end} are empty, out of order or never given out", span.first));
            }
            free_from = end;
        }
        if self.next > self.target {
            return Err(format!("batch {} of {} was given out", self.next, self.target));
        }
        Ok(())
    }

    /// The batches of each member in the next exchange, in rank order, given
    /// how many each can do; near the end each gets less in proportion.
    pub fn assign(&self, shares: &[u32]) -> Vec<Vec<Span>> {
        let all: u64 = shares.iter().map(|share| u64::from(*share)).sum();
        let given = all.min(self.left());
        let mut pool = Pool { returned: self.returned.iter().copied().rev().collect(), next: self.next };
        let (mut before, mut cut) = (0u64, 0u64);
        let mut assignment = Vec::with_capacity(shares.len());
        for share in shares {
            before += u64::from(*share);
            let end = (u128::from(given) * u128::from(before) / u128::from(all.max(1))) as u64;
            assignment.push(pool.take(end - cut));
            cut = end;
        }
        assignment
    }

    /// The ledger after an exchange in which only those of whom `counts` says
    /// so contributed.
    #[must_use]
    pub fn after(&self, assignment: &[Vec<Span>], counts: impl Fn(usize) -> bool) -> Self {
        let given: u64 = assignment.iter().map(|spans| count(spans)).sum();
        let mut pool = Pool { returned: self.returned.iter().copied().rev().collect(), next: self.next };
        pool.take(given);
        let mut returned = pool.returned;
        let uncounted = (0..).zip(assignment).filter(|(rank, _)| !counts(*rank)).flat_map(|(_, spans)| spans);
        returned.extend(uncounted);
        returned.sort_unstable();
        Self { target: self.target, next: pool.next, returned: merged(&returned) }
    }
}

/// What batches are taken from.
struct Pool {
    /// Descending, so that the lowest is at hand.
    returned: Vec<Span>,
    next: u64,
}

impl Pool {
    fn take(&mut self, mut wanted: u64) -> Vec<Span> {
        let mut taken = Vec::new();
        while wanted > 0 {
            let span = match self.returned.pop() {
                Some(span) if span.count > wanted => {
                    self.returned.push(Span { first: span.first + wanted, count: span.count - wanted });
                    Span { first: span.first, count: wanted }
                }
                Some(span) => span,
                None => {
                    self.next += wanted;
                    Span { first: self.next - wanted, count: wanted }
                }
            };
            wanted -= span.count;
            taken.push(span);
        }
        merged(&taken)
    }
}

fn merged(spans: &[Span]) -> Vec<Span> {
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if last.end() == span.first => last.count += span.count,
            _ => merged.push(*span),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn numbers(spans: &[Span]) -> Vec<u64> {
        spans.iter().flat_map(|span| span.first..span.end()).collect()
    }

    #[test]
    fn what_came_back_is_given_out_first() {
        let ledger = Ledger::new(100);
        let first = ledger.assign(&[2, 3, 2]);
        assert_eq!(
            first.iter().map(|spans| numbers(spans)).collect::<Vec<_>>(),
            [vec![0, 1], vec![2, 3, 4], vec![5, 6]]
        );
        let ledger = ledger.after(&first, |rank| rank != 1);
        assert_eq!((ledger.done(), ledger.left(), numbers(&ledger.returned)), (4, 96, vec![2, 3, 4]));
        let second = ledger.assign(&[2, 2]);
        assert_eq!(second.iter().map(|spans| numbers(spans)).collect::<Vec<_>>(), [vec![2, 3], vec![4, 7]]);
    }

    #[test]
    fn the_last_exchange_shares_out_what_is_left() {
        let ledger = Ledger { target: 10, next: 7, returned: Vec::new() };
        assert_eq!(ledger.assign(&[4, 4]).iter().map(|spans| count(spans)).collect::<Vec<_>>(), [1, 2]);
        let over = ledger.after(&ledger.assign(&[4, 4]), |_| true);
        assert_eq!((over.left(), over.assign(&[4, 4])), (0, vec![vec![], vec![]]));
    }

    #[test]
    fn impossible_ledgers_are_refused() {
        let span = |first, count| Span { first, count };
        for (target, next, returned) in [
            (5, 6, vec![]),
            (9, 5, vec![span(3, 3)]),
            (9, 5, vec![span(1, 0)]),
            (9, 5, vec![span(2, 2), span(3, 1)]),
            (9, 5, vec![span(u64::MAX, 2)]),
            (9_999, 9_000, (0..=SPANS_MAX as u64).map(|k| span(2 * k, 1)).collect()),
        ] {
            assert!(Ledger { target, next, returned }.validate().is_err());
        }
        assert!(Ledger { target: 9, next: 9, returned: vec![span(0, 2), span(8, 1)] }.validate().is_ok());
    }

    proptest! {
        #[test]
        fn every_batch_counts_once(
            target in 1u64..400,
            history in prop::collection::vec((prop::collection::vec(0u32..9, 1..6), any::<u8>()), 1..60),
        ) {
            let mut ledger = Ledger::new(target);
            let mut counted = BTreeSet::new();
            for (shares, lost) in history {
                let assignment = ledger.assign(&shares);
                let counts = |rank: usize| lost >> rank & 1 == 0;
                for batch in assignment.iter().enumerate().filter(|(rank, _)| counts(*rank)).flat_map(|(_, s)| numbers(s)) {
                    prop_assert!(counted.insert(batch), "{batch} counts twice");
                }
                ledger = ledger.after(&assignment, counts);
                prop_assert_eq!(ledger.validate(), Ok(()));
                prop_assert_eq!(ledger.done(), counted.len() as u64);
                let waiting: BTreeSet<_> = numbers(&ledger.returned).into_iter().chain(ledger.next..target).collect();
                prop_assert!(waiting.is_disjoint(&counted) && waiting.len() as u64 == ledger.left());
            }
        }
    }
}
