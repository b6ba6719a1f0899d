//! What goes wrong from outside: a machine is killed, or the swarm falls into
//! two sides that do not hear each other. Time, place and length follow from
//! the seed.
//!
//! What is checked: whoever is in a run with a member that it cannot reach any
//! more ends that run within [`END_WITHIN`], naming somebody on the other side
//! (or ends it well, if it was agreed on before).

use crate::clock::EPOCH;
use crate::network::Draws;
use manta_protocol::{Duration, Seed, Time};

/// In this time a run that was cut is over on each of its members: 15 s of
/// silence, a heartbeat's rounding, and the time to save what is agreed.
pub const END_WITHIN: Duration = Duration::from_s(20);
/// A fault comes within this time, in milliseconds: before, in and after runs.
const COMES_WITHIN_MS: u64 = 9_000;
/// What a partition lasts, in milliseconds.
const PARTITION_MS: [u64; 2] = [30_000, 120_000];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A machine vanishes: its connections break, frames to it fail.
    Kill,
    /// Two sides do not hear each other for a while.
    Partition,
}

/// When and where it goes wrong.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What.
    pub fault: Fault,
    /// When.
    pub at: Time,
    /// When a partition is over.
    pub heals_at: Time,
    /// Whether connections across a partition are seen to break, or only fall silent.
    pub noticed: bool,
    /// The side of each host: the killed one, or one half, is on the side `true`.
    side: Vec<bool>,
}

impl Plan {
    /// The fault of this seed among `hosts` hosts. In a partition the hosts 0
    /// and 1, who place the first orders, are on different sides of equal size.
    pub fn drawn(fault: Fault, hosts: usize, seed: Seed) -> Self {
        let mut draws = Draws::new(seed.child("fault", 0));
        let at = EPOCH + Duration::from_ms(draws.up_to(COMES_WITHIN_MS));
        let lasts = PARTITION_MS[0] + draws.up_to(PARTITION_MS[1] - PARTITION_MS[0]);
        let noticed = draws.happens(500_000);
        let side = match fault {
            Fault::Kill => {
                let victim = draws.up_to(hosts.saturating_sub(1) as u64) as usize;
                (0..hosts).map(|host| host == victim).collect()
            }
            Fault::Partition => (0..hosts).map(|host| host % 2 == 1).collect(),
        };
        Self { fault, at, heals_at: at + Duration::from_ms(lasts), noticed, side }
    }

    /// Whether two hosts are on different sides.
    pub fn divides(&self, a: usize, b: usize) -> bool {
        self.side[a] != self.side[b]
    }

    /// Whether two hosts cannot hear each other at `now`.
    pub fn cuts(&self, a: usize, b: usize, now: Time) -> bool {
        let lasts = self.fault == Fault::Kill || now < self.heals_at;
        now >= self.at && lasts && self.divides(a, b)
    }

    /// The host that is killed.
    pub fn victim(&self) -> Option<usize> {
        (self.fault == Fault::Kill).then(|| self.side.iter().position(|killed| *killed)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_cuts_one_for_ever_and_a_partition_halves_for_a_while() {
        let kill = Plan::drawn(Fault::Kill, 5, Seed::from_number(1));
        let victim = kill.victim().expect("somebody is killed");
        let far = EPOCH + Duration::from_s(1_000_000);
        let other = (victim + 1) % 5;
        assert!(kill.cuts(victim, other, far) && !kill.cuts(other, (victim + 2) % 5, far));
        assert!(!kill.cuts(victim, other, Time(kill.at.0 - 1)) && kill.cuts(victim, other, kill.at));
        let parted = Plan::drawn(Fault::Partition, 6, Seed::from_number(1));
        assert!(parted.cuts(0, 1, parted.at) && !parted.cuts(0, 2, parted.at) && !parted.cuts(0, 1, parted.heals_at));
        assert!(parted.heals_at.since(parted.at) >= END_WITHIN, "a run must not outlive it by being healed");
    }
}
