//! How what a task is worth is divided among those whose results agree.
//!
//! A task stands for k = `seats` seats. The one that opened it is worth its own,
//! and of the k − 1 others the part p that its weight is of all who could be
//! drawn: seats that it could not take, for it has the result already. Who came
//! later shares what remains, (k − 1)(1 − p) seats, by the seats that each won.
//!
//! So weight that is split among keys that nobody knows to be one person's gains
//! nothing: a key of share p opens a task with probability p, and is then worth
//! 1 + (k − 1)p seats; of a task that another of share q opens, it is worth
//! (k − 1)(1 − q) · p ÷ (1 − q) on average, for later seats fall on the others by
//! weight, however many there come to be. Summed over all openers that is k·p: a
//! sum over keys depends on the sum of their shares alone.

use super::super::limits::INTERVALS_MAX;
use super::super::task::{Seat, Task};

/// One seat at the first interval of a stage.
const POINTS_OF_SEAT: u64 = 1 << (INTERVALS_MAX - 1);
/// Bits after the point of the opener's part.
const PART_BITS: u32 = 32;

/// What each of `winners` gets of `whole`, each rounded down. `seats` is the
/// number that is wanted of a task.
pub(super) fn divide(whole: u64, task: &Task, winners: &[Seat], seats: u32) -> Vec<u64> {
    let opener = winners.iter().find(|seat| seat.stage == 0);
    let points: u128 = winners.iter().filter(|seat| seat.stage > 0).map(|seat| points(task, seat)).sum();
    let first = match opener {
        Some(_) if points == 0 => whole,
        Some(opener) => part(whole, opener_part(task, opener, seats)),
        None => 0,
    };
    let rest = u128::from(whole - first.min(whole));
    let of = |seat: &Seat| match seat.stage {
        0 => first,
        _ => (rest * self::points(task, seat)).checked_div(points).and_then(|of| u64::try_from(of).ok()).unwrap_or(0),
    };
    winners.iter().map(of).collect()
}

/// (1 + (k − 1)p) ÷ k in units of 2⁻³².
fn opener_part(task: &Task, opener: &Seat, seats: u32) -> u64 {
    let seats = u128::from(seats.max(1));
    // A candidate on probation was drawn as one of many, not by a weight.
    let total = u128::from(task.stages.first().map_or(0, |stage| stage.total)).max(1);
    let weight = u128::from(opener.weight).min(total);
    let part = ((total + (seats - 1) * weight) << PART_BITS) / (seats * total);
    u64::try_from(part).unwrap_or(1 << PART_BITS)
}

fn part(whole: u64, part: u64) -> u64 {
    ((u128::from(whole) * u128::from(part)) >> PART_BITS) as u64
}

/// What a later seat counts for among the later ones. Seats won with a doubled
/// expectation count half, and so on: among stages, to be late gains nothing.
fn points(task: &Task, seat: &Seat) -> u128 {
    let Some(stage) = task.stages.get(usize::from(seat.stage)) else { return 0 };
    let interval = if stage.everyone { 0 } else { stage.interval.min(INTERVALS_MAX - 1) };
    u128::from((u64::from(task.seats_won(seat)) * POINTS_OF_SEAT) >> interval)
}
