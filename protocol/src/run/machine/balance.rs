//! Work in proportion to speed: a slow member gets fewer batches, so that the
//! others need not wait for it.
//!
//! Members tell in their reports how long their batches took. Where each
//! exchange computes for long, the first full member proposes other shares, as
//! a view of the same members, once that makes exchanges a quarter shorter.
//! Speeds are measured, so a run whose members are that unequal does not have
//! the same bits twice; one of equals has.

use super::Machine;
use crate::ids::PeerId;
use crate::run::report::RoundReport;
use std::collections::BTreeMap;

/// Rounds that a member is measured over before its share may change.
const ROUNDS_MIN: u32 = 2;
/// The slowest member computes for an exchange at least so long, or waiting for it is cheap.
const SLOWEST_MIN_US: u64 = 1_000_000;

/// How fast a member is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// Moving mean, in microseconds.
    batch_us: u64,
    rounds: u32,
}

impl Machine {
    /// Learns from the reports of a round, and wants other shares if they are much better.
    pub(super) fn balance(&mut self, reports: &[(PeerId, RoundReport)]) {
        for (peer, report) in reports.iter().filter(|(_, report)| report.batches > 0) {
            let batch_us = report.compute_ms.saturating_mul(1_000) / u64::from(report.batches);
            let speed = self.speeds.entry(*peer).or_insert(Speed { batch_us, rounds: 0 });
            speed.batch_us = (speed.batch_us.saturating_mul(3).saturating_add(batch_us) / 4).max(1);
            speed.rounds = speed.rounds.saturating_add(1);
        }
        self.speeds.retain(|peer, _| self.view.member(peer).is_some());
        let first = self.view.full().next().is_some_and(|member| member.contact.peer == self.me());
        let members: Option<Vec<_>> = self
            .view
            .full()
            .map(|member| {
                let speed = self.speeds.get(&member.contact.peer).filter(|speed| speed.rounds >= ROUNDS_MIN)?;
                Some((member.contact.peer, member.share, speed.batch_us))
            })
            .collect();
        if let (true, Some(members)) = (first && self.spec().outer.is_some(), members) {
            self.agreement.want_shares(better_shares(&members));
        }
    }
}

/// Shares by speed, with the same sum, if exchanges get at least a quarter
/// shorter by them. `members`: who, its share now, microseconds of a batch.
fn better_shares(members: &[(PeerId, u32, u64)]) -> Option<BTreeMap<PeerId, u32>> {
    let total: u64 = members.iter().map(|(_, share, _)| u64::from(*share)).sum();
    let now_us = members.iter().map(|(_, share, us)| u128::from(*share) * u128::from(*us)).max()?;
    // Everyone gets one batch; each other one goes to whoever is done with it
    // first. So all get what they can do in the longest time in which they do
    // not do too many together, which is found by halving: shares may be large.
    let slowest_us = members.iter().map(|(_, _, us)| u128::from(*us)).max()?;
    let done = |time_us: u128, us: u64| (time_us / u128::from(us.max(1))).max(1);
    let (mut low, mut high) = (0, slowest_us * u128::from(total));
    while low < high {
        let middle = (low + high).div_ceil(2);
        let fits = members.iter().map(|(_, _, us)| done(middle, *us)).sum::<u128>() <= u128::from(total);
        if fits { low = middle } else { high = middle - 1 }
    }
    let batches = |us: u64| u32::try_from(done(low, us)).unwrap_or(u32::MAX);
    let mut shares: Vec<u32> = members.iter().map(|(_, _, us)| batches(*us)).collect();
    for _ in shares.iter().map(|share| u64::from(*share)).sum()..total {
        let done_us = |index: &usize| (u64::from(shares[*index]) + 1).saturating_mul(members[*index].2);
        let next = (0..members.len()).min_by_key(done_us)?;
        shares[next] += 1;
    }
    let then_us = members.iter().zip(&shares).map(|((_, _, us), share)| u128::from(*share) * u128::from(*us)).max()?;
    let better = now_us >= u128::from(SLOWEST_MIN_US) && then_us * 4 <= now_us * 3;
    better.then(|| members.iter().zip(shares).map(|((peer, _, _), share)| (*peer, share)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(members: &[(u32, u64)]) -> Option<Vec<u32>> {
        let members: Vec<_> =
            (0..).zip(members).map(|(number, (share, us))| (PeerId([number; 32]), *share, *us)).collect();
        better_shares(&members).map(|shares| shares.into_values().collect())
    }

    #[test]
    fn who_is_four_times_slower_gets_a_quarter() {
        assert_eq!(shares(&[(50, 40_000), (50, 40_000), (50, 160_000)]), Some(vec![67, 67, 16]));
    }

    #[test]
    fn small_differences_and_short_exchanges_change_nothing() {
        assert_eq!(shares(&[(50, 40_000), (50, 50_000)]), None, "a little slower");
        assert_eq!(shares(&[(5, 4_000), (5, 16_000)]), None, "80 ms are waited for");
        assert_eq!(shares(&[(67, 40_000), (67, 40_000), (16, 160_000)]), None, "balanced already");
        assert_eq!(shares(&[(1, 4_000_000), (1, 8_000_000)]), None, "one batch cannot be cut");
    }

    #[test]
    fn wild_reports_do_no_harm() {
        let given = shares(&[(50, u64::MAX), (50, 1), (50, 1)]).expect("a better one");
        assert_eq!((given[0], given.iter().sum::<u32>()), (1, 150));
        assert_eq!(shares(&[(1 << 24, u64::MAX); 16]), None, "the largest shares take no time");
    }
}
