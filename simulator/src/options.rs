//! What to simulate: what was asked for, and what the seed makes of the rest.

use crate::draws::Draws;
use crate::faults::{FAULTS_MAX, Fault, Kind, When};
use crate::network::Conditions;
use crate::tamper::Break;
use manta_protocol::Seed;
use manta_protocol::wire::limits::MEMBERS_MAX;
use serde::{Deserialize, Serialize};

/// Most machines of one swarm.
pub const PEERS_MAX: usize = 4_096;
/// Most rounds of one run.
pub const ROUNDS_MAX: u32 = 10_000;
/// Most runs that are ordered.
pub const ORDERS_MAX: usize = 64;
/// Kinds of fault that a history draws, the likelier ones more often.
const DRAWN_KINDS: [Kind; 24] = [
    Kind::Kill,
    Kind::Kill,
    Kind::Kill,
    Kind::Kill,
    Kind::Kill,
    Kind::Freeze,
    Kind::Freeze,
    Kind::Freeze,
    Kind::Freeze,
    Kind::Partition,
    Kind::Partition,
    Kind::Partition,
    Kind::Link,
    Kind::Link,
    Kind::OneWay,
    Kind::OneWay,
    Kind::Join,
    Kind::Join,
    Kind::Join,
    Kind::Leave,
    Kind::KillOwner,
    Kind::KillOwner,
    Kind::PowerCut,
    Kind::LoseDisk,
];

/// How the members' work is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Gradients are averaged at every step.
    EveryStep,
    /// Each member makes the steps of a round by itself, then the moves are averaged.
    LocalSteps,
}

/// A number, or that the seed is to choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Given(u64),
    /// The seed's.
    Drawn,
}

/// A fault as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultWish {
    /// What.
    pub kind: Kind,
    /// When; `None` leaves it to the seed.
    pub when: Option<When>,
    /// Whom; nobody leaves it to the seed.
    pub hosts: Vec<usize>,
    /// How long, in milliseconds; `None`: for ever, if the kind can be.
    pub lasts_ms: Option<Choice>,
    /// Whether a cut is noticed; `None` leaves it to the seed.
    pub noticed: Option<bool>,
}

/// Which faults are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Faults {
    /// As many and such as the seed chooses.
    Drawn,
    /// One of each of these.
    Kinds(Vec<Kind>),
    /// These.
    Listed(Vec<FaultWish>),
}

/// Links and clocks; what is `None` is drawn from the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Links {
    /// Longest one-way latency of a link, in microseconds [default: from the seed].
    #[arg(long)]
    pub latency_us: Option<u64>,
    /// Longest random addition to a message's latency, in microseconds [default: from the seed].
    #[arg(long)]
    pub jitter_us: Option<u64>,
    /// Frames lost in a million [default: from the seed].
    #[arg(long, value_parser = rate)]
    pub loss_per_million: Option<u64>,
    /// Frames that come twice in a million [default: from the seed].
    #[arg(long, value_parser = rate)]
    pub repeat_per_million: Option<u64>,
    /// Frames held up for up to 2.5 s in a million [default: from the seed].
    #[arg(long, value_parser = rate)]
    pub late_per_million: Option<u64>,
    /// Uplink of each machine, in bytes a second [default: from the seed].
    #[arg(long)]
    pub uplink_bytes_per_s: Option<u64>,
    /// Largest error of a machine's clock, in milliseconds [default: from the seed].
    #[arg(long)]
    pub skew_ms: Option<u64>,
    /// Longest time in which a journal record is made durable, in microseconds [default: from the seed].
    #[arg(long)]
    pub sync_us: Option<u64>,
}

fn rate(text: &str) -> Result<u64, String> {
    crate::network::rate(text.parse().map_err(|error| format!("{error}"))?)
}

impl Links {
    /// What is given here, and otherwise in `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            latency_us: self.latency_us.or(other.latency_us),
            jitter_us: self.jitter_us.or(other.jitter_us),
            loss_per_million: self.loss_per_million.or(other.loss_per_million),
            repeat_per_million: self.repeat_per_million.or(other.repeat_per_million),
            late_per_million: self.late_per_million.or(other.late_per_million),
            uplink_bytes_per_s: self.uplink_bytes_per_s.or(other.uplink_bytes_per_s),
            skew_ms: self.skew_ms.or(other.skew_ms),
            sync_us: self.sync_us.or(other.sync_us),
        }
    }

    pub(crate) fn resolved(self, seed: Seed) -> Conditions {
        let drawn = Conditions::drawn(seed);
        Conditions {
            latency_us_max: self.latency_us.unwrap_or(drawn.latency_us_max),
            jitter_us_max: self.jitter_us.unwrap_or(drawn.jitter_us_max),
            loss_per_million: self.loss_per_million.unwrap_or(drawn.loss_per_million),
            repeat_per_million: self.repeat_per_million.unwrap_or(drawn.repeat_per_million),
            late_per_million: self.late_per_million.unwrap_or(drawn.late_per_million),
            uplink_bytes_per_s: self.uplink_bytes_per_s.unwrap_or(drawn.uplink_bytes_per_s),
            skew_ms_max: self.skew_ms.unwrap_or(drawn.skew_ms_max),
            sync_us_max: self.sync_us.unwrap_or(drawn.sync_us_max),
        }
    }
}

