//! What goes wrong from outside, and when. What a fault leaves open (its time,
//! its victims, how long it lasts) follows from the seed.

use crate::draws::Draws;
use manta_protocol::{Duration, Seed, Time};
use serde::{Deserialize, Serialize};

/// Most faults of one history.
pub const FAULTS_MAX: usize = 64;
/// A fault at a drawn time comes within this time, in milliseconds: before, in and after runs.
const COMES_WITHIN_MS: u64 = 9_000;
/// What a fault lasts that ends, in milliseconds: some end before anybody gives
/// up on the other side, some long after.
const LASTS_MS: [[u64; 2]; 3] = [[100, 3_000], [3_000, 15_000], [15_000, 60_000]];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A machine stops without warning: what it held in memory is lost and its
    /// connections break. It starts again from its disk when the fault is over.
    Kill,
    /// As `kill`, and its disk is lost.
    LoseDisk,
    /// As `kill`, of the machine whose user ordered the run.
    KillOwner,
    /// All machines stop at once.
    PowerCut,
    /// A machine's program is stopped; its transport still takes what comes.
    Freeze,
    /// Two sides do not hear each other: the named (or drawn) hosts, and the rest.
    Partition,
    /// One side does not hear the other, which hears it.
    OneWay,
    /// Two machines do not hear each other.
    Link,
    /// A machine that was not there comes and offers itself.
    Join,
    /// A member's user has it leave the run; it is not the owner.
    Leave,
    /// The owner stops the run.
    Stop,
}

impl Kind {
    /// All kinds that a history may draw.
    pub const ALL: [Self; 11] = [
        Self::Kill,
        Self::LoseDisk,
        Self::KillOwner,
        Self::PowerCut,
        Self::Freeze,
        Self::Partition,
        Self::OneWay,
        Self::Link,
        Self::Join,
        Self::Leave,
        Self::Stop,
    ];

    /// Whether it ends by itself.
    fn ends(self) -> bool {
        !matches!(self, Self::Join | Self::Leave | Self::Stop)
    }
}

/// When it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// So many milliseconds after the beginning.
    AtMs(u64),
    /// So many milliseconds after the first member's step of this exchange.
    Exchange {
        /// The exchange.
        exchange: u64,
        /// Milliseconds after it.
        after_ms: u64,
    },
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// When.
    pub when: When,
    /// Whom it hits; if nobody is named, members of a run are drawn when it comes.
    pub hosts: Vec<usize>,
    /// How long it lasts; `None`: for ever.
    pub lasts_ms: Option<u64>,
    /// Whether connections across a cut are seen to break, or only fall silent.
    pub noticed: bool,
}

impl Fault {
    /// A fault of this kind with all else drawn, in a run of about `exchanges` exchanges.
    pub fn drawn(kind: Kind, exchanges: u64, draws: &mut Draws) -> Self {
        let when = if draws.happens(400_000) || kind == Kind::Join {
            When::AtMs(draws.up_to(COMES_WITHIN_MS))
        } else {
            When::Exchange { exchange: draws.up_to(exchanges.saturating_sub(2)), after_ms: draws.up_to(400) }
        };
        let [shortest, longest] = draws.one_of(&LASTS_MS);
        let for_ever = matches!(kind, Kind::Kill | Kind::KillOwner | Kind::Freeze) && draws.happens(400_000);
        let lasts_ms = draws.between(shortest, longest);
        let lasts_ms = (kind.ends() && !for_ever).then_some(lasts_ms);
        Self { kind, when, hosts: Vec::new(), lasts_ms, noticed: draws.happens(500_000) }
    }

    /// So many faults of a seed's choice among `kinds`.
    pub fn several(kinds: &[Kind], count: u64, exchanges: u64, seed: Seed) -> Vec<Self> {
        let of = |index| {
            let mut draws = Draws::new(seed.child("fault", index));
            Self::drawn(draws.one_of(kinds), exchanges, &mut draws)
        };
        (0..count).map(of).collect()
    }
}

/// Who does not hear whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    side: Vec<bool>,
    one_way: bool,
    pair: bool,
    /// When it is over; `None`: never.
    pub ends: Option<Time>,
}

impl Cut {
    /// A cut around `hosts` (for a link: between the two of them) out of `all`.
    pub fn new(kind: Kind, hosts: &[usize], all: usize, now: Time, lasts_ms: Option<u64>) -> Self {
        let pair = kind == Kind::Link;
        let side = (0..all).map(|host| hosts.contains(&host)).collect();
        let ends = lasts_ms.map(|ms| now + Duration::from_ms(ms));
        Self { side, one_way: kind == Kind::OneWay, pair, ends }
    }

    /// Whether it lies between the two, in any direction.
    pub fn divides(&self, a: usize, b: usize) -> bool {
        if self.pair { a != b && self.side[a] && self.side[b] } else { self.side[a] != self.side[b] }
    }

    /// Whether `to` does not hear `from`.
    pub fn silences(&self, from: usize, to: usize, now: Time) -> bool {
        self.ends.is_none_or(|ends| now < ends) && self.divides(from, to) && (!self.one_way || self.side[from])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_silence_whom_they_should_for_as_long_as_they_should() {
        let until = Time(0) + Duration::from_ms(10);
        let parted = Cut::new(Kind::Partition, &[0, 2], 4, Time(0), Some(10));
        assert!(parted.silences(0, 1, Time(0)) && parted.silences(1, 0, Time(0)) && !parted.silences(0, 2, Time(0)));
        assert!(!parted.silences(0, 1, until));
        let one_way = Cut::new(Kind::OneWay, &[0], 3, Time(0), None);
        assert!(one_way.silences(0, 1, until) && !one_way.silences(1, 0, until) && !one_way.silences(1, 2, until));
        let link = Cut::new(Kind::Link, &[1, 2], 4, Time(0), Some(10));
        assert!(link.silences(1, 2, Time(0)) && link.silences(2, 1, Time(0)) && !link.silences(0, 1, Time(0)));
    }

    #[test]
    fn drawn_faults_are_of_the_kinds_asked_for_and_follow_from_the_seed() {
        let drawn = |seed| Fault::several(&[Kind::Kill, Kind::Link], 20, 8, Seed::from_number(seed));
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        for kind in [Kind::Kill, Kind::Link] {
            assert!(drawn(1).iter().filter(|fault| fault.kind == kind).count() > 4);
        }
        assert!(drawn(1).iter().all(|fault| fault.kind == Kind::Kill || fault.lasts_ms.is_some()));
    }
}
