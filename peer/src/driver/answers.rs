//! What the ledger says, for people and scripts: from the node's state and from
//! the blocks on the disk.

use super::{Driver, ledger_recovery};
use crate::account::{
    AccountView, BlockView, BranchView, CertificateView, DrillCounts, DrillsView, FaultView, LedgerStatus,
    MemberWeight, PowerEntry, PowerView, Question, RegistrationView, ReliabilityView, SeatView, StageView, Standing,
    TaskView, TransactionView,
};
use crate::store::chain::BLOCK_BYTES_MAX;
use manta_protocol::consensus::Progress;
use manta_protocol::consensus::sync::Decision;
use manta_protocol::ledger::certificate::DrillCertificate;
use manta_protocol::ledger::{
    Action, Block, Origin, Outcome, Phase, Seat, Settled, StageKind, State, Task, Transaction,
};
use manta_protocol::power::{Branch, MicroPower};
use manta_protocol::wire::codec;
use manta_protocol::{Hash, PeerId, Time};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// Standings, faults and settled tasks that are shown.
const STANDINGS_MAX: usize = 64;
const FAULTS_MAX: usize = 16;
const SETTLED_MAX: usize = 32;
/// Blocks that are searched for a transaction.
const SEARCH_BLOCKS: u64 = 2_048;
/// Epochs without a block after which people are told why.
const PATIENT_EPOCHS: u64 = 4;
/// Shortest time after which people are told.
const PATIENT_MS: u64 = 5_000;

impl Driver {
    /// Shows the ledger on the board.
    pub(super) fn show_ledger(&mut self) {
        let node = &self.parts.node;
        let Some(state) = node.ledger() else { return };
        let connected: BTreeSet<_> = self.connected.keys().copied().chain([node.peer_id()]).collect();
        // Most of it follows from the height alone, and hashing a large state takes its time.
        let is_new = |before: &LedgerStatus| before.ledger.is_empty() || before.height != state.height();
        let mut shown = match self.board.status.ledger.take() {
            Some(before) if !is_new(&before) => before,
            before => {
                let recent = before.map(|before| before.recent).unwrap_or_default();
                let follows_only = !self.parts.book.plan.takes_part;
                LedgerStatus { recent, follows_only, ..status(state, node.peer_id()) }
            }
        };
        show_committee(&mut shown, state, &connected);
        if let Some(progress) = node.ledger_progress() {
            shown.heard_weight = progress.heard_weight;
            shown.waiting = waiting(state, &progress, &connected, self.last_now);
        }
        shown.recovery = (state.chain() != state.ledger()).then(|| state.chain().to_string());
        shown.recoveries_offered = ledger_recovery::offers(state.ledger(), node.recovery_offers());
        shown.other_ledger = node.other_ledger().map(|other| other.to_string());
        self.board.status.ledger = Some(shown);
    }

    /// Answers a question about the ledger in JSON.
    pub(super) fn answer(&mut self, question: &Question) -> Result<Value, String> {
        let state = self.state()?;
        match question {
            Question::Block(height) => self.block_view(*height),
            Question::Account(peer) => json(account(state, self.named_peer(peer)?)),
            Question::Transaction(id) => self.transaction(id),
            Question::Drills => json(DrillsView {
                height: state.height(),
                counts: counts(state),
                open: state.tasks().map(|task| task_view(state, task, None)).collect(),
                settled: latest(
                    state.settled().map(|settled| task_view(state, &settled.task, Some(settled))),
                    SETTLED_MAX,
                ),
            }),
            Question::Drill(name) => json(explain(state, name)?),
            Question::Power(peer) => json(power(state, self.named_peer(peer)?)),
        }
    }

    pub(super) fn state(&self) -> Result<&State, String> {
        self.parts.node.ledger().ok_or_else(|| {
            "this peer has no ledger yet: it founds one after some seconds, or follows that of the peers it finds; \
             see `manta status`"
                .into()
        })
    }

