//! Everything that can happen to a [`Node`](crate::Node).

use crate::consensus::Recovery;
use crate::ids::{EffectId, Hash, OrderId, PeerId, RunId, Serial};
use crate::ledger::DrillResult;
use crate::market::demand::Share;
use crate::market::listing::Listing;
use crate::run::report::{AbortReason, LossSum};
use crate::run::{Phase, RunSpec};
use crate::time::Time;
use crate::trust::LedgerOptions;

/// One thing that happened; handed to [`Node::handle`](crate::Node::handle).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A local user wants something.
    Command(Command),
    /// A connection to `peer` was made (the first one).
    PeerConnected {
        /// Who.
        peer: PeerId,
    },
    /// The last connection to `peer` was lost.
    PeerDisconnected {
        /// Who.
        peer: PeerId,
    },
    /// A gossip message came; answered by [`Effect::GossipVerdict`](crate::Effect::GossipVerdict).
    Gossip {
        /// The transport's name for the message.
        message: u64,
        /// The envelope's bytes.
        bytes: Vec<u8>,
    },
    /// A direct message came from `from`, who is authenticated by the transport.
    Frame {
        /// Who sent it.
        from: PeerId,
        /// The envelope's bytes.
        bytes: Vec<u8>,
    },
    /// A direct message was taken by the other side's transport.
    FrameDelivered {
        /// The effect that sent it.
        id: EffectId,
    },
    /// A direct message could not be delivered.
    FrameFailed {
        /// The effect that sent it.
        id: EffectId,
    },
    /// A chunk came over the bulk transport; answered by
    /// [`Effect::ChunkVerdict`](crate::Effect::ChunkVerdict).
    ChunkArrived {
        /// The transport's name for the chunk.
        transfer: u64,
        /// Who sent it.
        from: PeerId,
        /// The run it belongs to.
        run: RunId,
        /// The number of the view that its sender was in.
        view: u32,
        /// The exchange, from 0.
        exchange: u64,
        /// Values or sum.
        phase: Phase,
        /// Which chunk.
        chunk: u32,
        /// How many values.
        elements: u64,
    },
    /// The bulk transport could not deliver a chunk, after its own retries.
    BulkFailed {
        /// The run.
        run: RunId,
        /// Who could not be reached.
        peer: PeerId,
        /// The exchange.
        exchange: u64,
        /// Values or sum.
        phase: Phase,
        /// Which chunk.
        chunk: u32,
    },
    /// The trainer has finished something of a run.
    Trainer {
        /// The run.
        run: RunId,
        /// What.
        done: Done,
    },
    /// The trainer could not do it.
    TrainerFailed {
        /// The run.
        run: RunId,
        /// Whose fault it is, if another member's gradient is at fault.
        culprit: Option<PeerId>,
    },
    /// The blocks of [`Effect::ReadBlocks`](crate::Effect::ReadBlocks).
    BlocksRead {
        /// Who wants them.
        to: PeerId,
        /// The first height that was asked for.
        from: u64,
        /// Sealed blocks, one height after the other; none if they are not here.
        blocks: Vec<Vec<u8>>,
    },
    /// The unit of [`Effect::Drill`](crate::Effect::Drill) was computed.
    Drilled {
        /// The task.
        task: Hash,
        /// The result; `None` if there was no room for it, or it failed.
        result: Option<DrillResult>,
    },
    /// Time has come to [`Node::poll_timeout`](crate::Node::poll_timeout).
    Tick,
}

