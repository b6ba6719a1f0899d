//! What a simulation tells: the summary, and the trace line by line.

use crate::faults::Fault;
use crate::network::Conditions;
use crate::options::Options;
use crate::workload::Break;
use manta_protocol::{Effect, Hash, Input, PeerId};
use serde::Serialize;
use std::io::{self, Write};

/// How a simulation went.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Whether every run finished and every checker was content.
    pub ok: bool,
    /// Machines.
    pub peers: usize,
    /// Members of each run.
    pub members: u16,
    /// Rounds of each run.
    pub rounds: u32,
    /// Runs that were ordered.
    pub orders: usize,
    /// The seed.
    pub seed: u64,
    /// The rule that one machine broke, if any.
    pub broken: Option<Break>,
    /// What went wrong from outside, if anything.
    pub fault: Option<Fault>,
    /// The machine that broke it.
    pub broken_peer: Option<String>,
    /// The links.
    pub conditions: Conditions,
    /// Runs that finished well.
    pub runs_finished: usize,
    /// Orders that ended without a run, counted at each attempt.
    pub orders_failed: usize,
    /// Ends of runs that were not good, as each member saw them.
    pub failures: Vec<Failure>,
    /// Hash of the parameters at the end of each finished run.
    pub parameter_hashes: Vec<String>,
    /// What the checkers found wrong.
    pub violations: Vec<String>,
    /// Virtual time that passed, in milliseconds.
    pub virtual_ms: u64,
    /// Events that happened.
    pub events: u64,
    /// Most events that waited at once.
    pub events_waiting_max: usize,
    /// Gossip messages carried over links.
    pub gossip_messages: u64,
    /// Direct messages sent.
    pub frames: u64,
    /// Direct messages reported as failed.
    pub frames_failed: u64,
    /// Bytes of direct messages sent.
    pub frame_bytes: u64,
    /// Chunks sent.
    pub chunks: u64,
    /// Bytes of chunks sent.
    pub chunk_bytes: u64,
    /// Runs that a fault cut, as each of their members ended them.
    pub runs_cut: u64,
    /// Hash of the trace: equal histories have equal hashes.
    pub trace_hash: String,
    /// The command that gives this history again.
    pub replay: String,
}

/// How a run ended early on one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The member.
    pub on: String,
    /// What happened.
    pub reason: String,
    /// Whose doing it is.
    pub culprit: String,
    /// Who says so.
    pub reported_by: String,
}

/// The history as text, hashed and if wished written.
pub struct Trace {
    hasher: blake3::Hasher,
    out: Option<Box<dyn Write>>,
    error: Option<io::Error>,
}

impl Trace {
    /// A trace that goes to `out`, or is only hashed.
    pub fn new(out: Option<Box<dyn Write>>) -> Self {
        Self { hasher: blake3::Hasher::new(), out, error: None }
    }

    /// Adds a line.
    pub fn line(&mut self, line: &str) {
        self.hasher.update(line.as_bytes()).update(b"\n");
        if let Some(out) = self.out.as_mut().filter(|_| self.error.is_none()) {
            self.error = writeln!(out, "{line}").err();
        }
    }

    /// The hash of all lines.
    ///
    /// # Errors
    /// The first failure to write the trace.
    pub fn finish(self) -> io::Result<String> {
        match (self.error, self.out) {
            (Some(error), _) => Err(error),
            (None, Some(mut out)) => out.flush().map(|()| self.hasher.finalize().to_string()),
            (None, None) => Ok(self.hasher.finalize().to_string()),
        }
    }
}

impl Summary {
    /// A summary of nothing yet.
    pub(crate) fn new(options: &Options, conditions: Conditions, broken_peer: Option<PeerId>) -> Self {
        Self {
            ok: false,
            peers: options.peers,
            members: options.members,
            rounds: options.rounds,
            orders: options.orders,
            seed: options.seed,
            broken: options.broken,
            fault: options.fault,
            broken_peer: broken_peer.map(|peer| peer.to_string()),
            conditions,
            runs_finished: 0,
            orders_failed: 0,
            failures: Vec::new(),
            parameter_hashes: Vec::new(),
            violations: Vec::new(),
            virtual_ms: 0,
            events: 0,
            events_waiting_max: 0,
            gossip_messages: 0,
            frames: 0,
            frames_failed: 0,
            frame_bytes: 0,
            chunks: 0,
            chunk_bytes: 0,
            runs_cut: 0,
            trace_hash: String::new(),
            replay: options.replay(),
        }
    }
}

/// An input as a trace shows it: messages by the hash of their bytes.
pub(crate) fn describe_input(input: &Input) -> String {
    match input {
        Input::Gossip { bytes, .. } => format!("Gossip {:?}", Hash::of(bytes)),
        Input::Frame { from, bytes } => format!("Frame {from:?} {:?}", Hash::of(bytes)),
        other => format!("{other:?}"),
    }
}

/// An effect as a trace shows it.
pub(crate) fn describe_effect(effect: &Effect) -> String {
    match effect {
        Effect::Publish { bytes } => format!("Publish {:?}", Hash::of(bytes)),
        Effect::SendFrame { id, to, bytes } => format!("SendFrame {id:?} {to:?} {:?}", Hash::of(bytes)),
        Effect::Prepare(start) => format!("Prepare {:?} rank {} of {}", start.run, start.rank, start.members.len()),
        other => format!("{other:?}"),
    }
}
