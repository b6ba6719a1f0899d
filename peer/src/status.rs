//! What a peer tells about itself: the JSON of `/api/status`.
//!
//! Ids are lower-case hexadecimal; times are Unix milliseconds; losses are in
//! nats a token.

use crate::account::LedgerStatus;
use manta_protocol::membership::Role;
use serde::{Deserialize, Serialize};

/// A peer as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Version of the program.
    pub(crate) version: String,
    pub(crate) peer_id: String,
    pub(crate) network: String,
    /// What others type to join: `manta up --join TICKET`.
    pub(crate) ticket: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) started_at_ms: u64,
    /// What computes: name and driver, or name and threads.
    pub(crate) device: String,
    /// `native`, `gpu` or `software`.
    pub(crate) device_kind: String,
    /// Why this device and no other.
    pub(crate) device_reason: String,
    /// Who may take part here, and whom this peer has invited.
    #[serde(default)]
    pub(crate) membership: MembershipStatus,
    pub(crate) connected_peers: Vec<String>,
    pub(crate) listings: Vec<ListingStatus>,
    pub(crate) demands_heard: u64,
    pub(crate) envelopes_refused: u64,
    pub(crate) traffic: Traffic,
    /// Data of runs that is kept on disk.
    pub(crate) stored_bytes: u64,
    /// The swarm's ledger, once there is one.
    #[serde(default)]
    pub(crate) ledger: Option<LedgerStatus>,
    pub(crate) orders: Vec<OrderStatus>,
    /// The runs of this peer since it started, newest last, at most 16.
    pub(crate) runs: Vec<RunStatus>,
}

/// An offer that was heard (or our own).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ListingStatus {
    pub(crate) peer: String,
    pub(crate) device: String,
    pub(crate) memory_bytes: u64,
    pub(crate) multiply_adds_per_s: u64,
    pub(crate) region: String,
    pub(crate) busy: bool,
    /// Whose text this machine may see.
    #[serde(default)]
    pub(crate) relation: Relation,
}

/// What another peer is to this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Relation {
    /// It is this peer.
    Itself,
    /// Another machine of this peer's user.
    Own,
    /// Invited by this peer or by the swarm's founder.
    Invited,
    /// Anyone.
    #[default]
    Stranger,
}

/// Who may take part here, and whom this peer has invited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipStatus {
    /// Whether the swarm is invite-only; then its founder is named.
    pub(crate) founder: Option<String>,
    /// When the invitation of this very peer ends, if it needs one.
    pub(crate) expires_at_ms: Option<u64>,
    /// Whether the founder has shut this peer out.
    pub(crate) dismissed: bool,
    /// What this peer has issued, oldest first.
    pub(crate) invitations: Vec<InvitationStatus>,
}

/// An invitation of this peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InvitationStatus {
    pub(crate) serial: String,
    pub(crate) role: Role,
    pub(crate) expires_at_ms: u64,
    pub(crate) revoked: bool,
    /// Peers that have used it.
    pub(crate) used_by: Vec<String>,
}

/// Bytes moved since the peer started, by direction and purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) gossip_bytes_sent: u64,
    pub(crate) gossip_bytes_received: u64,
    pub(crate) frame_bytes_sent: u64,
    pub(crate) frame_bytes_received: u64,
    pub(crate) tensor_bytes_sent: u64,
    pub(crate) tensor_bytes_received: u64,
    pub(crate) data_bytes_sent: u64,
    pub(crate) data_bytes_received: u64,
}

impl Traffic {
    /// Everything that was sent.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.gossip_bytes_sent + self.frame_bytes_sent + self.tensor_bytes_sent + self.data_bytes_sent
    }

    /// Everything that was received.
    pub(crate) fn bytes_received(&self) -> u64 {
        self.gossip_bytes_received + self.frame_bytes_received + self.tensor_bytes_received + self.data_bytes_received
    }
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OrderState {
    /// Reading and hashing the data.
    #[default]
    Reading,
    /// Looking for members.
    Searching,
    /// Became a run.
    Matched,
    /// Ended without a run; `message` says why and what to do.
    Failed,
}

