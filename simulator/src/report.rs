//! What a simulation tells: the summary, and the trace line by line.

use crate::faults::Kind;
use crate::options::Setup;
use manta_protocol::{Command, Effect, Hash, Input, PeerId};
use serde::Serialize;
use std::io::{self, Write};

/// How a simulation went.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Whether every checker was content.
    pub ok: bool,
    /// What was simulated, with all that the seed has chosen.
    pub setup: Setup,
    /// The machine that broke a rule.
    pub broken_peer: Option<String>,
    /// Runs of which a member has the result.
    pub runs_finished: usize,
    /// Runs that cannot go on, for too few of their members are left.
    pub runs_paused: usize,
    /// Runs that their owners stopped.
    pub runs_stopped: usize,
    /// Runs that were ended again, all who knew of their end having stopped.
    pub runs_repeated: usize,
    /// Results that owners fetched which had been away at the end.
    pub results_fetched: usize,
    /// Orders that ended without a run, counted at each attempt.
    pub orders_failed: usize,
    /// Members' ends that were not good, as each saw it.
    pub failures: Vec<Failure>,
    /// Hash of the parameters at the end of each finished run.
    pub parameter_hashes: Vec<String>,
    /// What the checkers found wrong.
    pub violations: Vec<String>,
    /// Batches of all runs.
    pub batches_total: u64,
    /// Exchanges of the branches that the finished runs ended on.
    pub exchanges: u64,
    /// Rounds that members have compared, counted at each.
    pub rounds_done: u64,
    /// Views of all runs.
    pub views: u64,
    /// Times that a member had to wait for others, or to come in again.
    pub pauses: u64,
    /// Faults that came.
    pub faults: u64,
    /// Members that stopped in the midst of a run.
    pub peers_lost: u64,
    /// Machines that were taken into a run that went on.
    pub peers_joined: u64,
    /// Machines that started again.
    pub restarts: u64,
    /// Checkpoints that became durable.
    pub checkpoints: u64,
    /// Checkpoints that were not what was written.
    pub checkpoints_refused: u64,
    /// Journal records that were written.
    pub journal_records: u64,
    /// From each stopped member to the others' next progress.
    pub recoveries: Vec<Recovery>,
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

/// How long a stopped member held the others up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// What stopped it.
    pub kind: Kind,
    /// Until a survivor ended the next exchange, in milliseconds.
    pub ms: u64,
}

/// The trace: one line for every input and effect, hashed, and written if wanted.
pub struct Trace {
    hasher: blake3::Hasher,
    out: Option<Box<dyn Write>>,
    error: Option<io::Error>,
}

impl Trace {
    /// A trace that goes to `out` if there is one.
    pub fn new(out: Option<Box<dyn Write>>) -> Self {
        Self { hasher: blake3::Hasher::new(), out, error: None }
    }

    /// Adds a line.
    pub fn line(&mut self, line: impl FnOnce() -> String) {
        let line = line();
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
    pub(crate) fn new(setup: &Setup, replay: String, broken_peer: Option<PeerId>) -> Self {
        Self {
            ok: false,
            setup: setup.clone(),
            broken_peer: broken_peer.map(|peer| peer.to_string()),
            runs_finished: 0,
            runs_paused: 0,
            runs_stopped: 0,
            runs_repeated: 0,
            results_fetched: 0,
            orders_failed: 0,
            failures: Vec::new(),
            parameter_hashes: Vec::new(),
            violations: Vec::new(),
            batches_total: 0,
            exchanges: 0,
            rounds_done: 0,
            views: 0,
            pauses: 0,
            faults: 0,
            peers_lost: 0,
            peers_joined: 0,
            restarts: 0,
            checkpoints: 0,
            checkpoints_refused: 0,
            journal_records: 0,
            recoveries: Vec::new(),
            virtual_ms: 0,
            events: 0,
            events_waiting_max: 0,
            gossip_messages: 0,
            frames: 0,
            frames_failed: 0,
            frame_bytes: 0,
            chunks: 0,
            chunk_bytes: 0,
            trace_hash: String::new(),
            replay,
        }
    }
}

/// An input as a trace shows it: gossip by the hash of its bytes. What frames say is told by the carrier.
pub(crate) fn describe_input(input: &Input) -> String {
    match input {
        Input::Gossip { bytes, .. } => format!("Gossip {:?}", Hash::of(bytes)),
        Input::Command(Command::Resume { record }) => format!("Resume {:?}", Hash::of(record)),
        Input::Command(Command::KeepLedger(options)) => {
            let kept = options.kept.as_ref();
            let kept =
                kept.map(|kept| (Hash::of(&kept.genesis), kept.snapshot.is_some(), kept.blocks.len(), &kept.log));
            format!(
                "KeepLedger {:?}",
                kept.map(|(genesis, snapshot, blocks, log)| (genesis, snapshot, blocks, log.len()))
            )
        }
        Input::Frame { from, bytes } => format!("Frame of {from:?} {:?}", Hash::of(bytes)),
        Input::BlocksRead { to, from, blocks } => format!("BlocksRead {to:?} {from} {}", blocks.len()),
        other => format!("{other:?}"),
    }
}

/// An effect as a trace shows it.
pub(crate) fn describe_effect(effect: &Effect) -> String {
    match effect {
        Effect::Publish { bytes } => format!("Publish {:?}", Hash::of(bytes)),
        Effect::LedgerBegin { genesis } => format!("LedgerBegin {:?}", Hash::of(genesis)),
        Effect::LedgerLog { height, record } => format!("LedgerLog {height} {:?}", Hash::of(record)),
        Effect::LedgerBlock { height, block } => format!("LedgerBlock {height} {:?}", Hash::of(block)),
        Effect::LedgerRecovery { height, recovery } => format!("LedgerRecovery {height} {:?}", Hash::of(recovery)),
        Effect::LedgerSnapshot { height, state } => format!("LedgerSnapshot {height} {:?}", Hash::of(state)),
        Effect::Prepare(start) => format!("Prepare {:?} {:?} of {}", start.run, start.entry, start.members.len()),
        Effect::Journal { run, record } => format!("Journal {run:?} {:?}", record.as_deref().map(Hash::of)),
        other => format!("{other:?}"),
    }
}