/// What was asked for; everything that is `None` is drawn from the seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Everything that is not given is drawn from this.
    pub seed: u64,
    /// The words on the command line that gave the rest, for the replay line.
    pub words: Vec<String>,
    /// Machines that are there from the beginning.
    pub peers: Option<usize>,
    /// Fewest members to start each run with, at most 16.
    pub members: Option<u16>,
    /// Most members of each run, at most 16.
    pub members_max: Option<u16>,
    /// Rounds of each run.
    pub rounds: Option<u32>,
    /// Optimiser steps of one round.
    pub steps_per_round: Option<u32>,
    /// Runs that are ordered at the same time, by different users.
    pub orders: Option<usize>,
    /// How work is put together.
    pub mode: Option<Mode>,
    /// Whether the last of two members goes on alone.
    pub solo: Option<bool>,
    /// The links.
    pub links: Links,
    /// What goes wrong.
    pub faults: Option<Faults>,
    /// A rule that is broken.
    pub broken: Option<Break>,
}

impl Options {
    /// The command line that gives this history again.
    pub fn replay(&self) -> String {
        let mut words = vec!["manta-sim".to_owned(), "run".into()];
        words.extend(self.words.iter().cloned());
        words.extend(["--seed".into(), self.seed.to_string()]);
        words.join(" ")
    }

    /// What is given here, and otherwise in `other`; the seed is this one's.
    pub fn or(self, other: Self) -> Self {
        Self {
            seed: self.seed,
            words: self.words,
            peers: self.peers.or(other.peers),
            members: self.members.or(other.members),
            members_max: self.members_max.or(other.members_max),
            rounds: self.rounds.or(other.rounds),
            steps_per_round: self.steps_per_round.or(other.steps_per_round),
            orders: self.orders.or(other.orders),
            mode: self.mode.or(other.mode),
            solo: self.solo.or(other.solo),
            links: self.links.or(other.links),
            faults: self.faults.or(other.faults),
            broken: self.broken.or(other.broken),
        }
    }

    /// The whole history's settings.
    ///
    /// # Errors
    /// Says which two of the options do not go together.
    pub fn resolve(&self) -> Result<Setup, String> {
        let seed = Seed::from_number(self.seed);
        let mut draws = Draws::new(seed.child("setup", 0));
        let drawn_peers = draws.one_of(&[2, 3, 3, 4, 4, 4, 5, 5, 6, 7]);
        let peers = self.peers.unwrap_or_else(|| drawn_peers.max(usize::from(self.members.unwrap_or(1))));
        let most = peers.min(MEMBERS_MAX) as u64;
        let drawn_members = draws.between(most.div_ceil(2).max(2).min(most), most) as u16;
        let members = self.members.unwrap_or(drawn_members);
        let rounds = draws.between(2, 5) as u32;
        let steps_per_round = draws.between(1, 3) as u32;
        let local_steps = draws.happens(350_000);
        let solo = draws.happens(500_000);
        let orders = if peers > 3 && draws.happens(80_000) { 2 } else { 1 };
        let mode = self.mode.unwrap_or(if local_steps { Mode::LocalSteps } else { Mode::EveryStep });
        let rounds = self.rounds.unwrap_or(rounds);
        let steps_per_round = self.steps_per_round.unwrap_or(steps_per_round);
        let exchanges = u64::from(rounds) * if mode == Mode::LocalSteps { 1 } else { u64::from(steps_per_round) };
        let count = draws.one_of(&[0, 1, 1, 1, 2, 2, 2, 3, 4]);
        let faults = self.faults(count, exchanges, seed);
        let joins = faults.iter().filter(|fault| fault.kind == Kind::Join).count();
        let room = members.saturating_add(joins as u16).min(MEMBERS_MAX as u16);
        let setup = Setup {
            seed: self.seed,
            peers,
            joins,
            members,
            members_max: self.members_max.unwrap_or(room),
            rounds,
            steps_per_round,
            micro_batches: draws.between(1, 3) as u32,
            chunk_elements: draws.one_of(&[24, 60, 500]),
            orders: self.orders.unwrap_or(orders),
            mode,
            solo: self.solo.unwrap_or(solo),
            conditions: self.links.resolved(seed),
            faults,
            broken: self.broken,
        };
        setup.checked()
    }

