//! One engine under test; all other members are played by the test.

use crate::swarm::{chain_id, identify};
use manta_protocol::consensus::{
    Committee, Config, Engine, Input, Output, Proposal, Refusal, Start, Statement, Step, Timeouts, Vote, Votes, Worth,
};
use manta_protocol::election::{Beacon, lottery};
use manta_protocol::wire::Identity;
use manta_protocol::{Duration, Hash, PeerId, Seed, Time};
use std::sync::Arc;

/// When the height begins.
pub(crate) const BEGIN: Time = Time(1_790_000_000_000_000_000);

pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
    /// Members; the engine is the first.
    pub(crate) identities: Vec<Identity>,
    pub(crate) log: Vec<Vec<u8>>,
    start: Start,
}

impl Bench {
    /// Four members; the engine is drawn in these rounds of the first height and in no other of the first ten.
    pub(crate) fn drawn_in(rounds: &[u32]) -> Self {
        let seeds = (0..).map(Seed::from_number);
        let fits = |seed: &Seed| {
            let bench = Self::new(*seed);
            (0..10).all(|round| (bench.drawn(round) == 0) == rounds.contains(&round))
        };
        Self::new(seeds.take(100_000).find(fits).expect("some beacon draws like this"))
    }

    fn new(seed: Seed) -> Self {
        let identities: Vec<_> = (1..=4).map(|n| Identity::from_secret([n; 32])).collect();
        let weights = identities.iter().map(|identity| (identity.peer_id(), 1)).collect();
        let start = Start {
            chain: chain_id(),
            height: 1,
            committee: Arc::new(Committee::new(weights).unwrap()),
            beacon: Beacon(seed.0),
            parent_time_ms: BEGIN.as_unix_ms() - 1_000,
        };
        let engine = Engine::new(config(&identities[0]), start.clone(), &[], BEGIN).unwrap();
        Self { engine, now: BEGIN, identities, log: Vec::new(), start }
    }

    /// The place of the member that is drawn for a round.
    pub(crate) fn drawn(&self, round: u32) -> usize {
        let seed = self.start.beacon.lottery_seed(1, round);
        let drawn = lottery::draw(&seed, self.start.committee.weights()).unwrap();
        self.identities.iter().position(|identity| identity.peer_id() == drawn).unwrap()
    }

    pub(crate) fn peer(&self, place: usize) -> PeerId {
        self.identities[place].peer_id()
    }

    /// The outputs so far; records go to the log.
    pub(crate) fn outputs(&mut self) -> Vec<Output> {
        let outputs: Vec<_> = std::iter::from_fn(|| self.engine.poll()).collect();
        for output in &outputs {
            if let Output::Journal(record) = output {
                self.log.push(record.clone());
            }
        }
        outputs
    }

    pub(crate) fn input(&mut self, input: Input) -> Result<Worth, Refusal> {
        self.engine.handle(input, self.now)
    }

    pub(crate) fn pass(&mut self, ms: u64) -> Vec<Output> {
        self.now = self.now + Duration::from_ms(ms);
        self.engine.tick(self.now);
        self.outputs()
    }

    /// The engine again, from its log.
    pub(crate) fn restart(&mut self) {
        self.engine = Engine::new(config(&self.identities[0]), self.start.clone(), &self.log, self.now).unwrap();
    }

    pub(crate) fn vote(&self, place: usize, round: u32, step: Step, value: Hash) -> Vote {
        let statement = Statement { chain: chain_id(), height: 1, round, step, value, polka: 0 };
        let signature = statement.sign(&self.identities[place]);
        Vote { height: 1, round, step, value, author: self.peer(place), signature }
    }

    pub(crate) fn hear_votes(&mut self, votes: Vec<Vote>) -> Result<Worth, Refusal> {
        self.input(Input::Votes(Votes { votes }))
    }

    pub(crate) fn proposal(&self, place: usize, round: u32, polka: u32, bytes: &[u8]) -> Proposal {
        let value = identify(bytes, None).unwrap();
        let statement = Statement { chain: chain_id(), height: 1, round, step: Step::Propose, value, polka };
        let signature = statement.sign(&self.identities[place]);
        Proposal { height: 1, round, polka, value, author: self.peer(place), signature, bytes: bytes.to_vec() }
    }

    /// Hears the proposal of the drawn member and finds its value good.
    pub(crate) fn hear_good(&mut self, proposal: Proposal) -> Vec<Output> {
        let value = proposal.value;
        self.input(Input::Proposal(Box::new(proposal))).unwrap();
        let mut outputs = self.outputs();
        if outputs.iter().any(|output| matches!(output, Output::CheckValue { value: asked, .. } if *asked == value)) {
            self.input(Input::ValueChecked { value, valid: true }).unwrap();
            outputs.extend(self.outputs());
        }
        outputs
    }
}

pub(crate) fn config(identity: &Identity) -> Config {
    let timeouts = Timeouts { propose_ms: 500, vote_ms: 250, growth_ms: 250, max_ms: 10_000, repeat_ms: 600 };
    Config { identity: identity.clone(), epoch_ms: 1_000, timeouts, identify }
}

/// The engine's own votes among these outputs.
pub(crate) fn own_votes(outputs: &[Output], me: PeerId) -> Vec<(u32, Step, Hash)> {
    let votes = outputs.iter().filter_map(|output| match output {
        Output::GossipVotes(votes) => Some(&votes.votes),
        _ => None,
    });
    votes.flatten().filter(|vote| vote.author == me).map(|vote| (vote.round, vote.step, vote.value)).collect()
}

pub(crate) fn value(number: u8) -> Vec<u8> {
    vec![number; 48]
}