/// An order that was placed on this peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct OrderStatus {
    pub(crate) order: u64,
    pub(crate) state: OrderState,
    /// The run that it became.
    pub(crate) run: Option<String>,
    /// For people: what it waits for, or why it failed and what to do.
    pub(crate) message: String,
    /// Who must not see the text and was left out, and what to do about it.
    #[serde(default)]
    pub(crate) left_out: Option<String>,
}

/// Where a run stands at this member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunState {
    /// Fetching data, building the model.
    #[default]
    Preparing,
    /// Ready, waiting for the other members.
    Gathering,
    Training,
    /// All rounds are done: evaluating and saving.
    Saving,
    Finished,
    Failed,
}

/// A run as this member sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunStatus {
    pub(crate) run: String,
    pub(crate) owner: String,
    pub(crate) state: RunState,
    /// Rounds that all members have agreed on.
    pub(crate) rounds_done: u32,
    pub(crate) rounds: u32,
    pub(crate) steps_done: u64,
    pub(crate) steps: u64,
    /// Batches that count, and how many shall.
    pub(crate) batches_done: u64,
    pub(crate) batches_target: u64,
    /// Exchanges (all-reduces) that are done.
    pub(crate) exchanges_done: u64,
    /// Number of the list of members that holds now.
    pub(crate) view: u32,
    /// Who has left, newest last, at most 64.
    pub(crate) left: Vec<DepartureStatus>,
    /// Why this member waits; none while it goes on.
    pub(crate) paused: Option<String>,
    pub(crate) parameters: u64,
    /// Hash of the data set's manifest, and the bytes of its text.
    pub(crate) data_root: String,
    pub(crate) data_bytes: u64,
    /// Present members, by id.
    pub(crate) members: Vec<MemberStatus>,
    /// Training loss of each agreed round, over all members.
    pub(crate) losses: Vec<f64>,
    /// Tokens that all members together were trained on.
    pub(crate) tokens: u64,
    /// Of all members together, over the last rounds.
    pub(crate) tokens_per_s: f64,
    /// Time from the start of the first step to the last agreed round.
    pub(crate) training_ms: u64,
    /// Whether all members held equal parameters after every round so far.
    pub(crate) parameter_hashes_equal: bool,
    /// After the last agreed round.
    pub(crate) parameter_hash: String,
    pub(crate) initial_parameter_hash: String,
    /// At the owner, once it is evaluated.
    pub(crate) val_loss: Option<f64>,
    /// Entropy of the training unigram model on the validation part, at the owner.
    pub(crate) unigram_loss: Option<f64>,
    /// Where the owner has saved the model.
    pub(crate) out: Option<String>,
    /// What went wrong although it did not fail.
    pub(crate) warning: Option<String>,
    /// Why it is computed by the processor, after the graphics device has failed here.
    pub(crate) device_trouble: Option<String>,
    /// Why it failed, whose doing it was, what to do.
    pub(crate) failure: Option<String>,
    /// Who it ended for.
    pub(crate) culprit: Option<String>,
    pub(crate) started_at_ms: u64,
}

/// A member that has left a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DepartureStatus {
    pub(crate) peer: String,
    /// In words.
    pub(crate) reason: String,
    /// Number of the first view without it.
    pub(crate) view: u32,
    pub(crate) at_ms: u64,
}

/// What a member does, as in a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MemberRole {
    /// Computes and adds up.
    #[default]
    Full,
    /// Fetches the state and follows, to become full.
    Listening,
}

/// A member as it reported the last round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberStatus {
    pub(crate) peer: String,
    pub(crate) role: MemberRole,
    pub(crate) ready: bool,
    /// Rounds that it has reported.
    pub(crate) rounds_done: u32,
    /// Its own batches in the last round, over its compute and reduce time.
    pub(crate) tokens_per_s: f64,
    /// Mean loss over its own batches in the last round.
    pub(crate) loss: Option<f64>,
    pub(crate) compute_ms: u64,
    pub(crate) reduce_ms: u64,
}
