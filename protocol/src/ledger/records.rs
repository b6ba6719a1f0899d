//! What the ledger keeps of each peer, owner, height and fault.

use super::limits::{LEASE_BLOCKS_MAX, LEASE_PROBES_MAX, LEASE_USERS_MAX, PROBE_MASS};
use super::task::Task;
use crate::election::Beacon;
use crate::ids::{Hash, PeerId, VrfPublic};
use crate::power::{History, MicroPower, PowerRecord};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Credits of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What it can spend, in micro-credits.
    pub balance: u64,
    /// What is promised to others, in micro-credits.
    pub escrow: u64,
    /// Rewards for results that nobody compared, in micro-credits: the next one
    /// that is compared frees them, a fault burns them.
    pub held: u64,
    /// The number of its last counted transaction.
    pub nonce: u64,
    /// Whether it ever had credits: then it is never forgotten.
    pub funded: bool,
}

/// A registered key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its key for elections.
    pub vrf: VrfPublic,
    /// Who stands behind it.
    pub owner: PeerId,
    /// The largest class of drill units that it can do, as an index.
    pub class: u8,
    /// Whether it stands by: it takes no part until it says otherwise.
    pub standby: bool,
    /// The height of its latest registration.
    pub registered_at: u64,
    /// The height at which it last gave a sign of life.
    pub alive_at: u64,
    /// Below this height it gets no probation unit.
    pub barred_until: u64,
    /// The greatest height of an equivocation that it was fined for.
    pub struck_at: u64,
}

/// Power and where it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// Real and effective power.
    pub record: PowerRecord,
    /// Why it is what it is.
    pub history: History,
    /// What was credited for results that nobody compared, since the last one
    /// that was: a fault of its owner takes it back.
    pub unverified: MicroPower,
}

/// How often a peer was there when others asked or had leased it. The decayed
/// counts are in units of 2⁻³² probes; what comes takes a 64th for each probe that
/// it counts for off what came before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reliability {
    /// Decayed count of answers and of leases that were kept.
    pub good: u64,
    /// Decayed count of probes and leases.
    pub all: u64,
    /// All answers ever.
    pub answered_ever: u64,
    /// All probes ever.
    pub probed_ever: u64,
    /// All leases ever that were kept.
    pub leases_kept_ever: u64,
    /// All leases ever that were reported.
    pub leases_ever: u64,
}

/// Reports on leases of one machine, so that no time of it counts twice for one user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// A user that is not on the list reports on leases that began here or later:
    /// its own last report may have been dropped from the list.
    pub since: u64,
    /// By user.
    pub latest: BTreeMap<PeerId, Reported>,
}

/// A user's last report on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// The height that the trainer consented at: an earlier consent is worth nothing.
    pub began: u64,
    /// The height of the report: time until then has counted.
    pub at: u64,
}

/// How far an owner's results are believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Consecutive valid results.
    pub streak: u32,
    /// Proven faults.
    pub faults: u32,
}

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// A result that the others proved wrong.
    WrongResult,
    /// The right digest without the work: its check was wrong.
    Copied,
    /// A commitment that was not opened in time.
    Unrevealed,
    /// A result of a task whose results differ, where all lose.
    Disagreement,
    /// Two statements of consensus that nobody signs both.
    Equivocation,
}

/// A fault, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Who.
    pub peer: PeerId,
    /// What.
    pub kind: FaultKind,
    /// In which task.
    pub task: Option<Hash>,
    /// The block that says so.
    pub height: u64,
    /// Real power that it lost by it.
    pub lost: MicroPower,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Enough owners gave this digest.
    Agreed {
        /// The digest.
        digest: Hash,
    },
    /// A trusted owner's word was taken.
    Trusted {
        /// The digest.
        digest: Hash,
    },
    /// Results differ and all have lost.
    AllLost,
    /// Results differ and nobody knows who is right.
    Void,
}

/// A task that ended with results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The task with all its seats.
    pub task: Task,
    /// How it ended.
    pub outcome: Outcome,
    /// Under which height.
    pub height: u64,
}

