//! What the rules of drills and leases promise, computed apart from the ledger's
//! code: how many seats a comparison comes to, how often lies pass, and what is
//! left of a reliability that is lied about.

use manta_protocol::Seed;

/// Intervals in which a stage waits for all that it wants.
const PATIENCE: usize = 3;
/// Intervals after which a stage gives up.
const INTERVALS: usize = 8;
/// Counts above have no weight that could be seen.
const SEATS: usize = 48;

/// The distribution of the seats of a replica stage that expects `expected` at
/// first (`[n]`: the probability of n seats): each interval doubles the
/// expectation, and the stage ends with `wanted` seats, or later with any. Seats
/// are Poisson: weights are many small parts.
pub(super) fn seats_at_end(expected: f64, wanted: usize) -> Vec<f64> {
    let mut ended = vec![0.0; SEATS];
    // Still waiting, by the seats there are.
    let mut waiting = vec![0.0; SEATS];
    waiting[0] = 1.0;
    let mut before = 0.0;
    for interval in 0..INTERVALS {
        let expectation = expected * f64::from(1 << interval);
        let mut next = vec![0.0; SEATS];
        for (there, mass) in waiting.iter().enumerate().filter(|(_, mass)| **mass > 0.0) {
            for (more, chance) in poisson(expectation - before).take(SEATS - there).enumerate() {
                next[there + more] += mass * chance;
            }
        }
        before = expectation;
        let enough = if interval < PATIENCE { wanted } else { 1 };
        for (seats, mass) in next.iter_mut().enumerate().skip(enough) {
            ended[seats] += std::mem::take(mass);
        }
        waiting = next;
    }
    ended
}

/// The mean of `of` over a distribution of counts.
pub(super) fn mean(distribution: &[f64], of: impl Fn(f64) -> f64) -> f64 {
    let all: f64 = distribution.iter().sum();
    let possible = distribution.iter().enumerate().filter(|(_, mass)| **mass > 0.0);
    possible.map(|(count, mass)| mass * of(count as f64)).sum::<f64>() / all
}

fn poisson(mean: f64) -> impl Iterator<Item = f64> {
    (0..).scan((-mean).exp(), move |mass, count: u32| {
        let now = *mass;
        *mass *= mean / f64::from(count + 1);
        Some(now)
    })
}

/// The share of tasks whose wrong digest is accepted, where `members` of `peers`
/// equal peers tell one lie about every task and nobody is trusted: so many
/// tasks are played through, with seats drawn one by one.
pub(super) fn lies_accepted(seed: Seed, members: usize, peers: usize, tasks: u64) -> f64 {
    let mut dice = Dice { seed, number: 0 };
    let accepted = (0..tasks).filter(|_| is_lie_accepted(&mut dice, members, peers)).count();
    accepted as f64 / tasks as f64
}

/// Numbers for draws, in order.
struct Dice {
    seed: Seed,
    number: u64,
}

impl Dice {
    fn unit(&mut self) -> f64 {
        self.number += 1;
        self.seed.value("theory", self.number) as f64 / 2f64.powi(64)
    }

    /// How many of `count` peers win at least a seat more, `expected` being expected of all of them.
    fn winners(&mut self, count: usize, each: f64) -> usize {
        (0..count).filter(|_| self.unit() < 1.0 - (-each).exp()).count()
    }
}

/// Who has a seat, and what it says: true or the ring's lie.
#[derive(Default)]
struct Votes {
    lies: usize,
    truths: usize,
}

fn is_lie_accepted(dice: &mut Dice, members: usize, peers: usize) -> bool {
    let opener_lies = dice.unit() * (peers as f64) < members as f64;
    let mut votes = Votes { lies: usize::from(opener_lies), truths: usize::from(!opener_lies) };
    replicas(dice, &mut votes, members, peers);
    if votes.lies == 0 || votes.truths == 0 {
        return votes.truths == 0;
    }
    stage(dice, &mut votes, (members, peers), 2.0, 2);
    let voters = votes.lies + votes.truths;
    let (most, next) = (votes.lies.max(votes.truths), votes.lies.min(votes.truths));
    if 2 * most > voters && most >= next + 2 {
        return votes.lies > votes.truths;
    }
    stage(dice, &mut votes, (members, peers), 7.0, 4);
    2 * votes.lies > votes.lies + votes.truths
}

