//! What to simulate: what was asked for, and what the seed makes of the rest.

use crate::draws::Draws;
use crate::faults::{FAULTS_MAX, Fault, Kind, When};
use crate::network::Conditions;
use crate::options::{Choice, FaultWish, Faults, Links};
use manta_protocol::Seed;
use serde::{Deserialize, Serialize};

/// Most machines.
pub const PEERS_MAX: usize = 256;
/// Most heights.
pub const HEIGHTS_MAX: u64 = 100_000;
/// Kinds that a history draws, the likelier ones more often.
const DRAWN_KINDS: [Kind; 12] = [
    Kind::Kill,
    Kind::Kill,
    Kind::Kill,
    Kind::Freeze,
    Kind::Freeze,
    Kind::Partition,
    Kind::Partition,
    Kind::Link,
    Kind::OneWay,
    Kind::PowerCut,
    Kind::LoseDisk,
    Kind::Kill,
];
/// How many histories in a million are of a larger swarm, and how large it is.
const MANY_PER_MILLION: u64 = 40_000;
const MANY_PEERS: [[u64; 2]; 4] = [[8, 16], [8, 16], [17, 32], [33, 64]];
/// Kinds of fault that mean something here.
pub const KINDS: [Kind; 7] =
    [Kind::Kill, Kind::LoseDisk, Kind::PowerCut, Kind::Freeze, Kind::Partition, Kind::OneWay, Kind::Link];
/// What a fault lasts, in milliseconds: some end before anybody notices, some
/// after many epochs.
const LASTS_MS: [[u64; 2]; 3] = [[100, 1_500], [1_500, 6_000], [6_000, 15_000]];

/// A rule that is broken, to see that it is caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// All machines but one go on after a restart without their consensus logs.
    ForgetLogs,
    /// Machine 1 makes a block durable that nobody has sealed.
    UnsealedBlock,
    /// Machine 1 keeps another genesis document than the others, of the same founders.
    OtherGenesis,
    /// Machine 1 loses its last two durable blocks at a restart and does not say so.
    LoseBlocks,
}

/// People replace the committee of a ledger that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recovery {
    /// When.
    pub at_ms: u64,
    /// Machines whose keys are the new committee; the first one makes the plan, all sign.
    pub members: Vec<usize>,
    /// Machines whose owners say that they follow it.
    pub accept: Vec<usize>,
}

/// What was asked for; everything that is `None` is drawn from the seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Everything that is not given is drawn from this.
    pub seed: u64,
    /// The words on the command line that gave the rest, for the replay line.
    pub words: Vec<String>,
    /// Machines.
    pub peers: Option<usize>,
    /// Heights that every machine has to reach.
    pub heights: Option<u64>,
    /// How many of them are in the genesis document, with equal power; with none
    /// they find or found a ledger by themselves.
    pub founders: Option<usize>,
    /// How many keys run on two machines at once.
    pub twins: Option<usize>,
    /// How many return wrong drill results.
    pub liars: Option<usize>,
    /// The links.
    pub links: Links,
    /// What goes wrong.
    pub faults: Option<Faults>,
    /// What people do about a ledger that waits.
    pub recoveries: Vec<Recovery>,
    /// A rule that is broken.
    pub broken: Option<Break>,
    /// Each machine verifies all by itself; otherwise what one of them has verified
    /// is not verified again. The histories are the same.
    pub verify_all: bool,
}

/// One history's settings, nothing left open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setup {
    /// The seed.
    pub seed: u64,
    /// Keys.
    pub peers: usize,
    /// Heights to reach.
    pub heights: u64,
    /// Keys in the genesis document.
    pub founders: usize,
    /// Keys, from the last one down, that run on two machines.
    pub twins: usize,
    /// Keys, from the second one on, that return wrong drill results.
    pub liars: usize,
    /// The links.
    pub conditions: Conditions,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What people do about it.
    pub recoveries: Vec<Recovery>,
    /// A rule that is broken.
    pub broken: Option<Break>,
}

