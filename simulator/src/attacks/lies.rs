//! Attacks on results: lies alone and together, copies, and silence.

use super::agent::Policy;
use super::arena::{Arena, DIFFICULTY, rules};
use super::table::{About, Outcome, Scale};
use super::theory::{lies_accepted, mean, seats_at_end};
use manta_protocol::Seed;
use manta_protocol::ledger::{Agreement, Parameters};
use manta_protocol::power::MicroPower;

const POWER: u64 = 20_000_000;
const PEERS: usize = 20;

const COLLUSION: About = About {
    attack: "collusion",
    what: "a ring with f = 10 % of all weight tells the same lie about every task",
    measure: "share of tasks whose wrong digest is accepted",
};
const CARTEL: About = About {
    attack: "collusion, a cartel",
    what: "the same with f = 30 %, so often accepted that the prediction is put to the test",
    measure: "share of tasks whose wrong digest is accepted",
};
const COPYCAT: About = About {
    attack: "copy-cat",
    what: "commits to others' commitments and repeats what they show",
    measure: "power gained, in parts of what an honest peer gains",
};
const ALL_LOSE: About = About {
    attack: "griefing, all-lose",
    what: "5 % of all weight lie alone, each its own lie; the paper's rule",
    measure: "share of tasks for which honest drillers lose",
};
const ESCALATE: About = About {
    attack: "griefing, escalate",
    what: "the same under escalation",
    measure: "share of tasks for which honest drillers lose or gain nothing",
};
const TRUSTED: About = About {
    attack: "lying when trusted",
    what: "works until it is trusted, then lies in every second task",
    measure: "power gained, in parts of what an honest peer gains",
};
const WITHHELD: About = About {
    attack: "withheld reveal",
    what: "commits and does not reveal",
    measure: "power gained, in parts of what an honest peer gains",
};
const WITHHELD_DONE: About = About {
    attack: "withheld reveal, the task",
    what: "the same",
    measure: "share of such tasks that end with the right digest",
};

/// An arena of `PEERS` equal founders, the last ones with this policy.
fn arena(seed: Seed, attackers: usize, policy: impl Fn(u64) -> Policy, rules: Parameters) -> Result<Arena, String> {
    let mut founders = vec![(POWER, Policy::Honest); PEERS - attackers];
    founders.extend((0..attackers as u64).map(|number| (POWER, policy(number))));
    Arena::new(seed, &founders, rules)
}

/// What an attacker gains on average, in parts of what an honest peer does.
fn relative_gain(arena: &Arena, attackers: usize) -> f64 {
    let honest = arena.gain_of(0..PEERS - attackers) as f64 / (PEERS - attackers) as f64;
    arena.gain_of(PEERS - attackers..PEERS) as f64 / attackers as f64 / honest
}

/// A ring among [`PEERS`], of which the share of tasks whose wrong digest is
/// accepted has to lie within `bounds` of what is predicted.
fn ring(
    seed: Seed,
    about: About,
    members: usize,
    tasks: u64,
    bounds: impl Fn(f64, f64) -> [f64; 2],
) -> Result<Outcome, String> {
    // No penalty: the ring's share stays what it is.
    // Few tasks a height: what is said in disputes has to fit into blocks.
    let free = Parameters { penalty: MicroPower::ZERO, ..rules(4, PEERS as u32) };
    let mut arena = arena(seed, members, |_| Policy::Liar { ring: 1 }, free)?;
    arena.run(tasks, 80 + tasks)?;
    let settled = arena.tally.settled as f64;
    let share = arena.tally.accepted_wrong as f64 / settled;
    let predicted = lies_accepted(seed.child("theory", members as u64), members, PEERS, 50_000);
    Ok(about.outcome(predicted, share, bounds(predicted, settled), arena.tally.settled))
}

/// Three deviations of a binomial count, and one case, above the prediction.
fn at_most(predicted: f64, tasks: f64) -> f64 {
    predicted + (3.0 * (predicted * (1.0 - predicted) * tasks).sqrt() + 1.0) / tasks
}

/// All seats of a task have to be the ring's, or most of those that a dispute adds.
pub(super) fn collusion(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let tasks = 1_000 * scale.times;
    let few = |predicted: f64, settled: f64| [0.0, at_most(predicted, settled)];
    let both = |predicted: f64, settled: f64| {
        let most = at_most(predicted, settled);
        [2.0 * predicted - most, most]
    };
    Ok(vec![
        ring(seed, COLLUSION, PEERS / 10, tasks, few)?,
        ring(seed.child("cartel", 0), CARTEL, 3 * PEERS / 10, tasks, both)?,
    ])
}

