//! What the control API takes: the JSON of `POST /api/orders`.

use crate::account::{Question, TransferRequest};
use crate::digits::DigitsWish;
use crate::optimizer::Optimizer;
use crate::recovery::{RecoveryAnswer, RecoveryRequest};
use crate::schedule::Schedule;
use manta_protocol::market::demand::Share;
use manta_protocol::membership::Role;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// An order for a training run, as `manta train` places it on the local peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderRequest {
    /// Absolute path of a text file, a folder or a glob; `None` for the demo text.
    pub(crate) data: Option<PathBuf>,
    /// Absolute path of the folder that the model is saved into.
    pub(crate) out: PathBuf,
    /// Whether a model that is already in `out` may be replaced.
    pub(crate) overwrite: bool,
    /// Name of a model preset (`crate::preset`); it counts for nothing where
    /// training starts from a folder.
    pub(crate) preset: String,
    /// What the run builds on, where that is not what the preset says.
    #[serde(default)]
    pub(crate) basis: Basis,
    /// Members to start with at least.
    pub(crate) peers_min: u16,
    /// Members to start with at most.
    pub(crate) peers_max: u16,
    pub(crate) rounds: u32,
    pub(crate) steps_per_round: u32,
    /// Whether members make the steps of a round by themselves, and average then.
    pub(crate) local: bool,
    /// Whether the last of two members goes on alone.
    pub(crate) solo: bool,
    pub(crate) seed: u64,
    /// How long to look for `peers_max` members before taking fewer.
    pub(crate) patience_ms: u64,
    /// How long to look at all.
    pub(crate) deadline_ms: u64,
    /// Whose machines may see the text.
    #[serde(default)]
    pub(crate) share: Share,
}

/// What a run builds on. All paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Basis {
    /// Folder of a model whose parameters and tokenizer are taken.
    pub(crate) from: Option<PathBuf>,
    /// A `tokenizer.json` for a new model; `None` for bytes.
    pub(crate) tokenizer: Option<PathBuf>,
    /// The highest learning rate.
    pub(crate) learning_rate: Option<f32>,
    /// Tokens of a sequence.
    pub(crate) sequence_length: Option<u32>,
    /// The learning rate over the run.
    #[serde(default)]
    pub(crate) schedule: Schedule,
    /// The rule that turns gradients into steps.
    #[serde(default)]
    pub(crate) optimizer: Optimizer,
    /// Digits of the integer products.
    #[serde(default)]
    pub(crate) digits: DigitsWish,
}

/// An invitation, as `manta invite` asks for it: the JSON of `POST /api/invitations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvitationRequest {
    /// What the invited become.
    pub(crate) role: Role,
    /// How long the invitation, and what was made of it, stands.
    pub(crate) lifetime_s: u64,
}

/// The answer to it: 201. Nobody keeps the ticket but whoever reads this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InvitationIssued {
    /// What the other machine joins by.
    pub(crate) ticket: String,
    /// What it is revoked by.
    pub(crate) serial: String,
    pub(crate) role: Role,
    /// Unix milliseconds.
    pub(crate) expires_at_ms: u64,
}

/// What `POST /api/revoke/{id}` has done: 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// The invitations that count no more.
    pub(crate) serials: Vec<String>,
    /// The peers that had used them.
    pub(crate) peers: Vec<String>,
}

/// The answer to an accepted order: 202.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderAccepted {
    /// Its number in `Status::orders`.
    pub(crate) order: u64,
}

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    /// What was wrong and what to do.
    pub(crate) error: String,
}

/// What a running peer writes into its data directory as `peer.json` (0600), so
/// that other commands of the same user find and may control it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerFile {
    /// Address of the HTTP server.
    pub(crate) http: std::net::SocketAddr,
    /// Sent as `Authorization: Bearer …` with every request that changes something.
    pub(crate) control_token: String,
    pub(crate) peer_id: String,
    pub(crate) ticket: String,
    pub(crate) process_id: u32,
}

/// What the HTTP server asks of the peer's driver; bounded channel.
#[derive(Debug)]
pub(crate) enum Control {
    /// Place an order.
    Order(Box<OrderRequest>, tokio::sync::oneshot::Sender<Result<OrderAccepted, String>>),
    /// Stop a run (by its id) or an order (by its number); errors say what there is.
    Stop(String, tokio::sync::oneshot::Sender<Result<(), String>>),
    /// Issue an invitation.
    Invite(InvitationRequest, tokio::sync::oneshot::Sender<Result<InvitationIssued, String>>),
    /// Tell something of the ledger, in JSON.
    Ask(Question, tokio::sync::oneshot::Sender<Result<serde_json::Value, String>>),
    /// Give credits to another account; answered by the transaction's id.
    Transfer(TransferRequest, tokio::sync::oneshot::Sender<Result<String, String>>),
    /// Replace the ledger's committee, or say that this peer follows those who did.
    Recover(Box<RecoveryRequest>, tokio::sync::oneshot::Sender<Result<RecoveryAnswer, String>>),
    /// Take back an invitation (by its serial), or all that a peer has used (by its id).
    Revoke(String, tokio::sync::oneshot::Sender<Result<Revoked, String>>),
}
