//! Attacks on shares: many keys for one, and many keys of one owner.

use super::agent::Policy;
use super::arena::{Arena, rules};
use super::table::{About, Outcome, Scale};
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
const OWNER: About = About {
    attack: "one owner",
    what: "six keys that a countersigned owner stands behind, of half of all weight",
    measure: "share of tasks in which more than one of them has a seat",
};

/// Weight split among undeclared keys gains a little more than in one, for a key sits once a task.
pub(super) fn sybil(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let mut founders = vec![(POWER, Policy::Honest); HONEST];
    // A quarter of all weight each: one honest-looking key, and six.
    let each = POWER * HONEST as u64 / 2;
    founders.push((each, Policy::Honest));
    founders.extend((0..PARTS).map(|_| (each / PARTS, Policy::Honest)));
    // Few tasks a height: a block takes four commitments of one key.
    let mut arena = Arena::new(seed, &founders, rules(2, founders.len() as u32))?;
    let tasks = 200 * scale.times;
    arena.run(tasks, 60 + tasks)?;
    let (one, many) = (arena.gain(HONEST), arena.gain_of(HONEST + 1..founders.len()));
    let ratio = many as f64 / one as f64;
    // A key that has a seat of the opening stage has none in the next one, though others of
    // the six may: e^−¼ of all tasks leave the one its part of the next stage's two seats.
    // Without it there, the six have more of them.
    let share = 0.25f64;
    let left_out = 1.0 - (-share).exp();
    let one_alone = share + (1.0 - left_out) * 2.0 * share;
    let six = share + (1.0 - left_out) * 1.92 * share + left_out * 1.92 * share / (1.0 - share);
    // Each side has a quarter of four and a half seats, and a task's credit is shared: σ of
    // a side's mean is near 0.9 ÷ √tasks.
    let sigma = (2.0f64).sqrt() * 0.9 / (tasks as f64).sqrt();
    let predicted = six / one_alone;
    Ok(vec![SYBIL.outcome(predicted, ratio, [0.5, predicted + 3.0 * sigma], tasks)])
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