/// Canary: a ring of half of all weight, as if its members could choose their tasks.
pub(super) fn crowd(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let predicted = lies_accepted(seed.child("theory", 0), PEERS / 10, PEERS, 50_000);
    let few = |_: f64, settled: f64| [0.0, at_most(predicted, settled)];
    Ok(vec![ring(seed, COLLUSION, PEERS / 2, 200 * scale.times, few)?])
}

fn copies(seed: Seed, scale: Scale, policy: Policy) -> Result<Vec<Outcome>, String> {
    let mut arena = arena(seed, 2, |_| policy, rules(8, PEERS as u32))?;
    let tasks = 120 * scale.times;
    arena.run(tasks, 80 + tasks)?;
    Ok(vec![COPYCAT.outcome(0.0, relative_gain(&arena, 2), [-1_000.0, 0.0], arena.tally.settled)])
}

/// Who repeats others' results gains nothing.
pub(super) fn copycat(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    copies(seed, scale, Policy::Copycat)
}

/// Canary: as if reveals came before commitments were due.
pub(super) fn oracle(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    copies(seed, scale, Policy::Oracle)
}

/// One liar in twenty, under both rules.
pub(super) fn griefing(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let lone = |number| Policy::Liar { ring: number };
    let tasks = 200 * scale.times;
    let free = Parameters { penalty: MicroPower::ZERO, ..rules(8, PEERS as u32) };
    let mut all_lose = arena(seed, 1, lone, Parameters { agreement: Agreement::AllLose, ..free.clone() })?;
    all_lose.run(tasks, 80 + tasks)?;
    let settled = all_lose.tally.settled as f64;
    let share = all_lose.tally.all_lost as f64 / settled;
    // It opens one task in twenty; of another, each seat of the next stage, however many
    // there come to be, is its with a chance of 1 in 19.
    let passed = mean(&seats_at_end(2.0, 2), |seats| (18.0f64 / 19.0).powf(seats));
    let predicted = 1.0 - 0.95 * passed;
    let sigma = (predicted * (1.0 - predicted) / settled).sqrt();
    let bounds = [predicted - 3.0 * sigma, predicted + 3.0 * sigma];
    let first = ALL_LOSE.outcome(predicted, share, bounds, all_lose.tally.settled);
    let mut escalate = arena(seed, 1, lone, free)?;
    escalate.run(tasks, 80 + tasks)?;
    let liar = escalate.agents[PEERS - 1].peer;
    let blamed = escalate.state.faults().filter(|fault| fault.peer != liar).count() as u64;
    let lost = (escalate.tally.void + blamed) as f64 / escalate.tally.settled as f64;
    Ok(vec![first, ESCALATE.outcome(0.0, lost, [0.0, 0.005], escalate.tally.settled)])
}

/// What is credited unseen is taken back at the first comparison.
pub(super) fn trusted_liar(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let trusting = Parameters { trust_after: 4, trust_max: 8, ..rules(8, PEERS as u32) };
    let mut arena = arena(seed, 4, |_| Policy::TrustedLiar { percent: 50 }, trusting)?;
    let tasks = 500 * scale.times;
    arena.run(tasks, 80 + tasks)?;
    Ok(vec![TRUSTED.outcome(0.5, relative_gain(&arena, 4), [-1_000.0, 1.0], arena.tally.settled)])
}

/// A commitment that is not opened costs its author and holds nobody up for long.
pub(super) fn withheld_reveal(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let costly = Parameters { penalty: MicroPower(DIFFICULTY), ..rules(8, PEERS as u32) };
    let mut arena = arena(seed, 2, |_| Policy::Withholder, costly)?;
    let tasks = 120 * scale.times;
    arena.run(tasks, 80 + tasks)?;
    let done = arena.tally.withheld_accepted as f64 / arena.tally.withheld.max(1) as f64;
    let value = WITHHELD.outcome(-1.0, relative_gain(&arena, 2), [-1_000.0, -0.01], arena.tally.settled);
    Ok(vec![value, WITHHELD_DONE.outcome(1.0, done, [0.98, 1.0], arena.tally.withheld)])
}