impl Options {
    /// The command line that gives this history again.
    pub fn replay(&self) -> String {
        let mut words = vec!["manta-sim".to_owned(), "ledger".into()];
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
            heights: self.heights.or(other.heights),
            founders: self.founders.or(other.founders),
            twins: self.twins.or(other.twins),
            liars: self.liars.or(other.liars),
            links: self.links.or(other.links),
            faults: self.faults.or(other.faults),
            recoveries: if self.recoveries.is_empty() { other.recoveries } else { self.recoveries },
            broken: self.broken.or(other.broken),
            verify_all: self.verify_all || other.verify_all,
        }
    }

    /// The whole history's settings.
    ///
    /// # Errors
    /// Says which two of the options do not go together.
    pub fn resolve(&self) -> Result<Setup, String> {
        let seed = Seed::from_number(self.seed).child("ledger", 0);
        let mut draws = Draws::new(seed.child("setup", 0));
        let drawn_peers = draws.one_of(&[4, 4, 4, 4, 5, 5, 6, 7]);
        let drawn_heights = draws.between(6, 14);
        let (drawn_peers, drawn_heights) = many(seed).unwrap_or((drawn_peers, drawn_heights));
        let peers = self.peers.unwrap_or(drawn_peers);
        let heights = self.heights.unwrap_or(drawn_heights);
        let alone = draws.happens(80_000);
        let some = draws.happens(250_000);
        let fewer = (peers as u64 * 3).div_ceil(4) as usize;
        let founders = self.founders.unwrap_or(if alone {
            0
        } else if some {
            fewer
        } else {
            peers
        });
        // Less than a third of the power may be faulty.
        let room = founders.saturating_sub(1) / 3;
        let twins = self.twins.unwrap_or(usize::from(draws.happens(200_000)).min(room));
        let liars = self.liars.unwrap_or(usize::from(draws.happens(200_000)).min(room.saturating_sub(twins)));
        let count = draws.one_of(&[0, 1, 1, 2, 2, 3, 4]);
        let mut faults = self.faults(count, heights, seed);
        // A member that lost its log may say something else again: it counts as faulty, too.
        let mut losses = room.saturating_sub(twins);
        if matches!(self.faults, None | Some(Faults::Drawn)) {
            for fault in faults.iter_mut().filter(|fault| fault.kind == Kind::LoseDisk) {
                match losses.checked_sub(1) {
                    Some(left) => losses = left,
                    None => fault.kind = Kind::Kill,
                }
            }
        }
        // Two sides that do not hear each other may each found a ledger and work for it.
        if founders == 0 && matches!(self.faults, None | Some(Faults::Drawn)) {
            let parts = |fault: &&mut Fault| matches!(fault.kind, Kind::Partition | Kind::OneWay | Kind::Link);
            faults.iter_mut().filter(parts).for_each(|fault| fault.kind = Kind::Kill);
        }
        let skewed = Links { skew_ms: self.links.skew_ms.or(Some(draws.one_of(&[0, 50, 900]))), ..self.links };
        let conditions = skewed.resolved(seed);
        let (seed, recoveries, broken) = (self.seed, self.recoveries.clone(), self.broken);
        Setup { seed, peers, heights, founders, twins, liars, conditions, faults, recoveries, broken }.checked()
    }

    fn faults(&self, count: u64, heights: u64, seed: Seed) -> Vec<Fault> {
        let draws = |index: usize| Draws::new(seed.child("fault", index as u64));
        let one = |index: usize, kind: Option<Kind>| {
            let mut draws = draws(index);
            let drawn = draws.one_of(&DRAWN_KINDS);
            drawn_fault(kind.unwrap_or(drawn), heights, &mut draws)
        };
        match &self.faults {
            None | Some(Faults::Drawn) => (0..count as usize).map(|index| one(index, None)).collect(),
            Some(Faults::Kinds(kinds)) => {
                kinds.iter().enumerate().map(|(index, kind)| one(index, Some(*kind))).collect()
            }
            Some(Faults::Listed(wishes)) => {
                wishes.iter().enumerate().map(|(index, wish)| wished(wish, heights, &mut draws(index))).collect()
            }
        }
    }
}

