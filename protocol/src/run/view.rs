//! Views: the numbered lists of a run's members, and what they tell each other
//! to agree on the next one.
//!
//! A view follows on another if more than half of the other's full members say
//! so, or exactly half with the one of the lowest id: two such sets always have
//! a member in common, so no view has two successors. Which successor it is, is
//! agreed as in Paxos (Lamport 1998): whoever proposes has asked a quorum first,
//! and proposes what one of them has accepted already, if any.

use super::allreduce::ChunkPlan;
use super::ledger::{Ledger, Span};
use super::report::AbortReason;
use super::spec::RunSpec;
use crate::ids::{Hash, PeerId, RunId};
use crate::market::listing::{Contact, validate_addresses};
use crate::wire::limits::{CHUNKS_MAX, MEMBERS_MAX};
use crate::wire::message::Body;
use serde::{Deserialize, Serialize};

/// Exchanges of a run, at most: all rounds of the longest spec, many times over.
const EXCHANGES_MAX: u64 = 1 << 40;
/// Views of a run, at most: more changes than any run sees.
const VIEWS_MAX: u32 = 1 << 30;
/// Pieces in which the chunks of lost members are handed to others.
pub const HANDOVERS_MAX: usize = 512;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Computes, adds up and votes.
    Full,
    /// Fetches the state and follows the sums, to become full.
    Listener,
}

/// One member of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who and where.
    pub contact: Contact,
    /// What it does.
    pub role: Role,
    /// Number of the view in which it came to this role.
    pub since: u32,
    /// Batches that it does for one exchange.
    pub share: u32,
}

/// A full member's work for a lost one: it sends the sums that it has of these chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The first chunk.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Who sends them, as the rank in the exchange's plan.
    pub by: u16,
}

/// What becomes of the exchange in which a view ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It is ended as it was begun: everyone's batches count, the lost ones',
    /// too, for all that they owed is here.
    Kept {
        /// The chunks of lost members.
        handovers: Vec<Handover>,
    },
    /// Only the batches of those count who are still there: chunks are added up
    /// again from the values that their owners hold.
    Reduced,
    /// Nobody holds it any more (or it is the run's first): the next exchange is
    /// computed from a checkpoint.
    Fresh,
}

/// Who has left, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Who.
    pub peer: PeerId,
    /// Why.
    pub reason: AbortReason,
}

/// A numbered list of members, with all that follows from the change to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Counts the views of a run, from 0.
    pub number: u32,
    /// Number of the view from which on full members and shares are these.
    pub plan: u32,
    /// The first exchange of this view's plan; the one before is ended by `fate`.
    pub from: u64,
    /// Everyone, ascending by id.
    pub members: Vec<Member>,
    /// What becomes of exchange `from - 1`.
    pub fate: Fate,
    /// The ledger before exchange `from`.
    pub ledger: Ledger,
    /// Who was in the view before and is not here.
    pub left: Vec<Departure>,
}

impl View {
    /// The view that a run begins with.
    pub fn first(spec: &RunSpec, contacts: &[Contact]) -> Self {
        let share = spec.batches_per_exchange();
        let member = |contact: &Contact| Member { contact: contact.clone(), role: Role::Full, since: 0, share };
        Self {
            number: 0,
            plan: 0,
            from: 0,
            members: contacts.iter().map(member).collect(),
            fate: Fate::Fresh,
            ledger: Ledger::new(spec.batches(contacts.len())),
            left: Vec::new(),
        }
    }

    /// The member of this name.
    pub fn member(&self, peer: &PeerId) -> Option<&Member> {
        let index = self.members.binary_search_by_key(peer, |member| member.contact.peer).ok()?;
        Some(&self.members[index])
    }

    /// What this peer does in the view, if it is in it.
    pub fn role(&self, peer: &PeerId) -> Option<Role> {
        self.member(peer).map(|member| member.role)
    }

    /// The full members, ascending.
    pub fn full(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == Role::Full)
    }

    /// Whether these may decide on the next view.
    pub fn is_quorum(&self, agree: impl Fn(&PeerId) -> bool) -> bool {
        let all = self.full().count();
        let agreeing = self.full().filter(|member| agree(&member.contact.peer)).count();
        let lowest = self.full().next().is_some_and(|member| agree(&member.contact.peer));
        2 * agreeing > all || (2 * agreeing == all && lowest)
    }

    /// Whether it has exactly two full members.
    pub fn is_of_two(&self) -> bool {
        self.full().count() == 2
    }
}