/// Peers and weights, ascending by id; shared, for every height has such a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standings(pub Arc<Vec<(PeerId, u64)>>);

/// What is kept of a height.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// The block's time, in Unix milliseconds.
    pub time_ms: u64,
    /// Its beacon.
    pub beacon: Beacon,
    /// Who proposed it; nobody proposed height 0.
    pub proposer: Option<PeerId>,
    /// All keys that are registered and not on standby after it, and their weights.
    pub standings: Standings,
}

/// Sums over the whole ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Micro-credits that rewards have made.
    pub minted: u64,
    /// Micro-credits that were taken out.
    pub burned: u64,
    /// Tasks whose results were compared and agreed, disputed ones as well.
    pub tasks_agreed: u64,
    /// Tasks in which a trusted owner's word was taken.
    pub tasks_trusted: u64,
    /// Tasks whose results differed.
    pub tasks_disputed: u64,
    /// Tasks that ended without a result.
    pub tasks_void: u64,
    /// Tasks for which too few drillers were found.
    pub tasks_expired: u64,
    /// Faults that were named.
    pub faults: u64,
}

impl Outcome {
    /// The digest that counts as the unit's, if one does.
    pub fn digest(&self) -> Option<Hash> {
        match self {
            Self::Agreed { digest } | Self::Trusted { digest } => Some(*digest),
            Self::AllLost | Self::Void => None,
        }
    }
}

impl Reliability {
    /// Counts one probe.
    pub fn probe(&mut self, answered: bool) {
        self.count(PROBE_MASS, answered);
        self.probed_ever = self.probed_ever.saturating_add(1);
        self.answered_ever = self.answered_ever.saturating_add(u64::from(answered));
    }

    /// Counts a lease for as much as `mass` of 2⁻³² probes, at most 64 of them.
    pub fn lease(&mut self, kept: bool, mass: u64) {
        self.count(mass, kept);
        self.leases_ever = self.leases_ever.saturating_add(1);
        self.leases_kept_ever = self.leases_kept_ever.saturating_add(u64::from(kept));
    }

    /// Probe by probe, so that little by little comes to the same as at once.
    fn count(&mut self, mass: u64, good: bool) {
        let mut left = mass.min(LEASE_PROBES_MAX * PROBE_MASS);
        while left > 0 {
            let part = left.min(PROBE_MASS);
            left -= part;
            self.good -= faded(self.good, part);
            self.all -= faded(self.all, part);
            self.good += if good { part } else { 0 };
            self.all += part;
        }
    }

    /// Answers and kept leases in a thousand, later ones counting more; `None` before the first.
    pub fn permille(&self) -> Option<u32> {
        let permille = self.good.checked_mul(1000)?.checked_div(self.all)?;
        Some(permille.min(1000) as u32)
    }
}

/// What a part of a probe takes off a count: as much of it as it is of 64 probes.
fn faded(count: u64, part: u64) -> u64 {
    let window = u128::from(64 * PROBE_MASS);
    // At most a 64th of the count, so that it fits.
    (u128::from(count) * u128::from(part) / window) as u64
}

impl Leases {
    /// Notes a report of `user` at height `now` on a lease that began at `began`.
    pub(super) fn note(&mut self, user: PeerId, began: u64, now: u64) {
        self.latest.retain(|_, reported| reported.at.saturating_add(LEASE_BLOCKS_MAX) >= now);
        self.latest.insert(user, Reported { began, at: now });
        if self.latest.len() > LEASE_USERS_MAX {
            let oldest = self.latest.iter().min_by_key(|(user, reported)| (reported.at, **user));
            if let Some((user, reported)) = oldest.map(|(user, reported)| (*user, *reported)) {
                self.latest.remove(&user);
                self.since = self.since.max(reported.at);
            }
        }
    }
}

impl Standings {
    /// The weight of a peer; `None` if it is not on the list.
    pub fn weight(&self, peer: &PeerId) -> Option<u64> {
        let place = self.0.binary_search_by_key(peer, |(peer, _)| *peer).ok()?;
        Some(self.0[place].1)
    }
}

impl Serialize for Standings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Standings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(|list| Self(Arc::new(list)))
    }
}
