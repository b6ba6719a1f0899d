//! Everything that a [`Node`](crate::Node) asks its driver to do.

use crate::ids::{EffectId, OrderId, PeerId, RunId};
use crate::market::demand::Share;
use crate::market::listing::Contact;
use crate::market::matching::Mismatch;
use crate::market::reservation::Answer;
use crate::membership::{Permission, Revocation};
use crate::run::report::{AbortReason, RoundReport};
use crate::run::{Phase, RunSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One thing to do; from [`Node::poll_effect`](crate::Node::poll_effect).
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Gossip an envelope to the swarm.
    Publish {
        /// The envelope's bytes.
        bytes: Vec<u8>,
    },
    /// What to do with a gossip message that came in.
    GossipVerdict {
        /// The transport's name for the message.
        message: u64,
        /// Forward it, drop it, or blame the sender.
        verdict: Verdict,
    },
    /// Send an envelope to one peer; the outcome is reported under `id`.
    SendFrame {
        /// Names this effect.
        id: EffectId,
        /// To whom.
        to: PeerId,
        /// The envelope's bytes.
        bytes: Vec<u8>,
    },
    /// A direct message from `from` breaks the rules: count it against them.
    Misbehaviour {
        /// Who.
        peer: PeerId,
        /// What they did.
        what: String,
    },
    /// `peer` is no member of this invite-only swarm: close its connections, and
    /// serve it nothing.
    Disconnect {
        /// Who.
        peer: PeerId,
        /// Why.
        why: Exclusion,
    },
    /// A run begins here: admit its members on the bulk transport, then fetch
    /// the data and build the model. Answered by `Done::Prepared`.
    Prepare(Arc<RunStart>),
    /// Compute the gradient of the own batches. Answered by `Done::Gradient`.
    ComputeGradient {
        /// The run.
        run: RunId,
        /// The step, from 0; batches and rounding depend on it.
        step: u64,
    },
    /// Keep or drop a chunk that came in.
    ChunkVerdict {
        /// The transport's name for the chunk.
        transfer: u64,
        /// Whether to keep it.
        keep: bool,
    },
    /// Send a chunk of the own gradient, or the sum of an own chunk.
    SendChunk {
        /// The run.
        run: RunId,
        /// To whom.
        to: PeerId,
        /// The step.
        step: u64,
        /// Values or sum.
        phase: Phase,
        /// Which chunk.
        chunk: u32,
    },
    /// Add up all ranks' values of a chunk in rank order. Answered by `Done::Reduced`.
    Reduce {
        /// The run.
        run: RunId,
        /// The step.
        step: u64,
        /// Which chunk.
        chunk: u32,
    },
    /// All sums are here: make the optimiser's step. Answered by `Done::Applied`.
    Apply {
        /// The run.
        run: RunId,
        /// The step.
        step: u64,
    },
    /// Hash the parameters after a round. Answered by `Done::Hashed`.
    HashParameters {
        /// The run.
        run: RunId,
        /// The round that has ended.
        round: u32,
    },
    /// The last round is agreed: evaluate and save. Answered by `Done::Saved`.
    Save {
        /// The run.
        run: RunId,
    },
    /// The run is over here: free what it holds. After a failure the owner keeps
    /// the parameters of the last step that all members made.
    Close {
        /// The run.
        run: RunId,
        /// `None` if it ended well.
        failure: Option<RunFailure>,
    },
    /// Something that people and metrics want to know.
    Notify(Event),
}

/// Why a peer is shut out of an invite-only swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// It has shown no valid credential of the founder in time.
    NotInvited,
    /// Its credential was taken back or has ended.
    Dismissed,
}

/// What to do with a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Valid and new: forward it.
    Accept,
    /// Of no use, but nobody's fault.
    Ignore,
    /// Breaks the rules: blame whoever sent it.
    Reject,
}

/// A run as one member starts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStart {
    /// Its name.
    pub run: RunId,
    /// What to do.
    pub spec: RunSpec,
    /// Who ordered it and serves the data.
    pub owner: PeerId,
    /// Everyone, in rank order.
    pub members: Vec<Contact>,
    /// Our own place among the members.
    pub rank: usize,
}

impl RunStart {
    /// The rank of `peer`, if it is a member.
    pub fn rank_of(&self, peer: &PeerId) -> Option<usize> {
        self.members.binary_search_by_key(peer, |member| member.peer).ok()
    }

    /// Who we are.
    pub fn me(&self) -> PeerId {
        self.members[self.rank].peer
    }
}

/// Why a run ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunFailure {
    /// What happened.
    pub reason: AbortReason,
    /// Whose doing it is, as far as that [is decided](AbortReason::is_decided).
    pub culprit: PeerId,
    /// Who says so: ourselves, or the member whose word ended the run here. Any
    /// member can blame any other, so people should see whose word it is.
    pub reported_by: PeerId,
}

/// Something to show, log or count.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A peer's listing is new or has changed.
    ListingHeard {
        /// Whose.
        peer: PeerId,
    },
    /// Somebody looks for machines.
    DemandHeard {
        /// Who.
        peer: PeerId,
    },
    /// An envelope, or a command of the own user, was refused.
    Refused {
        /// Why.
        why: String,
    },
    /// A peer answered a reservation of ours.
    ReservationAnswered {
        /// The order.
        order: OrderId,
        /// Who.
        peer: PeerId,
        /// What.
        answer: Answer,
    },
    /// An order has found its members.
    OrderMatched {
        /// The order.
        order: OrderId,
        /// The run that it became.
        run: RunId,
    },
    /// The run of an own order could not begin on this machine, after
    /// `OrderMatched`; no `Prepare` or `Close` follows.
    RunNotBegun {
        /// The run.
        run: RunId,
        /// Why.
        why: String,
    },
    /// An order becomes a run without peers that must not see its data.
    LeftOut {
        /// The order.
        order: OrderId,
        /// How many peers that offer their machines.
        peers: usize,
        /// Who may see the data.
        share: Share,
    },
    /// A peer has shown a credential that counts here.
    Admitted {
        /// Who.
        peer: PeerId,
        /// What it was permitted.
        permission: Permission,
    },
    /// A revocation is new here: it must outlive a restart.
    Revoked(Box<Revocation>),
    /// The swarm's founder has taken back the permission of this very peer.
    Dismissed,
    /// An order ended without a run.
    OrderFailed {
        /// The order.
        order: OrderId,
        /// Members that could be had.
        found: usize,
        /// Members that were needed.
        needed: usize,
        /// Listings that were heard.
        listings: usize,
        /// Why listings did not serve.
        mismatches: BTreeMap<Mismatch, usize>,
        /// Peers that were asked and refused or did not answer.
        refused: usize,
    },
    /// A member has data and model.
    MemberReady {
        /// The run.
        run: RunId,
        /// Who.
        peer: PeerId,
    },
    /// This member has made a step.
    StepDone {
        /// The run.
        run: RunId,
        /// The step, from 0.
        step: u64,
    },
    /// All members hold the same parameters after a round.
    RoundDone {
        /// The run.
        run: RunId,
        /// What each member reported, in rank order.
        reports: Vec<RoundReport>,
    },
}
