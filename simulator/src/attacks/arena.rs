//! A ledger and scripted agents: one honest proposer set builds block after
//! block in process, with every rule of [`State`] and without networks, clocks
//! and votes. Thousands of tasks take seconds.

use super::agent::{Agent, Policy};
use crate::clock::EPOCH;
use manta_protocol::election::lottery;
use manta_protocol::ledger::{Action, DrillClass, Founder, Genesis, Outcome, Parameters, Settled, State, Transaction};
use manta_protocol::power::{Branch, MicroPower};
use manta_protocol::{Hash, NetworkId, PeerId, Seed};
use std::collections::BTreeMap;

/// The class of all units here.
const CLASS: DrillClass = DrillClass { rows: 1_024, columns: 512, depth: 1_024, commit_blocks: 2 };
/// What a unit is worth, in millionths of power.
pub(super) const DIFFICULTY: u64 = 6_000;

/// What happened to tasks, counted as they settle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Tasks that ended with results.
    pub(super) settled: u64,
    /// Tasks whose digest was accepted.
    pub(super) accepted: u64,
    /// Of these, with a wrong digest.
    pub(super) accepted_wrong: u64,
    /// Tasks in which all lost.
    pub(super) all_lost: u64,
    /// Tasks that nobody won or lost.
    pub(super) void: u64,
    /// Tasks of which a driller did not open its commitment, and how many of them ended with an accepted digest.
    pub(super) withheld: u64,
    pub(super) withheld_accepted: u64,
    /// Most heights from a task's first stage to its end.
    pub(super) longest: u64,
    /// Seats of each peer; one that won several did one unit.
    pub(super) seats: BTreeMap<PeerId, u64>,
}

/// See the module.
pub(super) struct Arena {
    pub(super) state: State,
    pub(super) agents: Vec<Agent>,
    pub(super) tally: Tally,
    /// Who says the same of a task as whom: settled tasks that were seen.
    seen: BTreeMap<Hash, u64>,
    begun: BTreeMap<PeerId, MicroPower>,
}

/// Rules for many tasks at once, each worth [`DIFFICULTY`].
pub(super) fn rules(tasks_a_height: u32, owners: u32) -> Parameters {
    let operations = CLASS.operations();
    Parameters {
        epoch_ms: 1_000,
        classes: vec![CLASS],
        operations_per_power: operations / DIFFICULTY * 1_000_000,
        tasks_per_1000_owners: (tasks_a_height * 1_000).div_ceil(owners).min(1_000),
        // Nobody is trusted unless an attack is about trust.
        trust_after: 1_000,
        trust_max: 1_000,
        probation_milli: 0,
        // Probes are no part of what is measured here.
        probe_interval_ms: 86_400_000,
        ..Parameters::lan()
    }
}

impl Arena {
    /// A ledger of these founders: power of each, in millionths, and policy.
    ///
    /// # Errors
    /// The parameters are not accepted.
    pub(super) fn new(seed: Seed, founders: &[(u64, Policy)], parameters: Parameters) -> Result<Self, String> {
        let agents: Vec<_> =
            founders.iter().enumerate().map(|(number, (_, policy))| Agent::new(seed, number, *policy)).collect();
        let mut documents: Vec<_> = agents
            .iter()
            .zip(founders)
            .filter(|(_, (power, _))| *power > 0)
            .map(|(agent, (power, _))| {
                let power = MicroPower(*power);
                Founder { peer: agent.peer, vrf: agent.vrf.public(), class: 0, power }
            })
            .collect();
        documents.sort_unstable_by_key(|founder| founder.peer);
        let network = NetworkId::from_name("simulated attacks");
        let time_ms = EPOCH.as_unix_ms();
        let genesis = Genesis { network, name: "arena".into(), time_ms, founders: documents, parameters };
        let state = State::genesis(genesis).map_err(|error| error.to_string())?;
        let begun = agents.iter().map(|agent| (agent.peer, real(&state, &agent.peer))).collect();
        Ok(Self { state, agents, tally: Tally::default(), seen: BTreeMap::new(), begun })
    }