/// How the exchanges of a plan go: who computes how much and owns which chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Number of the view that it came with.
    pub(crate) number: u32,
    /// The first exchange that it holds for.
    pub(crate) from: u64,
    /// The full members in rank order.
    pub(crate) ranks: Vec<PeerId>,
    /// Batches of each.
    pub(crate) shares: Vec<u32>,
    pub(crate) chunks: ChunkPlan,
}

impl Plan {
    /// The plan that begins with `view`; `None` if the vector cannot be cut so.
    pub(crate) fn new(view: &View, spec: &RunSpec) -> Option<Self> {
        let ranks: Vec<_> = view.full().map(|member| member.contact.peer).collect();
        let chunks = spec.chunk_plan(ranks.len())?;
        let shares = view.full().map(|member| member.share).collect();
        Some(Self { number: view.plan, from: view.from, ranks, shares, chunks })
    }

    pub(crate) fn rank_of(&self, peer: &PeerId) -> Option<usize> {
        self.ranks.binary_search(peer).ok()
    }
}

/// Orders attempts to agree: a counter, then the proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// Counts attempts of all proposers.
    pub counter: u64,
    /// Whose attempt it is.
    pub proposer: PeerId,
}

/// Asks for the author to have its say on the successor of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewAsk {
    /// The run.
    pub run: RunId,
    /// The view to be followed.
    pub view: u32,
    /// The attempt.
    pub ballot: Ballot,
}

/// The promise to heed no lower ballot, and what the author holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewState {
    /// The run.
    pub run: RunId,
    /// The view to be followed.
    pub view: u32,
    /// The attempt that this answers.
    pub ballot: Ballot,
    /// What the author has accepted in an earlier attempt.
    pub accepted: Option<Box<Accepted>>,
    /// A bit for each member of the view, lowest first, that the author cannot reach.
    pub unreachable: u16,
    /// What it holds.
    pub holding: Holding,
}

/// A view that somebody has accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// In which attempt.
    pub ballot: Ballot,
    /// What.
    pub view: View,
}

/// What a member holds of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// The state before `exchange`, and parts of that exchange.
    Live {
        /// The first exchange whose sums are not all here.
        exchange: u64,
        /// The ledger before it.
        ledger: Ledger,
        /// A bit for each chunk whose sum is here, lowest bit first.
        #[serde(with = "serde_bytes")]
        sums: Vec<u8>,
        /// A bit for each rank of the plan, lowest first: whether all its values
        /// of all chunks are here that the author has yet to add up.
        whole: u16,
    },
    /// Nothing but what is on its disk, since a restart.
    Restarted {
        /// The checkpoint, if there is one.
        checkpoint: Option<Checkpoint>,
    },
    /// Less than the others: a listener, or a full member that still catches up.
    Following,
}

/// A state on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The exchange before which it is.
    pub exchange: u64,
    /// The ledger then.
    pub ledger: Ledger,
}

/// Proposes the successor of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewPropose {
    /// The run.
    pub run: RunId,
    /// The attempt.
    pub ballot: Ballot,
    /// The successor of view `next.number - 1`.
    pub next: View,
}

/// The author has accepted a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewAccept {
    /// The run.
    pub run: RunId,
    /// The view to be followed.
    pub view: u32,
    /// The attempt.
    pub ballot: Ballot,
}

/// A quorum has accepted: this view holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewInstall {
    /// The run.
    pub run: RunId,
    /// The view.
    pub view: View,
}

/// Asks the members to take the author in (again).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The run.
    pub run: RunId,
    /// Where the author is.
    pub contact: Contact,
    /// The number of the latest view that it knows.
    pub view: u32,
}

/// The state before an exchange is ready to be fetched from the author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOffer {
    /// The run.
    pub run: RunId,
    /// The exchange.
    pub exchange: u64,
    /// Hash of the manifest.
    pub root: Hash,
    /// The ledger before the exchange.
    pub ledger: Ledger,
}

/// A listener has the state and all sums so far: it can be a full member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUp {
    /// The run.
    pub run: RunId,
    /// The view in which it began to listen.
    pub since: u32,
    /// The exchange that it waits for.
    pub exchange: u64,
}

