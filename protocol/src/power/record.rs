//! What the ledger keeps of one peer's power.

use super::MicroPower;
use super::average::Average;
use super::weight::weight;
use serde::{Deserialize, Serialize};

/// Which kind of work power comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Branch {
    /// Redundant units that elected drillers agreed on.
    Drilling,
    /// Accepted training orders.
    Training,
}

/// Real and effective power of one peer, by branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerRecord {
    real_drilling: MicroPower,
    real_training: MicroPower,
    drilling: Average,
    training: Average,
}

impl PowerRecord {
    /// The record of a peer that begins at `now_ms`: with no power, or as a
    /// founder with `start`, which counts as drilling and decays as any power.
    pub fn starting(start: MicroPower, now_ms: u64) -> Self {
        Self {
            real_drilling: start,
            real_training: MicroPower::ZERO,
            drilling: Average::starting(start, now_ms),
            training: Average::starting(MicroPower::ZERO, now_ms),
        }
    }

    /// Credits work; gives the points that real power gained.
    pub fn credit(&mut self, branch: Branch, work: MicroPower, now_ms: u64) -> MicroPower {
        let (real, average) = self.branch(branch);
        average.add(work, now_ms);
        let before = std::mem::replace(real, real.plus(work));
        real.minus(before)
    }

    /// Takes power back: from real power as far as there is any, and from
    /// effective power what the same work would add now; gives the points that
    /// real power lost.
    pub fn penalise(&mut self, branch: Branch, work: MicroPower, now_ms: u64) -> MicroPower {
        let (real, average) = self.branch(branch);
        average.take(work, now_ms);
        let before = std::mem::replace(real, real.minus(work));
        before.minus(*real)
    }

    /// Real power: the sum of all points.
    pub fn real(&self, branch: Branch) -> MicroPower {
        match branch {
            Branch::Drilling => self.real_drilling,
            Branch::Training => self.real_training,
        }
    }

    /// Effective power at `now_ms`: the decayed average a day.
    pub fn effective(&self, branch: Branch, now_ms: u64) -> MicroPower {
        match branch {
            Branch::Drilling => self.drilling.at(now_ms),
            Branch::Training => self.training.at(now_ms),
        }
    }

    /// The weight in elections at `now_ms`.
    pub fn weight(&self, kappa_milli: u32, now_ms: u64) -> u64 {
        weight(self.drilling.at(now_ms), self.training.at(now_ms), kappa_milli)
    }

    fn branch(&mut self, branch: Branch) -> (&mut MicroPower, &mut Average) {
        match branch {
            Branch::Drilling => (&mut self.real_drilling, &mut self.drilling),
            Branch::Training => (&mut self.real_training, &mut self.training),
        }
    }
}
