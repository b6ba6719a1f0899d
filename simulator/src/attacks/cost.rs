//! What honest work costs, and power that is not worked for.

use super::agent::Policy;
use super::arena::{Arena, DIFFICULTY, rules};
use super::table::{About, Outcome, Scale};
use super::theory::{mean, seats_at_end};
use crate::clock::EPOCH;
use manta_protocol::Seed;
use manta_protocol::ledger::Parameters;
use manta_protocol::power::{Branch, MicroPower, PowerRecord};

const WASH: About = About {
    attack: "wash trading",
    what: "pays itself for training without end and drills nothing",
    measure: "weight gained",
};
const WASH_BACKED: About = About {
    attack: "wash trading, backed",
    what: "the same, with as much drilling as an honest peer",
    measure: "weight, in parts of 0.4 + 0.6 κ times that drilling",
};
const REDUNDANCY: About = About {
    attack: "redundancy",
    what: "no attack: a steady swarm of honest, trusted peers",
    measure: "units computed beyond one for each accepted task",
};
const FARM: About = About {
    attack: "probation farming",
    what: "48 newcomers of one person do every unit that they are given",
    measure: "units a height, in parts of the fixed number that is drawn for all newcomers",
};
const FARM_POWER: About = About {
    attack: "probation farming, cap",
    what: "6 newcomers, for whom there are more units than the cap lets count",
    measure: "most power of one newcomer, in parts of the cap and one unit",
};

/// What redundancy may cost in a steady honest swarm.
const REDUNDANCY_MAX: f64 = 0.05;

/// Training counts only as far as drilling backs it.
pub(super) fn wash_trading(_: Seed, _: Scale) -> Result<Vec<Outcome>, String> {
    let now_ms = EPOCH.as_unix_ms();
    let kappa_milli = Parameters::lan().kappa_milli;
    let kappa = f64::from(kappa_milli) / 1_000.0;
    let washed = |drilling: MicroPower| {
        let mut record = PowerRecord::starting(drilling, now_ms);
        for hour in 0..1_000 {
            record.credit(Branch::Training, MicroPower::from_power(1_000_000), now_ms + hour);
        }
        record.weight(kappa_milli, now_ms + 1_000) as f64
    };
    let backed = washed(MicroPower(DIFFICULTY)) / (DIFFICULTY as f64 * (0.4 + 0.6 * kappa));
    Ok(vec![
        WASH.outcome(0.0, washed(MicroPower::ZERO), [0.0, 0.0], 1_000),
        WASH_BACKED.outcome(1.0, backed, [0.0, 1.0], 1_000),
    ])
}

/// Adaptive replication in a swarm that has earned its trust.
pub(super) fn redundancy(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    const PEERS: usize = 8;
    let defaults = Parameters::lan();
    let trusting =
        Parameters { trust_after: defaults.trust_after, trust_max: defaults.trust_max, ..rules(8, PEERS as u32) };
    let mut arena = Arena::new(seed, &[(20_000_000, Policy::Honest); PEERS], trusting)?;
    // Until trust is as far as it goes.
    let is_trusted =
        |arena: &Arena| arena.agents.iter().all(|agent| arena.state.trust(&agent.peer).streak >= defaults.trust_max);
    while !is_trusted(&arena) {
        arena.run(arena.tally.settled + 8, 20)?;
    }
    let (settled, executions) = (arena.tally.accepted, arena.executions());
    let tasks = 3_000 * scale.times;
    arena.run(arena.tally.settled + tasks, 60 + tasks)?;
    let accepted = arena.tally.accepted - settled;
    let extra = (arena.executions() - executions) as f64 / accepted as f64 - 1.0;
    // One driller, compared once in trust_max tasks with those who win the seats of the
    // next stage. 3,000 tasks are so many that three deviations fit below the bound.
    let predicted = mean(&seats_at_end(2.0, 2), |seats| seats) / f64::from(defaults.trust_max);
    Ok(vec![REDUNDANCY.outcome(predicted, extra, [0.0, REDUNDANCY_MAX], accepted)])
}

/// The beacon draws a fixed number of newcomers, however many there are.
pub(super) fn probation(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    const HONEST: usize = 8;
    let heights = 60 * scale.times;
    let cap = DIFFICULTY / 20;
    let farm = |newcomers: usize| {
        let mut founders = vec![(20_000_000, Policy::Honest); HONEST];
        founders.extend(vec![(0, Policy::Newcomer); newcomers]);
        let parameters = Parameters { probation_milli: 800, probation_weight_max: cap, ..rules(1, HONEST as u32) };
        let mut arena = Arena::new(seed, &founders, parameters)?;
        while arena.state.height() < heights {
            arena.step()?;
        }
        let units = arena.seats_of(HONEST..HONEST + newcomers);
        let most = (HONEST..HONEST + newcomers).map(|agent| arena.gain(agent)).max().unwrap_or(0);
        Ok::<_, String>((units, most))
    };
    let (_, most) = farm(6)?;
    let (many, _) = farm(48)?;
    let drawn = 0.8 * heights as f64;
    let ratio = many as f64 / drawn;
    let sigma = (1.0 / drawn).sqrt();
    // The cap is on weight: 0.4 of effective power, of which a unit adds a tenth at once.
    let reach = cap as f64 / 0.4 / 0.099 + DIFFICULTY as f64;
    Ok(vec![
        FARM.outcome(1.0, ratio, [0.0, 1.0 + 3.0 * sigma], heights),
        FARM_POWER.outcome(1.0, most as f64 / reach, [0.0, 1.0], heights),
    ])
}