/// What the trainer has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Data and model are there.
    Prepared {
        /// Hash of the parameters.
        parameter_hash: Hash,
    },
    /// The own batches of an exchange are computed.
    Computed {
        /// The exchange.
        exchange: u64,
        /// The plan that the batches followed, as in [`Effect::Compute`](crate::Effect::Compute).
        plan: u32,
        /// Loss over the batches.
        loss: LossSum,
        /// How long it took.
        compute_ms: u64,
    },
    /// A chunk has been added up.
    Reduced {
        /// The exchange.
        exchange: u64,
        /// The view in which it was asked for.
        view: u32,
        /// The chunk.
        chunk: u32,
    },
    /// The optimiser has made its step.
    Applied {
        /// The exchange.
        exchange: u64,
    },
    /// The parameters have been hashed after the last exchange of a round.
    Hashed {
        /// The exchange before which the parameters are such.
        exchange: u64,
        /// Hash of all parameters.
        parameter_hash: Hash,
    },
    /// The state before an exchange is kept for newcomers to fetch.
    Snapshot {
        /// The exchange.
        exchange: u64,
        /// Hash of the manifest by which it is fetched.
        root: Hash,
    },
    /// The state before an exchange has been fetched and loaded.
    StateLoaded {
        /// The exchange.
        exchange: u64,
    },
    /// The state before an exchange could not be fetched; another try may.
    StateNotLoaded {
        /// The exchange.
        exchange: u64,
    },
    /// The state before an exchange is on the disk and will outlive a power cut.
    Checkpointed {
        /// The exchange.
        exchange: u64,
    },
    /// The model has been evaluated and saved; the hash names it in the store of
    /// a member that keeps it for the owner.
    Saved {
        /// Hash of the manifest by which the owner can fetch it.
        root: Hash,
        /// Whether it is here: a member whose disk is full may do without a second copy.
        kept: bool,
    },
    /// The result of an own run could not be fetched or saved; another try may.
    ResultNotFetched,
}

/// What a local user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Offer the machine, or change the offer. `busy` is filled in by the node.
    Offer(Box<Listing>),
    /// As `Offer`, but only for orders of this peer: nobody else hears of it.
    OfferToSelf(Box<Listing>),
    /// Take the offer back.
    Withdraw,
    /// Find members for a run and start it.
    Order {
        /// The driver's name for the order.
        order: OrderId,
        /// What to train.
        spec: Box<RunSpec>,
        /// How to look for members.
        wish: Wish,
    },
    /// Take part in the swarm's ledger, or found one.
    KeepLedger(Box<LedgerOptions>),
    /// Give credits to another account. Answered by
    /// [`Event::Refused`](crate::Event::Refused) if it cannot be.
    Transfer {
        /// Whose account.
        to: PeerId,
        /// How much, in micro-credits.
        amount: u64,
    },
    /// Follow a recovery of the ledger: its committee has left for good, and this
    /// peer's owner says by whom it is replaced. Answered by
    /// [`Event::LedgerRecovered`](crate::Event::LedgerRecovered) or [`Event::Refused`](crate::Event::Refused).
    Recover(Box<Recovery>),
    /// Step back from elections and committees, as before a stop.
    StandBy,
    /// Stop an order that has not become a run yet.
    CancelOrder {
        /// The order.
        order: OrderId,
    },
    /// Goes on with a run after a restart, from its last [`Effect::Journal`](crate::Effect::Journal)
    /// record. Answered by [`Effect::Prepare`](crate::Effect::Prepare) if the run goes on here,
    /// by [`Effect::KeepResult`](crate::Effect::KeepResult) if it is over and its result is kept
    /// for its owner, or by [`Event::Refused`](crate::Event::Refused) for a record that cannot be read.
    Resume {
        /// The record.
        record: Vec<u8>,
    },
    /// The result of this run is not kept here any more.
    ForgetResult {
        /// The run.
        run: RunId,
    },
    /// Take back a permission that this peer has issued: whoever holds it is no
    /// member any more.
    Revoke {
        /// Which.
        serial: Serial,
        /// When the permission ends by itself.
        expires_at: Time,
    },
    /// Leave a run. The owner's leaving ends it for all, another's does not.
    StopRun {
        /// The run.
        run: RunId,
        /// Why.
        reason: AbortReason,
    },
}

/// How to look for the members of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Fewest members to start with.
    pub members_min: u16,
    /// Most members to start with.
    pub members_max: u16,
    /// Memory that the run needs on each member, in bytes.
    pub memory_bytes: u64,
    /// Disk that the run needs on each member, in bytes.
    pub disk_bytes: u64,
    /// How long the run will take, in seconds.
    pub duration_s: u64,
    /// How long to look for `members_max` before taking fewer, in milliseconds.
    pub patience_ms: u64,
    /// How long to look at all, in milliseconds.
    pub deadline_ms: u64,
    /// Whose machines may see the data.
    pub share: Share,
}
