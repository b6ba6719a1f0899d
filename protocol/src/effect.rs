//! Everything that a [`Node`](crate::Node) asks its driver to do.

use crate::ids::{EffectId, Hash, OrderId, PeerId, RunId};
use crate::ledger::DrillClass;
use crate::market::demand::Share;
use crate::market::listing::Contact;
use crate::market::matching::Mismatch;
use crate::market::reservation::Answer;
use crate::membership::{Permission, Revocation};
use crate::run::ledger::{Ledger, Span};
use crate::run::report::{AbortReason, RoundReport};
use crate::run::view::View;
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
    /// Somebody comes to the run, or is about to: connect, admit it on the bulk
    /// transport and let it read the run's data.
    Admit {
        /// The run.
        run: RunId,
        /// Who and where.
        contact: Contact,
    },
    /// Somebody has left the run: undo `Admit`.
    Dismiss {
        /// The run.
        run: RunId,
        /// Who.
        peer: PeerId,
    },
    /// Compute the own batches of an exchange from the present parameters.
    /// Work for an earlier plan of the same exchange is of no more use.
    /// Answered by `Done::Computed`.
    Compute {
        /// The run.
        run: RunId,
        /// The exchange, from 0.
        exchange: u64,
        /// Number of the view whose plan it is; told apart in the answer.
        plan: u32,
        /// For how many members the contribution is cut into chunks.
        ranks: u16,
        /// Which batches; may be none, then the contribution is zero.
        batches: Vec<Span>,
        /// Where the learning-rate schedule stands, in steps.
        schedule_step: u64,
    },
    /// Keep or drop a chunk that came in. It may come long after the chunk, for
    /// one that came before its time.
    ChunkVerdict {
        /// The transport's name for the chunk.
        transfer: u64,
        /// Whether to keep it.
        keep: bool,
    },
    /// Send a chunk of the own values, or a sum.
    SendChunk {
        /// The run.
        run: RunId,
        /// To whom.
        to: PeerId,
        /// The view that we are in, for the header.
        view: u32,
        /// The exchange.
        exchange: u64,
        /// Values or sum.
        phase: Phase,
        /// Which chunk.
        chunk: u32,
    },
    /// Add up the values of a chunk of these members, in this order. The values
    /// are kept until the exchange is applied. Answered by `Done::Reduced`.
    Reduce {
        /// The run.
        run: RunId,
        /// The exchange.
        exchange: u64,
        /// The view that we are in, for the answer.
        view: u32,
        /// Which chunk.
        chunk: u32,
        /// Whose values, ascending by id.
        contributors: Vec<PeerId>,
    },
    /// Forget all sums of an exchange: they are to be made anew, of fewer members.
    DropSums {
        /// The run.
        run: RunId,
        /// The exchange.
        exchange: u64,
    },
    /// Forget all values and sums of an exchange and of all after it: others are coming.
    DropExchange {
        /// The run.
        run: RunId,
        /// The first such exchange.
        exchange: u64,
    },
    /// All sums are here: make the optimiser's step. The sums are kept until the
    /// next exchange is applied, the values are not. Answered by `Done::Applied`.
    Apply {
        /// The run.
        run: RunId,
        /// The exchange.
        exchange: u64,
        /// Batches that the sums are of.
        batches: u64,
        /// Where the learning-rate schedule stands, in steps.
        schedule_step: u64,
    },
    /// Hash the parameters after a round. Answered by `Done::Hashed`.
    HashParameters {
        /// The run.
        run: RunId,
        /// The exchange that comes next.
        exchange: u64,
    },
    /// Keep the state as it is now, before `exchange`, for newcomers to fetch from
    /// here, instead of what was kept before. Answered by `Done::Snapshot`.
    Snapshot {
        /// The run.
        run: RunId,
        /// The exchange that comes next.
        exchange: u64,
    },
    /// Nobody needs the kept state any more.
    DropSnapshot {
        /// The run.
        run: RunId,
    },
    /// Fetch the state before `exchange` from several members at once, checking
    /// every piece, and load it. Answered by `Done::StateLoaded` or `Done::StateNotLoaded`.
    FetchState {
        /// The run.
        run: RunId,
        /// The exchange.
        exchange: u64,
        /// Hash of the manifest.
        root: Hash,
        /// Who have it.
        donors: Vec<PeerId>,
    },
    /// Write the state as it is now, before `exchange`, to the disk, instead of
    /// the checkpoint before. Answered by `Done::Checkpointed` once it is durable.
    Checkpoint {
        /// The run.
        run: RunId,
        /// The exchange that comes next.
        exchange: u64,
    },
    /// Make this durable before any later effect is carried out: what it says has
    /// been promised to others. Each record replaces the run's one before.
    Journal {
        /// The run.
        run: RunId,
        /// The record, also of how the run ended here; `None` once it needs none any more.
        record: Option<Vec<u8>>,
    },
    /// The last round is agreed: evaluate and save. Answered by `Done::Saved`.
    Save {
        /// The run.
        run: RunId,
        /// Whether the owner is gone: keep the model for it until it asks.
        for_owner: bool,
    },
    /// A run of ours ended while we were away: fetch the model and save it.
    /// Answered by `Done::Saved` or `Done::ResultNotFetched`.
    FetchResult {
        /// The run.
        run: RunId,
        /// Hash of the manifest.
        root: Hash,
        /// Who has it.
        from: PeerId,
    },
    /// The result of a run that ended before a restart is kept here for its owner:
    /// let it be read again. If it is not there any more, say so by
    /// `Command::ForgetResult`.
    KeepResult {
        /// The run.
        run: RunId,
        /// Hash of the manifest.
        root: Hash,
        /// Who may fetch it.
        owner: PeerId,
    },
    /// The owner has its result, or there are too many others: it need not be kept here any more.
    DropResult {
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
    /// A ledger begins here: keep its genesis document, and put aside what was
    /// kept of another one. Durable before any later effect is carried out.
    LedgerBegin {
        /// Canonical bytes.
        genesis: Vec<u8>,
    },
    /// Append this to the consensus log of a height, dropping the records of any
    /// other height. Durable before any later effect is carried out.
    LedgerLog {
        /// The height.
        height: u64,
        /// The record.
        record: Vec<u8>,
    },
    /// Append a block with its certificate. Durable before any later effect is carried out.
    LedgerBlock {
        /// Its height: one more than that of the block before.
        height: u64,
        /// Canonical bytes of the sealed block.
        block: Vec<u8>,
    },
    /// Append a recovery of the ledger that this peer follows from now on. Durable
    /// before any later effect is carried out.
    LedgerRecovery {
        /// The first height of the new committee.
        height: u64,
        /// Canonical bytes of the recovery.
        recovery: Vec<u8>,
    },
    /// Keep the state after this height, in place of an earlier snapshot, so that
    /// a start need not replay all blocks.
    LedgerSnapshot {
        /// The height.
        height: u64,
        /// The snapshot.
        state: Vec<u8>,
    },
    /// Read sealed blocks for another peer. Answered by
    /// [`Input::BlocksRead`](crate::Input::BlocksRead).
    ReadBlocks {
        /// Who wants them.
        to: PeerId,
        /// The first height.
        from: u64,
        /// How many at most.
        count_max: u32,
        /// How much fits, in bytes; at least one block is read if it is there.
        bytes_max: usize,
    },
    /// Compute a unit of drilling, if the share of the machine that is set aside
    /// for it has room. Answered by [`Input::Drilled`](crate::Input::Drilled).
    Drill {
        /// The task, which is also the seed of its unit.
        task: Hash,
        /// The size of the product.
        class: DrillClass,
        /// What a second digest is owed under, if one is.
        challenge: Option<Hash>,
        /// Whether the result is promised already: then it takes whatever it takes.
        owed: bool,
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
    /// Who we are.
    pub me: PeerId,
    /// The members as far as known, ascending by id; without us if we come late.
    pub members: Vec<Contact>,
    /// Whom to ask for the data, best first.
    pub donors: Vec<PeerId>,
    /// How we come to it.
    pub entry: Entry,
}

/// How a member comes to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// With its first members: initial parameters.
    First,
    /// While it goes on: parameters are fetched later.
    Late,
    /// Again, after a restart: the checkpoint before this exchange is loaded, or
    /// reported by `Done::StateNotLoaded` ahead of `Done::Prepared`.
    Again {
        /// The exchange; `None` if no checkpoint was written.
        checkpoint: Option<u64>,
    },
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
    /// This peer has founded a ledger, for it heard of none.
    LedgerFounded {
        /// Its name.
        ledger: Hash,
    },
    /// This peer follows the ledger of others.
    LedgerJoined {
        /// Its name.
        ledger: Hash,
    },
    /// Others of this swarm keep another ledger, and both have several owners; or
    /// they go on with this one from another recovery, or from none where this peer
    /// follows one: they never merge, people have to choose one.
    LedgersDiffer {
        /// The one that is kept here: its hash, or that of its latest recovery.
        ours: Hash,
        /// The other one.
        theirs: Hash,
    },
    /// Others follow a recovery of this ledger. This peer does so only if its owner says so.
    RecoveryOffered {
        /// Its hash.
        recovery: Hash,
        /// The first height of the new committee.
        height: u64,
    },
    /// This peer follows a recovery of its ledger from now on.
    LedgerRecovered {
        /// Its hash.
        recovery: Hash,
        /// The first height of the new committee.
        height: u64,
    },
    /// What was kept of a ledger cannot be used; this peer begins without it.
    LedgerUnreadable {
        /// Why.
        why: String,
    },
    /// The ledger has one more block here.
    BlockFinal {
        /// Its height.
        height: u64,
        /// The root of the state after it.
        root: Hash,
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
    /// This member has made the step that follows an exchange.
    ExchangeDone {
        /// The run.
        run: RunId,
        /// The exchange, from 0.
        exchange: u64,
        /// Number of the view that the exchange ended in.
        view: u32,
        /// Whose batches count, ascending by id.
        contributors: Vec<PeerId>,
        /// The ledger after it.
        ledger: Ledger,
    },
    /// The run has other members than before.
    ViewChanged {
        /// The run.
        run: RunId,
        /// The view that holds now.
        view: Arc<View>,
    },
    /// This member waits: until more of the others can be reached, or until it
    /// is in the run again.
    RunPaused {
        /// The run.
        run: RunId,
        /// Why.
        why: Pause,
    },
    /// All members hold the same parameters after a round.
    RoundDone {
        /// The run.
        run: RunId,
        /// What each member reported, ascending by id.
        reports: Vec<(PeerId, RoundReport)>,
    },
}

/// Why a member waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Not more than half of the members can be reached.
    NoMajority,
    /// The others went on without it: it comes in again.
    LeftBehind,
    /// It was restarted: it comes in again.
    Restarted,
}