    fn faults(&self, count: u64, exchanges: u64, seed: Seed) -> Vec<Fault> {
        let draws = |index: usize| Draws::new(seed.child("fault", index as u64));
        match &self.faults {
            None | Some(Faults::Drawn) => Fault::several(&DRAWN_KINDS, count, exchanges, seed),
            Some(Faults::Kinds(kinds)) => {
                let of = |(index, kind): (usize, &Kind)| Fault::drawn(*kind, exchanges, &mut draws(index));
                kinds.iter().enumerate().map(of).collect()
            }
            Some(Faults::Listed(wishes)) => {
                let of = |(index, wish): (usize, &FaultWish)| wish.resolved(exchanges, &mut draws(index));
                wishes.iter().enumerate().map(of).collect()
            }
        }
    }
}

impl FaultWish {
    fn resolved(&self, exchanges: u64, draws: &mut Draws) -> Fault {
        let drawn = Fault::drawn(self.kind, exchanges, draws);
        let lasts_ms = match self.lasts_ms {
            Some(Choice::Given(ms)) => Some(ms),
            Some(Choice::Drawn) => drawn.lasts_ms.or(Some(5_000)),
            None => None,
        };
        Fault {
            kind: self.kind,
            when: self.when.unwrap_or(drawn.when),
            hosts: self.hosts.clone(),
            lasts_ms,
            noticed: self.noticed.unwrap_or(drawn.noticed),
        }
    }
}

/// One history's settings, nothing left open.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    /// The seed.
    pub seed: u64,
    /// Machines that are there from the beginning.
    pub peers: usize,
    /// Machines that come later.
    pub joins: usize,
    /// Fewest members to start each run with.
    pub members: u16,
    /// Most members of each run.
    pub members_max: u16,
    /// Rounds of each run.
    pub rounds: u32,
    /// Optimiser steps of one round.
    pub steps_per_round: u32,
    /// Micro-batches of one member in one step.
    pub micro_batches: u32,
    /// Elements of one chunk.
    pub chunk_elements: u32,
    /// Runs that are ordered.
    pub orders: usize,
    /// How work is put together.
    pub mode: Mode,
    /// Whether the last of two members goes on alone.
    pub solo: bool,
    /// The links.
    pub conditions: Conditions,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// A rule that is broken.
    pub broken: Option<Break>,
}

impl Setup {
    /// Machines in all.
    pub fn hosts(&self) -> usize {
        self.peers + self.joins
    }

    /// Whether nothing goes wrong from outside.
    pub fn is_calm(&self) -> bool {
        self.faults.is_empty() && self.conditions.loss_per_million == 0
    }

    fn checked(self) -> Result<Self, String> {
        let within = |what: &str, value: u64, low: u64, high: u64| match value {
            value if (low..=high).contains(&value) => Ok(()),
            value => Err(format!("{what} = {value}, accepted is {low} to {high}")),
        };
        within("peers", self.peers as u64, 1, PEERS_MAX as u64)?;
        within("members", self.members.into(), 1, self.peers.min(MEMBERS_MAX) as u64)?;
        within("members-max", self.members_max.into(), self.members.into(), MEMBERS_MAX as u64)?;
        within("rounds", self.rounds.into(), 1, ROUNDS_MAX.into())?;
        within("steps-per-round", self.steps_per_round.into(), 1, 4_096)?;
        within("orders", self.orders as u64, 1, self.peers.min(ORDERS_MAX) as u64)?;
        within("number of faults", self.faults.len() as u64, 0, FAULTS_MAX as u64)?;
        for fault in &self.faults {
            if let Some(host) = fault.hosts.iter().find(|host| **host >= self.hosts()) {
                return Err(format!("a fault of host {host}, there are hosts 0 to {}", self.hosts() - 1));
            }
            if fault.kind == Kind::Link && !matches!(fault.hosts.len(), 0 | 2) {
                return Err(format!("a link between {} hosts, it lies between 2", fault.hosts.len()));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_drawn_and_goes_together() {
        let mut seen = [false; 6];
        for seed in 0..400 {
            let setup = Options { seed, ..Options::default() }.resolve().expect("every seed is a history");
            let marks = [
                setup.mode == Mode::LocalSteps,
                setup.solo,
                setup.joins > 0,
                setup.faults.is_empty(),
                setup.faults.len() > 3,
                setup.orders > 1,
            ];
            seen.iter_mut().zip(marks).for_each(|(seen, mark)| *seen |= mark);
        }
        assert_eq!(seen, [true; 6]);
    }

    #[test]
    fn what_is_given_holds_and_what_cannot_be_is_refused_by_name() {
        let options = Options { seed: 4, peers: Some(5), members: Some(3), rounds: Some(9), ..Options::default() };
        let setup = options.resolve().expect("possible");
        assert_eq!((setup.peers, setup.members, setup.rounds), (5, 3, 9));
        let more = Options { members: Some(6), ..options.clone() };
        assert_eq!(more.resolve().unwrap_err(), "members = 6, accepted is 1 to 5");
        assert_eq!(options.or(more).members, Some(3));
    }
}
