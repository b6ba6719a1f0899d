//! The genesis document: all that a ledger begins with. Its hash is the
//! ledger's name; no rule depends on anything that is not in it.

use super::limits::{CLASSES_MAX, COMMIT_BLOCKS_MAX, FOUNDERS_MAX, REVEAL_BLOCKS_MAX};
use crate::drill::unit::OPERATIONS_PER_WHETSTONE;
use crate::ids::{Hash, NetworkId, PeerId, VrfPublic};
use crate::membership::NAME_BYTES_MAX;
use crate::power::{MicroPower, WHETSTONE_OPERATIONS_PER_POWER, drill_credit};
use crate::wire::codec;
use serde::{Deserialize, Serialize};

const GENESIS_DOMAIN: &str = "manta 2026-11 ledger genesis v1";

/// Shortest and longest epoch, in milliseconds.
const EPOCH_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// Largest amount a parameter may name, in micro-credits: sums over all blocks
/// that there can ever be stay far below 2⁶⁴.
const REWARD_MAX: u64 = 1 << 32;

/// One peer that the ledger begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Who.
    pub peer: PeerId,
    /// Its key for elections.
    pub vrf: VrfPublic,
    /// The largest class of drill units that it can do, as an index.
    pub class: u8,
    /// What it starts with; it decays as any power.
    pub power: MicroPower,
}

/// What becomes of a task whose results differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// More drillers, then a referee: only those lose who are proven wrong.
    Escalate,
    /// The paper's rule: nobody is credited and all lose the task's value.
    AllLose,
}

/// A size of drill unit: the exact product of a `rows` × `depth` and a `depth` ×
/// `columns` matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillClass {
    /// Rows of the product.
    pub rows: u32,
    /// Columns of the product.
    pub columns: u32,
    /// Terms of each element.
    pub depth: u32,
    /// Blocks within which an elected driller has to commit.
    pub commit_blocks: u32,
}

impl DrillClass {
    /// Multiplications and additions of one unit.
    pub fn operations(&self) -> u64 {
        2u64.saturating_mul(u64::from(self.rows))
            .saturating_mul(u64::from(self.columns))
            .saturating_mul(u64::from(self.depth))
    }
}

/// The rules of one ledger, as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Time from block to block, in milliseconds.
    pub epoch_ms: u64,
    /// How far a block's time may be ahead of a validator's clock, in milliseconds.
    pub clock_skew_ms: u64,
    /// Heights for which a committee stays the same.
    pub term_blocks: u32,
    /// Minted for the proposer of a block, in micro-credits.
    pub block_reward: u64,
    /// Minted for the drillers of an agreed task together, in micro-credits.
    pub drill_reward: u64,
    /// How far training counts, in thousandths of the drilling that backs it.
    pub kappa_milli: u32,
    /// What becomes of a task whose results differ.
    pub agreement: Agreement,
    /// Owners whose results are compared, unless one is trusted.
    pub seats: u32,
    /// Owners below which no result counts, unless one is trusted.
    pub owners_min: u32,
    /// Sizes of drill units, ascending in operations.
    pub classes: Vec<DrillClass>,
    /// Operations of a unit that are worth as much as power 1.
    pub operations_per_power: u64,
    /// Blocks within which commitments have to be opened; at least two.
    pub reveal_blocks: u32,
    /// Tasks of one beacon for each thousand owners who can drill.
    pub tasks_per_1000_owners: u32,
    /// Consecutive valid results from which on an owner may be trusted alone.
    pub trust_after: u32,
    /// Beyond this many, further results add no trust: one in so many is always checked.
    pub trust_max: u32,
    /// Power that a proven fault costs.
    pub penalty: MicroPower,
    /// Weight up to which a key may do probation units.
    pub probation_weight_max: u64,
    /// Keys that are drawn for probation at each height, in thousandths.
    pub probation_milli: u32,
    /// Mean time between two probes of one peer, in milliseconds.
    pub probe_interval_ms: u64,
    /// Epochs without a block, after one, whose drills are still credited.
    pub idle_max: u32,
    /// The arithmetic of the units.
    pub arithmetic_version: u32,
}

/// The founding document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The swarm that the ledger is for.
    pub network: NetworkId,
    /// What people call it.
    pub name: String,
    /// When it begins, in Unix milliseconds: the time of height 0.
    pub time_ms: u64,
    /// Who begins it: at least one, strictly ascending by id.
    pub founders: Vec<Founder>,
    /// Its rules.
    pub parameters: Parameters,
}

impl Parameters {
    /// The rules of a swarm in one place.
    pub fn lan() -> Self {
        Self {
            epoch_ms: 10_000,
            clock_skew_ms: 60_000,
            term_blocks: 16,
            block_reward: 1_000_000,
            drill_reward: 1_000_000,
            kappa_milli: 20_000,
            agreement: Agreement::Escalate,
            seats: 3,
            owners_min: 2,
            classes: vec![
                DrillClass { rows: 8_192, columns: 2_048, depth: 1_024, commit_blocks: 2 },
                DrillClass { rows: 131_072, columns: 4_096, depth: 1_024, commit_blocks: 2 },
            ],
            operations_per_power: WHETSTONE_OPERATIONS_PER_POWER.saturating_mul(OPERATIONS_PER_WHETSTONE),
            reveal_blocks: 2,
            tasks_per_1000_owners: 50,
            trust_after: 10,
            trust_max: 100,
            penalty: MicroPower(10_000),
            probation_weight_max: 1_000,
            probation_milli: 500,
            // Probes come at random: eight an interval of six hours, on average,
            // leave one peer in three thousand unseen in such an interval.
            probe_interval_ms: 45 * 60_000,
            idle_max: 16,
            arithmetic_version: 1,
        }
    }