/// Two seats are expected and wanted of those who have no part.
fn replicas(dice: &mut Dice, votes: &mut Votes, members: usize, peers: usize) {
    let others = peers - 1;
    let mut seats = vec![0u32; others];
    let liars = members - votes.lies;
    let mut before = 0.0;
    for interval in 0..INTERVALS {
        let expectation = 2.0 * f64::from(1 << interval) / others as f64;
        for won in &mut seats {
            let mut point = dice.unit();
            let more = poisson(expectation - before).take(SEATS).take_while(|mass| {
                point -= mass;
                point >= 0.0
            });
            *won += more.count() as u32;
        }
        before = expectation;
        if seats.iter().sum::<u32>() >= if interval < PATIENCE { 2 } else { 1 } {
            break;
        }
    }
    votes.lies += seats[..liars].iter().filter(|won| **won > 0).count();
    votes.truths += seats[liars..].iter().filter(|won| **won > 0).count();
}

/// A later stage: who has no part yet is elected until `wanted` have come.
fn stage(dice: &mut Dice, votes: &mut Votes, (members, peers): (usize, usize), expected: f64, wanted: usize) {
    let (liars, honest) = (members - votes.lies, peers - members - votes.truths);
    let (mut lies, mut truths) = (0, 0);
    let mut before = 0.0;
    for interval in 0..INTERVALS {
        let expectation = expected * f64::from(1 << interval) / (liars + honest).max(1) as f64;
        lies += dice.winners(liars - lies, expectation - before);
        truths += dice.winners(honest - truths, expectation - before);
        before = expectation;
        if lies + truths >= if interval < PATIENCE { wanted.min(liars + honest) } else { 1 } {
            break;
        }
    }
    votes.lies += lies;
    votes.truths += truths;
}

/// Probes after which what was counted weighs e times less.
const MEMORY: f64 = 64.0;

/// A share of what is counted of a peer: on average, and how far it strays.
pub(super) struct Leased {
    pub(super) mean: f64,
    pub(super) sigma: f64,
}

/// The part that leases have in all that is counted of a peer, averaged over so many
/// heights, if users with this share of all weight report them all the time.
///
/// In a height the peer is asked `rate · (1 − own)` times on average, for it does not
/// ask itself, and leases count for `rate · share`. Probes come by chance, leases
/// do not: of the former, about `n = MEMORY · (1 − mean)` are remembered, an
/// exponential mean of them strays by √(1 ⁄ 2n), and what is measured is the mean over
/// `heights` of values that are alike for `MEMORY` counts.
pub(super) fn leased(share: f64, own: f64, rate: f64, heights: f64) -> Leased {
    let (probes, leases) = (rate * (1.0 - own), rate * share);
    let mean = leases / (probes + leases);
    let remembered = MEMORY * (1.0 - mean);
    let alike = MEMORY / (probes + leases);
    let averaged = (2.0 * alike / heights).min(1.0).sqrt();
    Leased { mean, sigma: mean * (1.0 - mean) * (0.5 / remembered).sqrt() * averaged }
}

/// The part that one lease has in what is counted, if it is as long as can count and
/// comes after so many heights of probes: it counts for `MEMORY · share`.
pub(super) fn hoarded(share: f64, own: f64, rate: f64, heights: f64) -> Leased {
    let remembered = MEMORY * (1.0 - (-rate * (1.0 - own) * heights / MEMORY).exp());
    let left = remembered * (-share).exp();
    let lease = MEMORY * (1.0 - (-share).exp());
    let mean = lease / (left + lease);
    Leased { mean, sigma: mean * (1.0 - mean) * (0.5 / remembered).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_liars_leases_gain_no_more_than_its_probes_would() {
        for share in [0.01, 0.2, 0.5] {
            let (always, once) = (leased(share, 0.0, 0.5, 1e4), hoarded(share, 0.0, 0.5, 1e4));
            assert!((always.mean - share / (1.0 + share)).abs() < 1e-9);
            assert!((once.mean - (1.0 - (-share).exp())).abs() < 1e-9);
            assert!(always.mean < share && once.mean < share, "lying in probes gains {share}");
            assert!(always.sigma < always.mean / 10.0 && once.sigma < once.mean / 5.0);
        }
    }

    #[test]
    fn distributions_are_whole_and_played_tasks_follow_them() {
        let seats = seats_at_end(1.9, 2);
        assert!((seats.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        // One seat ends it only where no more came by the fourth interval, at eight times the expectation.
        let one_seat = 8.0 * 1.9 * (-8.0f64 * 1.9).exp();
        assert!(seats[0] == 0.0 && (seats[1] - one_seat).abs() < 1e-12, "{seats:?}");
        // One ring member in a crowd has no second one: it never passes.
        assert_eq!(lies_accepted(Seed::from_number(1), 1, 50, 200), 0.0);
        // If nearly all lie, nearly every lie passes.
        assert!(lies_accepted(Seed::from_number(2), 19, 20, 200) > 0.9);
    }
}