/// The author has found a member at fault, or lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The run.
    pub run: RunId,
    /// The view.
    pub view: u32,
    /// Who.
    pub peer: PeerId,
    /// Why.
    pub reason: AbortReason,
}

/// The run is over. The owner is told so by those who keep its result, and says
/// so itself once it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The run.
    pub run: RunId,
    /// Hash of the manifest by which the owner can fetch the model from the author.
    pub root: Hash,
}

impl Body for ViewAsk {}
impl Body for ViewAccept {}
impl Body for Suspect {}
impl Body for Finished {}

fn validate_exchange(exchange: u64) -> Result<(), String> {
    if exchange > EXCHANGES_MAX { Err(format!("exchange {exchange}, at most {EXCHANGES_MAX}")) } else { Ok(()) }
}

impl Body for StateOffer {
    fn validate(&self) -> Result<(), String> {
        validate_exchange(self.exchange)?;
        self.ledger.validate()
    }
}

impl Body for CaughtUp {
    fn validate(&self) -> Result<(), String> {
        validate_exchange(self.exchange)
    }
}

impl Body for Join {
    fn validate(&self) -> Result<(), String> {
        validate_addresses(&self.contact.addresses)
    }
}

impl Body for View {
    fn validate(&self) -> Result<(), String> {
        let members = self.members.len();
        if members == 0 || members > MEMBERS_MAX || self.left.len() > MEMBERS_MAX {
            return Err(format!("{members} members and {} who left, at most {MEMBERS_MAX} each", self.left.len()));
        }
        if !self.members.is_sorted_by(|a, b| a.contact.peer < b.contact.peer) {
            return Err("members are not in ascending order of their ids".into());
        }
        if self.full().next().is_none() {
            return Err("a view without a full member".into());
        }
        if self.number > VIEWS_MAX {
            return Err(format!("view {}, at most {VIEWS_MAX}", self.number));
        }
        let late = |member: &&Member| member.since > self.number;
        if self.plan > self.number || self.members.iter().any(|member| late(&member)) {
            return Err(format!("view {} follows from a later one", self.number));
        }
        if let Some(member) = self.members.iter().find(|member| member.share > 1 << 24) {
            return Err(format!("a share of {} batches", member.share));
        }
        if let Fate::Kept { handovers } = &self.fate {
            let last = |handover: &Handover| u64::from(handover.first) + u64::from(handover.count);
            let beyond = |handover: &&Handover| handover.count == 0 || last(handover) > CHUNKS_MAX as u64;
            if handovers.len() > HANDOVERS_MAX || handovers.iter().any(|handover| beyond(&handover)) {
                return Err(format!("{} handovers, or chunks beyond {CHUNKS_MAX}", handovers.len()));
            }
        }
        if self.from == 0 && self.fate != Fate::Fresh {
            return Err("an exchange before the first".into());
        }
        validate_exchange(self.from)?;
        self.ledger.validate()?;
        self.members.iter().try_for_each(|member| validate_addresses(&member.contact.addresses))
    }
}

impl Body for ViewPropose {
    fn validate(&self) -> Result<(), String> {
        if self.next.number == 0 {
            return Err("the first view is not proposed".into());
        }
        self.next.validate()
    }
}

impl Body for ViewInstall {
    fn validate(&self) -> Result<(), String> {
        self.view.validate()
    }
}

impl Body for ViewState {
    fn validate(&self) -> Result<(), String> {
        if let Some(accepted) = &self.accepted {
            accepted.view.validate()?;
        }
        match &self.holding {
            Holding::Live { sums, .. } if sums.len() > CHUNKS_MAX / 8 => {
                Err(format!("a map of {} bytes, at most {}", sums.len(), CHUNKS_MAX / 8))
            }
            Holding::Live { exchange, ledger, .. } => {
                validate_exchange(*exchange)?;
                ledger.validate()
            }
            Holding::Restarted { checkpoint: Some(checkpoint) } => {
                validate_exchange(checkpoint.exchange)?;
                checkpoint.ledger.validate()
            }
            Holding::Restarted { checkpoint: None } | Holding::Following => Ok(()),
        }
    }
}

/// The number of batches of a rank's spans in an exchange.
pub(crate) fn batches_of(assignment: &[Vec<Span>], counts: impl Fn(usize) -> bool) -> u64 {
    let counted = assignment.iter().enumerate().filter(|(rank, _)| counts(*rank));
    counted.map(|(_, spans)| super::ledger::count(spans)).sum()
}
