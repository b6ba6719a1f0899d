//! Everything that can happen to a [`Node`](crate::Node).

use crate::ids::{EffectId, Hash, OrderId, PeerId, RunId, Serial};
use crate::market::demand::Share;
use crate::market::listing::Listing;
use crate::run::report::{AbortReason, LossSum};
use crate::run::{Phase, RunSpec};
use crate::time::Time;

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
        /// The step of the run, from 0.
        step: u64,
        /// Values or sum.
        phase: Phase,
        /// Which chunk.
        chunk: u32,
        /// How many values.
        elements: u64,
    },
    /// The bulk transport could not deliver to a member, after its own retries.
    BulkFailed {
        /// The run.
        run: RunId,
        /// Who could not be reached.
        peer: PeerId,
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
    /// Time has come to [`Node::poll_timeout`](crate::Node::poll_timeout).
    Tick,
}

/// What the trainer has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Data and model are there.
    Prepared {
        /// Hash of the initial parameters.
        parameter_hash: Hash,
    },
    /// The gradient of the step's own batches is there.
    Gradient {
        /// The step.
        step: u64,
        /// Loss over the batches.
        loss: LossSum,
        /// How long it took.
        compute_ms: u64,
    },
    /// A chunk has been added up.
    Reduced {
        /// The step.
        step: u64,
        /// The chunk.
        chunk: u32,
    },
    /// The optimiser has made its step.
    Applied {
        /// The step.
        step: u64,
    },
    /// The parameters have been hashed after the last step of a round.
    Hashed {
        /// The round.
        round: u32,
        /// Hash of all parameters.
        parameter_hash: Hash,
    },
    /// The model has been evaluated and saved.
    Saved,
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
    /// Stop an order that has not become a run yet.
    CancelOrder {
        /// The order.
        order: OrderId,
    },
    /// Take back a permission that this peer has issued: whoever holds it is no
    /// member any more.
    Revoke {
        /// Which.
        serial: Serial,
        /// When the permission ends by itself.
        expires_at: Time,
    },
    /// Leave a run, which ends it.
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