    /// A peer by its id, or by the beginning of one that is registered; this one by nothing.
    pub(super) fn named_peer(&self, name: &str) -> Result<PeerId, String> {
        if name.is_empty() {
            return Ok(self.parts.node.peer_id());
        }
        if let Ok(peer) = name.parse() {
            return Ok(peer);
        }
        let state = self.state()?;
        let fitting: Vec<_> =
            state.registrations().map(|(peer, _)| peer).filter(|peer| peer.to_string().starts_with(name)).collect();
        match fitting.as_slice() {
            [peer] => Ok(**peer),
            [] => Err(format!("no registered peer's id begins with `{name}`; `manta ledger status` lists them")),
            several => Err(format!("{} registered peers' ids begin with `{name}`; give more of it", several.len())),
        }
    }

    fn read_block(&mut self, height: u64) -> Result<(Block, Decision), String> {
        let store = &mut self.parts.book.store;
        let read = tokio::task::block_in_place(|| store.read(height, 1)).map_err(|error| error.to_string())?;
        let bytes = read.first().ok_or_else(|| format!("block {height} is not on this peer's disk"))?;
        let sealed: Decision = codec::decode(bytes, BLOCK_BYTES_MAX).map_err(|error| error.to_string())?;
        let block = Block::decode(&sealed.bytes).map_err(|error| error.to_string())?;
        Ok((block, sealed))
    }

    fn block_view(&mut self, height: u64) -> Result<Value, String> {
        let last = self.state()?.height();
        if height == 0 || height > last {
            return Err(format!("there is no block {height}; heights go from 1 to {last}"));
        }
        let (block, sealed) = self.read_block(height)?;
        let header = &block.header;
        json(BlockView {
            height,
            hash: block.hash().to_string(),
            parent: header.parent.to_string(),
            time_ms: header.time_ms,
            proposer: header.proposer.to_string(),
            state_root: header.state.to_string(),
            round: sealed.certificate.round,
            signers: sealed.certificate.seals.iter().map(|seal| seal.author.to_string()).collect(),
            transactions: block.transactions.iter().map(|each| transaction(each, Some(height))).collect(),
        })
    }

    /// A transaction that waits, or is in one of the latest blocks.
    fn transaction(&mut self, name: &str) -> Result<Value, String> {
        let is_it = |each: &&Transaction| each.id().to_string().starts_with(name);
        if let Some(found) = self.parts.node.ledger_waiting().iter().find(is_it) {
            return json(transaction(found, None));
        }
        let last = self.state()?.height();
        let first = last.saturating_sub(SEARCH_BLOCKS).max(1);
        for height in (first..=last).rev() {
            let (block, _) = self.read_block(height)?;
            if let Some(found) = block.transactions.iter().find(is_it) {
                return json(transaction(found, Some(height)));
            }
        }
        Err(format!("no transaction `{name}` of this peer waits, and none is in the blocks {first} to {last}"))
    }
}

fn json(view: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(view).map_err(|error| error.to_string())
}

/// The last `max` of them.
fn latest<T>(all: impl DoubleEndedIterator<Item = T>, max: usize) -> Vec<T> {
    let mut latest: Vec<_> = all.rev().take(max).collect();
    latest.reverse();
    latest
}

fn units(power: MicroPower) -> f64 {
    power.0 as f64 / 1e6
}

