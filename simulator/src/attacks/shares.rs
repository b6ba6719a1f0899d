//! Attacks on shares: many keys for one, and many keys of one owner.

use super::agent::Policy;
use super::arena::{Arena, rules};
use super::table::{About, Outcome, Scale};
use super::theory::{mean, seats_at_end};
use manta_protocol::Seed;
use manta_protocol::wire::Identity;

/// Honest founders beside the attackers, and the power of each.
const HONEST: usize = 12;
const POWER: u64 = 2_000_000;
/// Into how many keys the attacker splits.
const PARTS: u64 = 6;

const SYBIL: About = About {
    attack: "sybil",
    what: "one key of weight w, and six undeclared keys of w/6 each, in one swarm",
    measure: "power that the six gain, in parts of what the one gains",
};
const PLAIN: About = About {
    attack: "sybil, plain seats",
    what: "the same, as if every seat were worth the same",
    measure: "seats of the six, in parts of the one's",
};
const OWNER: About = About {
    attack: "one owner",
    what: "six keys that a countersigned owner stands behind, of half of all weight",
    measure: "share of tasks in which more than one of them has a seat",
};

/// A swarm in which one key and six have a quarter of all weight each, after so many tasks.
fn split(seed: Seed, tasks: u64) -> Result<Arena, String> {
    let mut founders = vec![(POWER, Policy::Honest); HONEST];
    let each = POWER * HONEST as u64 / 2;
    founders.push((each, Policy::Honest));
    founders.extend((0..PARTS).map(|_| (each / PARTS, Policy::Honest)));
    let mut arena = Arena::new(seed, &founders, rules(16, founders.len() as u32))?;
    arena.run(tasks, 60 + tasks)?;
    Ok(arena)
}

/// Three deviations on both sides of 1, for a ratio over so many tasks.
fn around_one(tasks: u64) -> [f64; 2] {
    let sigma = difference_squared(0.25, 1.0 / 24.0).sqrt() / 0.25 / (tasks as f64).sqrt();
    [1.0 - 3.0 * sigma, 1.0 + 3.0 * sigma]
}

/// Weight split among undeclared keys gains what it gains in one.
pub(super) fn sybil(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let tasks = 1_000 * scale.times;
    let arena = split(seed, tasks)?;
    let (one, many) = (arena.gain(HONEST), arena.gain_of(HONEST + 1..HONEST + 1 + PARTS as usize));
    Ok(vec![SYBIL.outcome(1.0, many as f64 / one as f64, around_one(tasks), tasks)])
}

/// Canary: as if each seat that was sat on were worth the same, and nothing made up for
/// those that an opener cannot take.
pub(super) fn plain_seats(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let tasks = 1_000 * scale.times;
    let arena = split(seed, tasks)?;
    let (one, many) = (arena.seats_of([HONEST]), arena.seats_of(HONEST + 1..HONEST + 1 + PARTS as usize));
    Ok(vec![PLAIN.outcome(1.0, many as f64 / one as f64, around_one(tasks), tasks)])
}

/// The mean square of what the one gains less what the six gain of a task that is worth 1.
/// Each side has the part `a` of all weight, the one in one key, all others in keys of the part `q`.
fn difference_squared(a: f64, q: f64) -> f64 {
    let opener = |p: f64| (1.0 + 2.0 * p) / 3.0;
    let later = |p: f64| 2.0 * (1.0 - p) / 3.0;
    let inverse = mean(&seats_at_end(2.0, 2), |seats| 1.0 / seats);
    let square = |mean: f64, variance: f64| mean * mean + variance;
    // Opened by the one: the six have the part `of` of the others' weight.
    let of = a / (1.0 - a);
    let by_one = square(opener(a) - later(a) * of, later(a).powi(2) * inverse * of * (1.0 - of));
    // Opened by one of the six; then by one of the rest.
    let (one, siblings) = (a / (1.0 - q), (a - q) / (1.0 - q));
    let spread = one * (1.0 - one) + siblings * (1.0 - siblings) + 2.0 * one * siblings;
    let by_six = square(opener(q) + later(q) * (siblings - one), later(q).powi(2) * inverse * spread);
    let by_rest = later(q).powi(2) * inverse * 2.0 * one;
    a * by_one + a * by_six + (1.0 - 2.0 * a) * by_rest
}

fn doubled(seed: Seed, scale: Scale, declared: bool) -> Result<Vec<Outcome>, String> {
    let mut founders = vec![(POWER, Policy::Honest); HONEST];
    founders.extend((0..PARTS).map(|_| (POWER * HONEST as u64 / PARTS, Policy::Honest)));
    let mut arena = Arena::new(seed, &founders, rules(8, founders.len() as u32))?;
    let owner = Identity::from_secret(*seed.child("owner", 0).0.as_bytes());
    if declared {
        arena.agents[HONEST..].iter_mut().for_each(|agent| agent.owner = Some(owner.clone()));
    }
    // Tasks that were drawn before the keys changed hands do not count.
    for _ in 0..8 {
        arena.step()?;
    }
    let since = arena.state.height();
    let keys: Vec<_> = arena.agents[HONEST..].iter().map(|agent| agent.peer).collect();
    let (mut tasks, mut twice) = (0u64, 0u64);
    while tasks < 60 * scale.times && arena.state.height() < since + 60 + 60 * scale.times {
        arena.step()?;
        let height = arena.state.height();
        let ended = arena.state.settled().rev().take_while(|settled| settled.height == height);
        for settled in ended.filter(|settled| settled.task.stages.first().is_some_and(|stage| stage.opened > since + 2))
        {
            let seats = settled.task.seats.iter().filter(|seat| keys.contains(&seat.worker)).count();
            (tasks, twice) = (tasks + 1, twice + u64::from(seats > 1));
        }
    }
    Ok(vec![OWNER.outcome(0.0, twice as f64 / tasks.max(1) as f64, [0.0, 0.0], tasks)])
}

/// Keys of one owner never have two seats in a task.
pub(super) fn one_owner(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    doubled(seed, scale, true)
}

/// Canary: the same keys without an owner have.
pub(super) fn split_owner(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    doubled(seed, scale, false)
}