/// Of some seeds, a larger swarm and fewer heights: what a height costs grows with
/// the square of the machines.
fn many(seed: Seed) -> Option<(usize, u64)> {
    let mut draws = Draws::new(seed.child("size", 0));
    if !draws.happens(MANY_PER_MILLION) {
        return None;
    }
    let [fewest, most] = draws.one_of(&MANY_PEERS);
    Some((draws.between(fewest, most) as usize, draws.between(3, 5)))
}

fn drawn_fault(kind: Kind, heights: u64, draws: &mut Draws) -> Fault {
    let when = When::AtMs(draws.between(500, 1_000 * heights));
    let [shortest, longest] = draws.one_of(&LASTS_MS);
    let lasts_ms = Some(draws.between(shortest, longest));
    Fault { kind, when, hosts: Vec::new(), lasts_ms, noticed: draws.happens(500_000) }
}

fn wished(wish: &FaultWish, heights: u64, draws: &mut Draws) -> Fault {
    let drawn = drawn_fault(wish.kind, heights, draws);
    let lasts_ms = match wish.lasts_ms {
        Some(Choice::Given(ms)) => Some(ms),
        Some(Choice::Drawn) => drawn.lasts_ms,
        None => None,
    };
    let (when, noticed) = (wish.when.unwrap_or(drawn.when), wish.noticed.unwrap_or(drawn.noticed));
    Fault { kind: wish.kind, when, hosts: wish.hosts.clone(), lasts_ms, noticed }
}

impl Setup {
    /// Machines: keys, and the second machine of each twin.
    pub fn machines(&self) -> usize {
        self.peers + self.twins
    }

    /// The key that a machine runs.
    pub fn key_of(&self, machine: usize) -> usize {
        if machine < self.peers { machine } else { self.peers - 1 - (machine - self.peers) }
    }

    /// Whether a key runs on two machines.
    pub fn is_twin(&self, key: usize) -> bool {
        key + self.twins >= self.peers
    }

    /// Whether a key returns wrong drill results.
    pub fn is_liar(&self, key: usize) -> bool {
        (1..=self.liars).contains(&key)
    }

    fn checked(self) -> Result<Self, String> {
        let within = |what: &str, value: u64, low: u64, high: u64| match value {
            value if (low..=high).contains(&value) => Ok(()),
            value => Err(format!("{what} = {value}, accepted is {low} to {high}")),
        };
        within("peers", self.peers as u64, 1, PEERS_MAX as u64)?;
        within("heights", self.heights, 1, HEIGHTS_MAX)?;
        within("founders", self.founders as u64, 0, self.peers.min(64) as u64)?;
        within("twins", self.twins as u64, 0, self.peers as u64)?;
        within("liars", self.liars as u64, 0, self.peers as u64 - 1)?;
        within("number of faults", self.faults.len() as u64, 0, FAULTS_MAX as u64)?;
        for Recovery { members, accept, .. } in &self.recoveries {
            within("members of a recovery", members.len() as u64, 1, self.peers as u64)?;
            if let Some(machine) = members.iter().chain(accept).find(|machine| **machine >= self.machines()) {
                return Err(format!("a recovery by machine {machine}, there are 0 to {}", self.machines() - 1));
            }
        }
        for fault in &self.faults {
            if !KINDS.contains(&fault.kind) {
                return Err(format!(
                    "a fault of kind {:?} means nothing to a ledger, accepted are {KINDS:?}",
                    fault.kind
                ));
            }
            if !matches!(fault.when, When::AtMs(_)) {
                return Err("a fault of a ledger comes at-ms, for there are no exchanges".into());
            }
            if let Some(host) = fault.hosts.iter().find(|host| **host >= self.machines()) {
                return Err(format!("a fault of machine {host}, there are 0 to {}", self.machines() - 1));
            }
            if fault.kind == Kind::Link && !matches!(fault.hosts.len(), 0 | 2) {
                return Err(format!("a link between {} machines, it lies between 2", fault.hosts.len()));
            }
        }
        Ok(self)
    }
}