    /// The rules of a swarm that is spread over the world.
    pub fn public() -> Self {
        Self { epoch_ms: 30_000, ..Self::lan() }
    }

    /// The rules of a swarm that is watched for a minute: small units, short
    /// times, and power counted so that it shows.
    pub fn demo() -> Self {
        Self {
            epoch_ms: 1_000,
            clock_skew_ms: 2_000,
            term_blocks: 4,
            classes: vec![DrillClass { rows: 1_024, columns: 512, depth: 1_024, commit_blocks: 2 }],
            operations_per_power: 1_000_000_000_000,
            tasks_per_1000_owners: 250,
            probation_milli: 1_000,
            probe_interval_ms: 5_000,
            ..Self::lan()
        }
    }

    /// What a lone founder starts with: effective power for a tenth of the weight
    /// up to which newcomers come by probation. Drilling alone keeps everybody's
    /// share, so whoever begins far above what newcomers are given stays there.
    pub fn founder_power(&self) -> MicroPower {
        // A weight is 0.4 of drilling power; less than 10 would be no weight to speak of.
        MicroPower((self.probation_weight_max / 4).max(10))
    }

    /// What a unit of this class is worth, shared by all whose results agree.
    pub fn difficulty(&self, class: u8) -> MicroPower {
        let class = self.classes.get(usize::from(class));
        class.map_or(MicroPower::ZERO, |class| drill_credit(class.operations(), self.operations_per_power))
    }

    /// Checks every number.
    ///
    /// # Errors
    /// What was found and what is accepted.
    pub fn validate(&self) -> Result<(), String> {
        within("epoch_ms", self.epoch_ms, EPOCH_MS)?;
        within("clock_skew_ms", self.clock_skew_ms, 0..=600_000)?;
        within("term_blocks", self.term_blocks, 1..=4_096)?;
        within("block_reward", self.block_reward, 0..=REWARD_MAX)?;
        within("drill_reward", self.drill_reward, 0..=REWARD_MAX)?;
        within("kappa_milli", self.kappa_milli, 0..=1_000_000)?;
        within("owners_min", self.owners_min, 2..=8)?;
        within("seats", self.seats, self.owners_min..=8)?;
        within("operations_per_power", self.operations_per_power, 1..=u64::MAX)?;
        // A single proposer could keep out a reveal that has one block to come in.
        within("reveal_blocks", self.reveal_blocks, 2..=REVEAL_BLOCKS_MAX)?;
        within("tasks_per_1000_owners", self.tasks_per_1000_owners, 0..=1_000)?;
        within("trust_after", self.trust_after, 2..=1_000)?;
        within("trust_max", self.trust_max, self.trust_after..=10_000)?;
        within("penalty", self.penalty.0, 0..=1 << 40)?;
        within("probation_weight_max", self.probation_weight_max, 0..=1 << 40)?;
        within("probation_milli", self.probation_milli, 0..=16_000)?;
        within("probe_interval_ms", self.probe_interval_ms, 100..=86_400_000)?;
        within("idle_max", self.idle_max, 0..=64)?;
        within("classes", self.classes.len(), 1..=CLASSES_MAX)?;
        for class in &self.classes {
            within("rows of a class", class.rows, 1..=1 << 23)?;
            within("columns of a class", class.columns, 1..=1 << 14)?;
            within("depth of a class", class.depth, 4..=1_024)?;
            within("commit_blocks of a class", class.commit_blocks, 1..=COMMIT_BLOCKS_MAX)?;
            if !class.depth.is_multiple_of(4) {
                return Err(format!("depth of a class is {}, expected a multiple of 4", class.depth));
            }
        }
        if !self.classes.is_sorted_by(|a, b| a.operations() < b.operations()) {
            return Err("classes have to ascend in operations".into());
        }
        Ok(())
    }
}

impl Genesis {
    /// The name of this ledger.
    pub fn ledger(&self) -> Hash {
        Hash(blake3::derive_key(GENESIS_DOMAIN, &codec::encode(self)))
    }

    /// Checks the whole document.
    ///
    /// # Errors
    /// What was found and what is accepted.
    pub fn validate(&self) -> Result<(), String> {
        if self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(format!("a name of {} bytes, at most {NAME_BYTES_MAX} printable ones", self.name.len()));
        }
        within("time_ms", self.time_ms, 0..=u64::MAX / 2_000_000)?;
        within("founders", self.founders.len(), 1..=FOUNDERS_MAX)?;
        if !self.founders.is_sorted_by(|a, b| a.peer < b.peer) {
            return Err("founders have to ascend by id, each named once".into());
        }
        for founder in &self.founders {
            if !founder.vrf.is_valid() {
                return Err(format!("founder {:?} has no valid VRF key", founder.peer));
            }
            within("class of a founder", usize::from(founder.class), 0..=self.parameters.classes.len() - 1)?;
            within("power of a founder", founder.power.0, 0..=1 << 40)?;
        }
        if self.founders.iter().all(|founder| founder.power == MicroPower::ZERO) {
            return Err("no founder has power: nobody could propose a block".into());
        }
        self.parameters.validate()
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    what: &str,
    found: T,
    accepted: std::ops::RangeInclusive<T>,
) -> Result<(), String> {
    if accepted.contains(&found) {
        return Ok(());
    }
    Err(format!("{what} is {found}, {} to {} are accepted", accepted.start(), accepted.end()))
}
