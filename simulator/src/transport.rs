//! What travels between machines.

use crate::training::Values;
use manta_protocol::run::Phase;
use manta_protocol::wire::Message;
use manta_protocol::{EffectId, PeerId, RunId};
use std::sync::Arc;

/// A direct message on its way.
#[derive(Clone)]
pub struct FrameParcel {
    /// The transport's name for it.
    pub serial: u64,
    /// Who sent it.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// Which life of the receiver the connection leads to.
    pub to_life: u32,
    /// The envelope.
    pub bytes: Arc<Vec<u8>>,
    /// What it says.
    pub message: Arc<Message>,
}

/// A direct message whose sender does not know yet what became of it.
#[derive(Clone, Copy)]
pub struct Outstanding {
    /// Who sent it.
    pub host: usize,
    /// In which life.
    pub life: u32,
    /// The effect that it was.
    pub id: EffectId,
    /// To whom.
    pub to: usize,
}

/// Which chunk of which vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkName {
    /// The run.
    pub run: RunId,
    /// The view of the sender.
    pub view: u32,
    /// The exchange.
    pub exchange: u64,
    /// Values or sum.
    pub phase: Phase,
    /// The chunk.
    pub chunk: u32,
}

/// A chunk on its way.
#[derive(Clone)]
pub struct ChunkParcel {
    /// The transport's name for it.
    pub serial: u64,
    /// Who sent it.
    pub from: usize,
    /// In which life.
    pub from_life: u32,
    /// The sender's name.
    pub from_peer: PeerId,
    /// To whom.
    pub to: usize,
    /// Which life of the receiver the connection leads to.
    pub to_life: u32,
    /// What it is.
    pub name: ChunkName,
    /// Its values.
    pub values: Values,
}
