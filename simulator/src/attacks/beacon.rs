//! Attacks on chance: keys fitted to a beacon, and blocks that are held back.

use super::agent::Policy;
use super::arena::{Arena, rules};
use super::table::{About, Outcome, Scale};
use manta_protocol::Seed;
use manta_protocol::election::{Beacon, Domain, VrfSecret, election_input, lottery, sortition};
use manta_protocol::ledger::beacon_input;
use manta_protocol::wire::Identity;

const GRINDING: About = About {
    attack: "key grinding",
    what: "registers, every five heights, the one of 16 keys that would win most of what is open",
    measure: "seats it wins, in parts of its share of all weight",
};
const CHOSEN: About = About {
    attack: "key grinding, chosen",
    what: "as if a key counted for beacons that were known when it registered: the best of 16",
    measure: "elections it wins, in parts of its share of all weight",
};
const REVEALER: About = About {
    attack: "last revealer",
    what: "a fifth of all weight holds its block back if the next proposer would not be its own",
    measure: "blocks it proposes, in parts of its share of all weight",
};
const REVEALER_SEATS: About = About {
    attack: "last revealer, seats",
    what: "a fifth of all weight holds its block back if its beacon gives fewer seats than the mean",
    measure: "seats it wins, in parts of what it wins by the rules",
};

/// A key counts only for beacons that nobody knew when it registered.
pub(super) fn grinding(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    const HONEST: usize = 16;
    let mut founders = vec![(20_000_000, Policy::Honest); HONEST];
    founders.push((80_000_000, Policy::Grinder));
    let mut arena = Arena::new(seed, &founders, rules(8, founders.len() as u32))?;
    let tasks = 100 * scale.times;
    arena.run(tasks, 80 + tasks)?;
    let (won, all) = (arena.seats_of([HONEST]) as f64, arena.seats_of(0..=HONEST) as f64);
    // A fifth of all weight.
    let ratio = won / all / 0.2;
    let sigma = (0.8 / 0.2 / all).sqrt();
    Ok(vec![GRINDING.outcome(1.0, ratio, [0.0, 1.0 + 3.0 * sigma], arena.tally.settled)])
}

/// Canary: what the same search is worth if the beacon is known.
pub(super) fn chosen_key(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let trials = 100 * scale.times;
    let keys: Vec<_> = (0..16).map(|key| VrfSecret::derive(seed.child("key", key).0.as_bytes())).collect();
    let mut won = 0;
    for trial in 0..trials {
        let input = election_input(Domain::Drill, &Beacon(seed.child("beacon", trial).0), &[]);
        won += keys.iter().map(|key| sortition::seats(&key.prove(&input).0, 200, 1_000, 1_000)).max().unwrap_or(0);
    }
    let ratio = f64::from(won) / trials as f64 / 0.2;
    let sigma = (1.0 / (0.2 * trials as f64)).sqrt();
    Ok(vec![CHOSEN.outcome(1.0, ratio, [0.0, 1.0 + 3.0 * sigma], trials)])
}

/// A chain of beacons by real keys, of which the first has a fifth of all weight.
struct Chain {
    keys: Vec<(manta_protocol::PeerId, VrfSecret)>,
    weights: Vec<(manta_protocol::PeerId, u64)>,
    beacon: Beacon,
    height: u64,
}

impl Chain {
    fn new(seed: Seed) -> Self {
        let identities = (0..9).map(|key| Identity::from_secret(*seed.child("key", key).0.as_bytes()));
        let keys: Vec<_> = identities.map(|identity| (identity.peer_id(), identity.vrf())).collect();
        let mut weights: Vec<_> = keys.iter().map(|(peer, _)| (*peer, 100)).collect();
        weights[0].1 = 200;
        weights.sort_unstable();
        Self { keys, weights, beacon: Beacon(seed.child("beacon", 0).0), height: 1 }
    }

    fn total(&self) -> u64 {
        self.weights.iter().map(|(_, weight)| weight).sum()
    }

    /// The key that is drawn for a round of the height after `beacon`.
    fn proposer(&self, beacon: &Beacon, height: u64, round: u32) -> usize {
        let drawn = lottery::draw(&beacon.lottery_seed(height, round), &self.weights);
        self.keys.iter().position(|(peer, _)| Some(*peer) == drawn).unwrap_or(0)
    }

    /// The beacon after this key's block.
    fn after(&self, key: usize) -> Beacon {
        let (output, _) = self.keys[key].1.prove(&beacon_input(&self.beacon, self.height));
        self.beacon.next(&output)
    }

    /// Seats that the attacker wins of a stage under this beacon, four being expected.
    fn seats(&self, beacon: &Beacon) -> u32 {
        let (output, _) = self.keys[0].1.prove(&election_input(Domain::Drill, beacon, &[]));
        sortition::seats(&output, 200, self.total(), 4_000)
    }

    /// One height; `publishes` says whether the attacker shows a block with this beacon.
    fn step(&mut self, publishes: impl Fn(&Self, &Beacon) -> bool) -> usize {
        for round in 0.. {
            let proposer = self.proposer(&self.beacon, self.height, round);
            let next = self.after(proposer);
            // It holds back once: what comes after is no better for it on average.
            if proposer != 0 || round > 0 || publishes(self, &next) {
                (self.beacon, self.height) = (next, self.height + 1);
                return proposer;
            }
        }
        0
    }
}

/// Who holds a block back loses it, and chooses between two draws at most.
pub(super) fn last_revealer(seed: Seed, scale: Scale) -> Result<Vec<Outcome>, String> {
    let heights = 1_200 * scale.times;
    let share = 0.2;
    let mut chain = Chain::new(seed);
    let own_next = |chain: &Chain, next: &Beacon| chain.proposer(next, chain.height + 1, 0) == 0;
    let proposed = (0..heights).filter(|_| chain.step(own_next) == 0).count() as f64;
    // Drawn with p = α ÷ (1 − α + α²), shown or drawn again with 2α − α².
    let predicted = share / (1.0 - share + share * share) * (2.0 * share - share * share) / share;
    let sigma = (1.0 / (share * heights as f64)).sqrt();
    let blocks = REVEALER.outcome(predicted, proposed / heights as f64 / share, [0.0, 1.0], heights);
    let count = |publishes: fn(&Chain, &Beacon) -> bool| {
        let mut chain = Chain::new(seed);
        let of = |_| {
            chain.step(publishes);
            chain.seats(&chain.beacon)
        };
        (0..heights).map(of).sum::<u32>() as f64
    };
    let by_rules = count(|_, _| true);
    let held = count(|chain, next| chain.seats(next) >= 1);
    // It draws again in α of all heights if it has no seat, e^−0.8 of them, and then wins 0.8 on average.
    let gain = share * (-0.8f64).exp();
    let bounds = [0.0, 1.0 + gain + 3.0 * sigma * 1.5];
    Ok(vec![blocks, REVEALER_SEATS.outcome(1.0 + gain, held / by_rules, bounds, heights)])
}