    /// One height: everyone says what it has to say, and a block takes it.
    ///
    /// # Errors
    /// The block that was built is not accepted.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.step_with(Vec::new())
    }

    /// The same, with what else is said.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub(super) fn step_with(&mut self, mut said: Vec<Transaction>) -> Result<(), String> {
        for agent in &mut self.agents {
            said.extend(agent.look(&self.state));
        }
        // As the pool orders them: what is owed comes first, then by chance.
        let head = self.state.head();
        said.sort_by_cached_key(|transaction| {
            let within = Hash::of(&[&head.as_bytes()[..], transaction.id().as_bytes()].concat());
            (!matches!(transaction.action, Action::Reveal(_)), within)
        });
        let height = self.state.height() + 1;
        let committee = self.state.next_committee();
        let proposer = (0..)
            .filter_map(|round| lottery::draw(&self.state.beacon().lottery_seed(height, round), committee.weights()))
            .find_map(|peer| self.agents.iter().find(|agent| agent.peer == peer && agent.proposes()))
            .ok_or("nobody can propose")?;
        let now_ms = self.state.time_ms() + self.state.parameters().epoch_ms;
        let block = self.state.build(&proposer.identity, &said, now_ms).map_err(|error| error.to_string())?;
        self.state = self.state.execute(&block, now_ms).map_err(|error| error.to_string())?;
        self.count();
        Ok(())
    }

    /// Goes on until so many tasks have settled, for at most `heights`.
    ///
    /// # Errors
    /// As [`Self::step`]; or the tasks do not settle.
    pub(super) fn run(&mut self, tasks: u64, heights: u64) -> Result<(), String> {
        for _ in 0..heights {
            if self.tally.settled >= tasks {
                return Ok(());
            }
            self.step()?;
        }
        match self.tally.settled >= tasks {
            true => Ok(()),
            false => Err(format!("{} tasks settled in {heights} heights, {tasks} were expected", self.tally.settled)),
        }
    }

    fn count(&mut self) {
        let height = self.state.height();
        let settled: Vec<_> =
            self.state.settled().rev().take_while(|settled| settled.height == height).cloned().collect();
        for settled in settled {
            if self.seen.insert(settled.task.id, height).is_none() {
                self.count_one(&settled);
            }
        }
    }

    fn count_one(&mut self, settled: &Settled) {
        let tally = &mut self.tally;
        let task = &settled.task;
        let truth = crate::ledger::honest_result(&task.id, &CLASS, None).digest;
        tally.settled += 1;
        let accepted = settled.outcome.digest();
        tally.accepted += u64::from(accepted.is_some());
        tally.accepted_wrong += u64::from(accepted.is_some_and(|digest| digest != truth));
        tally.all_lost += u64::from(settled.outcome == Outcome::AllLost);
        tally.void += u64::from(settled.outcome == Outcome::Void);
        if task.seats.iter().any(|seat| seat.forfeited) {
            tally.withheld += 1;
            tally.withheld_accepted += u64::from(accepted == Some(truth));
        }
        let opened = task.stages.first().map_or(settled.height, |stage| stage.opened);
        tally.longest = tally.longest.max(settled.height - opened);
        for seat in &task.seats {
            *tally.seats.entry(seat.worker).or_insert(0) += u64::from(task.seats_won(seat));
        }
    }

    /// Power that an agent has gained (or, below zero, lost) since it began, in millionths.
    pub(super) fn gain(&self, agent: usize) -> i64 {
        let peer = self.agents[agent].peer;
        let before = self.begun.get(&peer).map_or(0, |power| power.0);
        real(&self.state, &peer).0 as i64 - before as i64
    }

    /// The same of several agents.
    pub(super) fn gain_of(&self, agents: impl IntoIterator<Item = usize>) -> i64 {
        agents.into_iter().map(|agent| self.gain(agent)).sum()
    }

    /// Seats that these agents had.
    pub(super) fn seats_of(&self, agents: impl IntoIterator<Item = usize>) -> u64 {
        agents.into_iter().filter_map(|agent| self.tally.seats.get(&self.agents[agent].peer)).sum()
    }

    /// Units that all agents have computed.
    pub(super) fn executions(&self) -> u64 {
        self.agents.iter().map(|agent| agent.executions).sum()
    }
}

fn real(state: &State, peer: &PeerId) -> MicroPower {
    state.power(peer).map_or(MicroPower::ZERO, |power| power.record.real(Branch::Drilling))
}