fn name_of(value: impl Serialize) -> String {
    let named = serde_json::to_value(value).ok();
    named.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn show_committee(shown: &mut LedgerStatus, state: &State, connected: &BTreeSet<PeerId>) {
    let committee = state.next_committee();
    let member = |(peer, weight): &(PeerId, u64)| MemberWeight {
        peer: peer.to_string(),
        weight: *weight,
        connected: connected.contains(peer),
    };
    shown.committee = committee.weights().iter().map(member).collect();
    shown.quorum_weight = committee.quorum();
}

/// What follows from the state, but for the committee.
fn status(state: &State, me: PeerId) -> LedgerStatus {
    let mut standings: Vec<_> = state.registrations().map(|(peer, _)| standing(state, peer)).collect();
    standings.sort_by(|a, b| b.weight.cmp(&a.weight).then_with(|| a.peer.cmp(&b.peer)));
    standings.truncate(STANDINGS_MAX);
    let fault = |fault: &manta_protocol::ledger::Fault| FaultView {
        peer: fault.peer.to_string(),
        kind: name_of(fault.kind),
        task: fault.task.map(|task| task.to_string()),
        height: fault.height,
        lost: units(fault.lost),
    };
    LedgerStatus {
        ledger: state.ledger().to_string(),
        name: state.founding().name.clone(),
        height: state.height(),
        head: state.head().to_string(),
        state_root: state.root().to_string(),
        time_ms: state.time_ms(),
        epoch_ms: state.parameters().epoch_ms,
        minted: state.totals().minted,
        burned: state.totals().burned,
        drills: counts(state),
        own: state.registration(&me).map(|_| standing(state, &me)),
        balance: state.account(&me).map_or(0, |account| account.balance),
        standings,
        faults: latest(state.faults().map(fault), FAULTS_MAX),
        ..LedgerStatus::default()
    }
}

/// Why there are no new blocks, once that lasts.
fn waiting(state: &State, progress: &Progress, connected: &BTreeSet<PeerId>, now: Time) -> Option<String> {
    let patient_ms = (PATIENT_EPOCHS * state.parameters().epoch_ms).max(PATIENT_MS);
    let for_ms = now.as_unix_ms().saturating_sub(state.time_ms());
    if for_ms < patient_ms {
        return None;
    }
    let committee = state.next_committee();
    let total: u64 = committee.total();
    let share = |weight: u64| format!("{} %", (u128::from(weight) * 100).checked_div(total.into()).unwrap_or(0));
    // Who has fallen silent in the middle of a height was heard for it.
    let (is_enough, needed) = match progress.heard_weight >= progress.quorum_weight {
        true => (true, "not all of them to the end"),
        false => (false, "more than two thirds are needed"),
    };
    let gone = committee.weights().iter().filter(|(peer, _)| !connected.contains(peer)).copied();
    let missing = if is_enough { gone.collect() } else { progress.missing.clone() };
    let missing: Vec<_> =
        missing.iter().map(|(peer, weight)| format!("{} ({})", peer.short(), share(*weight))).collect();
    Some(format!(
        "block {} has been waiting for {} s: members with {} of the weight were heard, {needed}; missing are {}. Training, \
         trading and joining go on meanwhile; blocks go on when they are back. If they never come back: \
         manta ledger recover --help",
        progress.height,
        for_ms / 1_000,
        share(progress.heard_weight),
        if missing.is_empty() { "some of those that are connected".into() } else { missing.join(", ") },
    ))
}

fn counts(state: &State) -> DrillCounts {
    let totals = state.totals();
    DrillCounts {
        open: state.tasks().count() as u64,
        agreed: totals.tasks_agreed,
        trusted: totals.tasks_trusted,
        disputed: totals.tasks_disputed,
        void: totals.tasks_void,
        expired: totals.tasks_expired,
        faults: totals.faults,
    }
}

fn standing(state: &State, peer: &PeerId) -> Standing {
    let both = |of: &dyn Fn(Branch) -> MicroPower| units(of(Branch::Drilling).plus(of(Branch::Training)));
    let now_ms = state.time_ms();
    let record = state.power(peer).map(|power| power.record).unwrap_or_default();
    let weight = state.weight(peer).unwrap_or(0);
    let heavier = state.epoch().standings.0.iter().filter(|(_, other)| *other > weight).count();
    let key = state.registration(peer);
    let trust = state.trust(&key.map_or(*peer, |key| key.owner));
    Standing {
        peer: peer.to_string(),
        effective_power: both(&|branch| record.effective(branch, now_ms)),
        real_power: both(&|branch| record.real(branch)),
        weight,
        rank: (weight > 0).then_some(heavier as u64 + 1),
        reliability: reliability(state, peer),
        streak: trust.streak,
        faults: trust.faults,
        standby: key.is_some_and(|key| key.standby),
    }
}

fn reliability(state: &State, peer: &PeerId) -> ReliabilityView {
    let of = state.reliability(peer).copied().unwrap_or_default();
    ReliabilityView {
        permille: of.permille(),
        probes: of.probed_ever,
        probes_answered: of.answered_ever,
        leases: of.leases_ever,
        leases_kept: of.leases_kept_ever,
    }
}

fn account(state: &State, peer: PeerId) -> AccountView {
    let account = state.account(&peer).copied().unwrap_or_default();
    let registration = state.registration(&peer).map(|key| RegistrationView {
        owner: key.owner.to_string(),
        class: key.class,
        standby: key.standby,
        registered_at: key.registered_at,
        alive_at: key.alive_at,
        barred_until: key.barred_until,
    });
    let manta_protocol::ledger::Account { balance, escrow, held, nonce, .. } = account;
    let reliability = reliability(state, &peer);
    AccountView { peer: peer.to_string(), balance, escrow, held, nonce, reliability, registration }
}

fn transaction(transaction: &Transaction, height: Option<u64>) -> TransactionView {
    let (kind, what) = match &transaction.action {
        Action::Register(register) => {
            ("register", format!("takes part, with drill units up to class {}", register.class))
        }
        Action::Standby { on: true } => ("standby", "steps back from elections and committees".into()),
        Action::Standby { on: false } => ("standby", "takes part again".into()),
        Action::Transfer(transfer) => {
            ("transfer", format!("{} micro-credits to {}", transfer.amount, transfer.to.short()))
        }
        Action::Commit(commit) => ("commit", format!("to a result of task {}", commit.task.short())),
        Action::Reveal(reveal) => {
            ("reveal", format!("of task {}: {}", reveal.task.short(), reveal.result.digest.short()))
        }
        Action::Probe(probe) => {
            let answered = if probe.reply.is_some() { "an answer" } else { "no answer" };
            ("probe", format!("{answered} to the probe of height {}", probe.height))
        }
        Action::Evidence(evidence) => {
            ("evidence", format!("{} has signed two things at once", evidence.author.short()))
        }
        Action::Lease(lease) => {
            let (trainer, run) = (lease.trainer.short(), lease.run.short());
            let how = if lease.kept { "was there to the end" } else { "was lost or left" };
            ("lease", format!("{trainer} {how} in run {run}, from height {}", lease.height))
        }
    };
    TransactionView {
        id: transaction.id().to_string(),
        author: transaction.author.to_string(),
        nonce: transaction.nonce,
        kind: kind.into(),
        what,
        height,
    }
}

fn explain(state: &State, name: &str) -> Result<TaskView, String> {
    let is_it = |task: &Task| task.id.to_string().starts_with(name);
    if let Some(settled) = state.settled().find(|settled| is_it(&settled.task)) {
        let mut view = task_view(state, &settled.task, Some(settled));
        view.certificate = state.drill_certificate(&settled.task.id).as_ref().map(certificate);
        return Ok(view);
    }
    let open = state.tasks().find(|task| is_it(task)).map(|task| task_view(state, task, None));
    open.ok_or_else(|| {
        format!("no task `{name}` goes on or ended lately; `manta drill status` lists those that are known")
    })
}

fn certificate(certificate: &DrillCertificate) -> CertificateView {
    let bytes = codec::encode(certificate).len();
    let names = |peers: &mut dyn Iterator<Item = &PeerId>| peers.map(ToString::to_string).collect();
    match certificate.verify() {
        Ok(certified) => CertificateView {
            valid: true,
            problem: None,
            agreeing: names(&mut certified.agreeing.iter()),
            dissenting: names(&mut certified.dissenting.iter()),
            unrevealed: names(&mut certified.unrevealed.iter()),
            bytes,
        },
        Err(error) => CertificateView { problem: Some(error.to_string()), bytes, ..CertificateView::default() },
    }
}

fn task_view(state: &State, task: &Task, settled: Option<&Settled>) -> TaskView {
    let digest = settled.and_then(|settled| settled.outcome.digest());
    let class = state.parameters().classes.get(usize::from(task.class));
    let origin = match &task.origin {
        Origin::Drawn { height, idle: 0, index } => format!("drawn by block {height}, number {index}"),
        Origin::Drawn { height, idle, index } => format!("drawn {idle} epochs after block {height}, number {index}"),
        Origin::Probation { height, candidate } => {
            format!("probation unit of {} drawn by block {height}", candidate.short())
        }
    };
    TaskView {
        task: task.id.to_string(),
        origin,
        shape: class.map_or([0; 3], |class| [class.rows, class.columns, class.depth]),
        difficulty: units(state.parameters().difficulty(task.class)),
        stages: (0..).zip(&task.stages).map(|(number, stage)| stage_view(number, stage)).collect(),
        seats: task.seats.iter().map(|seat| seat_view(task, seat, digest)).collect(),
        outcome: settled.map(|settled| {
            let name = match settled.outcome {
                Outcome::Agreed { .. } => "agreed",
                Outcome::Trusted { .. } => "trusted",
                Outcome::AllLost => "all-lost",
                Outcome::Void => "void",
            };
            name.into()
        }),
        settled_at: settled.map(|settled| settled.height),
        digest: digest.map(|digest| digest.to_string()),
        certificate: None,
    }
}

fn stage_view(number: u8, stage: &manta_protocol::ledger::Stage) -> StageView {
    let kind = match stage.kind {
        StageKind::Opening => "opening",
        StageKind::Replica => "replica",
        StageKind::Escalation => "escalation",
        StageKind::Referee => "referee",
    };
    let phase = match stage.phase {
        Phase::Committing => "committing",
        Phase::Revealing { .. } => "revealing",
        Phase::Closed => "closed",
    };
    StageView {
        number,
        kind: kind.into(),
        opened: stage.opened,
        weights_of: stage.weights_of,
        // A primary is one, however often another was drawn.
        expected_milli: match stage.is_election() {
            true => stage.expected_milli.checked_shl(stage.interval).unwrap_or(u64::MAX),
            false => stage.expected_milli,
        },
        candidates: stage.candidates,
        phase: phase.into(),
    }
}

fn seat_view(task: &Task, seat: &Seat, digest: Option<Hash>) -> SeatView {
    let stage = task.stages.get(usize::from(seat.stage));
    let elected = match (&seat.election, stage) {
        (Some((_, output)), Some(stage)) => {
            let seats = stage.seats(&task.id, seat.stage, output, seat.weight);
            format!("its VRF proof wins {seats} of about {} seats", stage.expected_milli.div_ceil(1_000))
        }
        _ if task.origin.candidate() == Some(&seat.worker) => "it is the candidate".into(),
        (None, Some(stage)) if stage.primary == Some(seat.worker) => "it was drawn to open the task".into(),
        _ => "everyone could take part".into(),
    };
    SeatView {
        worker: seat.worker.to_string(),
        owner: seat.owner.to_string(),
        stage: seat.stage,
        elected,
        weight: seat.weight,
        commitment: seat.commitment.to_string(),
        revealed: seat.revealed.map(|revealed| revealed.result.digest.to_string()),
        forfeited: seat.forfeited,
        agrees: seat.revealed.and_then(|revealed| Some(revealed.result.digest == digest?)),
    }
}

fn power(state: &State, peer: PeerId) -> PowerView {
    let now_ms = state.time_ms();
    let power = state.power(&peer).cloned().unwrap_or_default();
    let branch = |branch: Branch| {
        let (_, folded) = power.history.folded(branch);
        BranchView {
            effective: units(power.record.effective(branch, now_ms)),
            real: units(power.record.real(branch)),
            folded_gained: units(folded.gained),
            folded_lost: units(folded.lost),
        }
    };
    let entry = |entry: &manta_protocol::power::Entry| PowerEntry {
        height: entry.height,
        at_ms: entry.at_ms,
        branch: if entry.branch == Branch::Drilling { "drilling" } else { "training" }.into(),
        gained: units(entry.gained),
        lost: units(entry.lost),
        cause: entry.cause.to_string(),
    };
    let weights = &state.epoch().standings.0;
    PowerView {
        standing: standing(state, &peer),
        ranked: weights.iter().filter(|(_, weight)| *weight > 0).count() as u64,
        total_weight: weights.iter().map(|(_, weight)| *weight).fold(0, u64::saturating_add),
        drilling: branch(Branch::Drilling),
        training: branch(Branch::Training),
        kappa_milli: state.parameters().kappa_milli,
        unverified: units(power.unverified),
        folded: power.history.folded(Branch::Drilling).0,
        entries: power.history.entries().iter().map(entry).collect(),
    }
}
