//! One training run as one member lives it.
//!
//! Prepare → (gradient → all-reduce → optimiser step) × steps → hash → compare
//! → next round … → save. Members are equal: nobody leads, everybody compares.
//! Every message may come early, late or twice. A member that is lost, differs
//! or sends nonsense ends the run, by name.

use super::allreduce::{Action, AllReduce, Refusal};
use super::patience::{Awaited, Patience};
use super::report::{Abort, AbortReason, Heartbeat, LossSum, Ready, RoundReport};
use super::{ChunkPlan, Phase};
use crate::effect::{Effect, Event, RunFailure, RunStart};
use crate::ids::{EffectId, Hash, PeerId, RunId};
use crate::input::Done;
use crate::outbox::{About, Outbox};
use crate::time::{Duration, Time};
use crate::wire::Message;
use crate::wire::message::Kind;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often a member says that it is alive.
const HEARTBEAT_INTERVAL: Duration = Duration::from_s(1);
/// A member that says nothing for so long is lost.
const SILENCE_MAX: Duration = Duration::from_s(15);
/// Whom the transport cannot reach and who says nothing for so long is lost.
const QUIET_MAX: Duration = Duration::from_s(3);
/// All members must have data and model after so long.
const PREPARE_MAX: Duration = Duration::from_s(15 * 60);

/// What this member waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its own data and model.
    Preparing,
    /// The other members' data and models.
    Gathering,
    /// Its own gradient.
    Computing,
    /// The all-reduce.
    Reducing { since: Time },
    /// Its own optimiser step.
    Applying,
    /// Its own hash.
    Hashing,
    /// The other members' reports.
    Comparing,
    /// Its own evaluation and files.
    Saving,
    /// Nothing but that every other member has its last report.
    Leaving { until: Time },
}

/// Another member.
#[derive(Clone, Copy, Debug)]
struct Other {
    last_heard: Time,
    /// The transport has failed to reach it since it was last heard.
    suspect: bool,
    /// Its last connection was lost since it was last heard.
    disconnected: bool,
    /// What the transport failed to deliver and must be said again.
    unsaid: Option<Kind>,
    /// Our latest report on its way to it.
    report: Option<EffectId>,
}

/// What this member has measured in the current round.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    loss: LossSum,
    compute_ms: u64,
    reduce_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Machine {
    start: Arc<RunStart>,
    plan: ChunkPlan,
    stage: Stage,
    step: u64,
    /// This step's all-reduce and the next one's: a member that is done with a
    /// step is at most one step ahead, since the next needs our own values.
    reduce: AllReduce,
    reduce_next: AllReduce,
    tally: Tally,
    patience: Patience,
    others: BTreeMap<PeerId, Other>,
    ready: BTreeMap<PeerId, Hash>,
    /// Reports of the current round and of the next, by round and rank.
    reports: BTreeMap<(u32, usize), RoundReport>,
    heartbeat_at: Time,
    prepare_until: Time,
}

/// How a run ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

impl Machine {
    /// `None` if the gradient cannot be cut for so many members.
    pub(crate) fn new(start: RunStart, now: Time, out: &mut Outbox) -> Option<Self> {
        let plan = start.spec.chunk_plan(start.members.len())?;
        let me = start.me();
        let other = Other { last_heard: now, suspect: false, disconnected: false, unsaid: None, report: None };
        let others = start.members.iter().map(|member| member.peer).filter(|peer| *peer != me);
        let machine = Self {
            others: others.map(|peer| (peer, other)).collect(),
            reduce: AllReduce::new(plan.clone(), start.rank),
            reduce_next: AllReduce::new(plan.clone(), start.rank),
            start: Arc::new(start),
            plan,
            stage: Stage::Preparing,
            step: 0,
            tally: Tally::default(),
            patience: Patience::new(now),
            ready: BTreeMap::new(),
            reports: BTreeMap::new(),
            heartbeat_at: now + HEARTBEAT_INTERVAL,
            prepare_until: now + PREPARE_MAX,
        };
        out.push(Effect::Prepare(machine.start.clone()));
        Some(machine)
    }

    pub(crate) fn run(&self) -> RunId {
        self.start.run
    }

    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        self.start.rank_of(peer).is_some()
    }

    pub(crate) fn timeout(&self) -> Time {
        self.heartbeat_at
    }

    /// The trainer has done something.
    pub(crate) fn trainer_done(&mut self, done: Done, now: Time, out: &mut Outbox) -> Option<Ended> {
        match (self.stage, done) {
            (Stage::Preparing, Done::Prepared { parameter_hash }) => {
                self.stage = Stage::Gathering;
                self.ready.insert(self.start.me(), parameter_hash);
                self.say_to_all(&Message::Ready(Ready { run: self.run(), parameter_hash }), now, out);
                self.start_if_all_ready(now, out)
            }
            (Stage::Computing, Done::Gradient { step, loss, compute_ms }) if step == self.step => {
                self.stage = Stage::Reducing { since: now };
                self.tally.loss = self.tally.loss.plus(loss);
                self.tally.compute_ms += compute_ms;
                self.patience.computed(now);
                self.reduce.local_ready();
                self.drive_reduce(now, out);
                None
            }
            (Stage::Reducing { .. }, Done::Reduced { step, chunk }) if step == self.step => {
                self.reduce.chunk_reduced(chunk);
                self.drive_reduce(now, out);
                None
            }
            (Stage::Applying, Done::Applied { step }) if step == self.step => {
                self.finish_step(now, out);
                None
            }
            (Stage::Hashing, Done::Hashed { round, parameter_hash }) if round == self.round() => {
                self.report(parameter_hash, now, out);
                self.compare(now, out)
            }
            (Stage::Saving, Done::Saved) => {
                self.stage = Stage::Leaving { until: now + SILENCE_MAX };
                self.leave_if_heard(out)
            }
            _ => None,
        }
    }

    /// A message of this run came from the member `from`.
    pub(crate) fn message(&mut self, from: PeerId, message: &Message, now: Time, out: &mut Outbox) -> Option<Ended> {
        let rank = self.start.rank_of(&from)?;
        self.heard(from, now);
        match message {
            Message::Ready(ready) => {
                let first = self.ready.insert(from, ready.parameter_hash).is_none();
                // Our own word may have come before their `Confirm`: say it again.
                if let (true, Some(parameter_hash)) = (first, self.ready.get(&self.start.me()).copied()) {
                    let again = Message::Ready(Ready { run: self.run(), parameter_hash });
                    out.send(from, again, About::Run(self.run()), now);
                }
                if first {
                    out.notify(Event::MemberReady { run: self.run(), peer: from });
                }
                self.start_if_all_ready(now, out)
            }
            Message::RoundReport(report) if report.round == self.round() || report.round == self.round() + 1 => {
                self.patience.progress(now);
                self.reports.entry((report.round, rank)).or_insert_with(|| report.clone());
                self.compare(now, out)
            }
            // The last round is agreed: there is nothing left to stop.
            Message::Abort(_) if self.is_agreed() => None,
            // Passed on, for its author may have gone before telling everyone.
            Message::Abort(abort) => {
                let culprit = if self.is_member(&abort.culprit) { abort.culprit } else { from };
                self.end(RunFailure { reason: abort.reason, culprit, reported_by: from }, now, out)
            }
            _ => None,
        }
    }

    /// A chunk came over the bulk transport. Whether it is to be kept, and
    /// whether the run goes on.
    pub(crate) fn chunk(&mut self, arrived: ChunkArrived, now: Time, out: &mut Outbox) -> Option<Ended> {
        let ChunkArrived { transfer, from, step, phase, chunk, elements } = arrived;
        let rank = self.start.rank_of(&from);
        let result = rank.and_then(|rank| {
            if step == self.step && !matches!(self.stage, Stage::Applying | Stage::Hashing | Stage::Comparing) {
                Some(self.reduce.chunk_arrived(rank, phase, chunk, elements))
            } else if step == self.step + 1 {
                Some(self.reduce_next.chunk_arrived(rank, phase, chunk, elements))
            } else {
                None
            }
        });
        let keep = matches!(result, Some(Ok(())));
        out.push(Effect::ChunkVerdict { transfer, keep });
        if rank.is_some() {
            self.heard(from, now);
        }
        // The bulk transport sends a chunk again if its receipt was lost.
        if let Some(Err(refusal)) = result.filter(|result| *result != Err(Refusal::Again)) {
            out.push(Effect::Misbehaviour { peer: from, what: refusal.to_string() });
            if refusal == Refusal::Length {
                return self.fail(AbortReason::BadGradient, from, now, out);
            }
        }
        if keep && step == self.step {
            self.patience.progress(now);
            self.drive_reduce(now, out);
        }
        None
    }

    /// The transport delivered the message `id` to a member.
    pub(crate) fn delivered(&mut self, id: EffectId, to: PeerId, out: &mut Outbox) -> Option<Ended> {
        let other = self.others.get_mut(&to)?;
        other.suspect = false;
        other.disconnected = false;
        other.report = other.report.filter(|report| *report != id);
        self.leave_if_heard(out)
    }

    /// The transport could not deliver a message of `kind` to a member: once is
    /// an accident; again, with its connection lost or nothing heard of it for a
    /// while, is a loss. Nobody is lost for that while it may need our last report.
    pub(crate) fn undelivered(&mut self, to: PeerId, kind: Kind, now: Time, out: &mut Outbox) -> Option<Ended> {
        let agreed = self.is_agreed();
        let other = self.others.get_mut(&to)?;
        let quiet = !agreed && now.since(other.last_heard) > QUIET_MAX;
        if kind == Kind::Confirm || (other.suspect && (other.disconnected || quiet)) {
            return self.lost(to, now, out);
        }
        let known = std::mem::replace(&mut other.suspect, true);
        if kind != Kind::Heartbeat {
            // Of two things to say again, the later in the course of the run counts.
            other.unsaid = other.unsaid.max(Some(kind));
        }
        // Asked at once the first time, then with the next heartbeat.
        if known {
            return None;
        }
        self.say(to, &Message::Heartbeat(Heartbeat { run: self.run() }), now, out);
        None
    }

    /// The connection to a member was lost: ask whether it is still there.
    pub(crate) fn disconnected(&mut self, peer: PeerId, now: Time, out: &mut Outbox) {
        let run = self.run();
        if let Some(other) = self.others.get_mut(&peer) {
            other.suspect = true;
            other.disconnected = true;
            self.say(peer, &Message::Heartbeat(Heartbeat { run }), now, out);
        }
    }

    /// Heartbeats, things to say again, and who has been silent for too long.
    pub(crate) fn tick(&mut self, now: Time, out: &mut Outbox) -> Option<Ended> {
        if now < self.heartbeat_at {
            return None;
        }
        self.heartbeat_at = now + HEARTBEAT_INTERVAL;
        if matches!(self.stage, Stage::Leaving { until } if until <= now) {
            return Some(self.close(out));
        }
        let silent = |(_, other): &(&PeerId, &Other)| now.since(other.last_heard) > SILENCE_MAX;
        let silent: Vec<_> = self.others.iter().filter(silent).map(|(peer, _)| *peer).collect();
        if let Some(ended) = silent.into_iter().find_map(|peer| self.lost(peer, now, out)) {
            return Some(ended);
        }
        if now >= self.prepare_until && matches!(self.stage, Stage::Preparing | Stage::Gathering) {
            let late = self.start.members.iter().find(|member| !self.ready.contains_key(&member.peer));
            let culprit = late.map_or(self.start.me(), |member| member.peer);
            return self.fail(AbortReason::NotReady, culprit, now, out);
        }
        if let Some(culprit) = self.stalled(now) {
            return self.fail(AbortReason::Stalled, culprit, now, out);
        }
        let others: Vec<_> = self.others.iter_mut().map(|(peer, other)| (*peer, other.unsaid.take())).collect();
        for (peer, unsaid) in others {
            let message = unsaid.and_then(|kind| self.said(kind));
            let message = message.unwrap_or(Message::Heartbeat(Heartbeat { run: self.run() }));
            self.say(peer, &message, now, out);
        }
        None
    }

    /// A member that is alive but has owed us something for too long.
    fn stalled(&self, now: Time) -> Option<PeerId> {
        let (what, missing) = match self.stage {
            Stage::Reducing { .. } => match self.reduce.waiting_for(Phase::Contribution) {
                // Who lacks others' values cannot send sums: values come first.
                missing if missing.is_empty() => (Awaited::Sums, self.reduce.waiting_for(Phase::Sum)),
                missing => (Awaited::Values, missing),
            },
            Stage::Comparing => {
                let reported = |rank: &usize| self.reports.contains_key(&(self.round(), *rank));
                let ranks = 0..self.start.members.len();
                (Awaited::Reports, ranks.filter(|rank| !reported(rank)).collect())
            }
            _ => return None,
        };
        let culprit = missing.into_iter().find(|rank| *rank != self.start.rank)?;
        self.patience.is_over(what, now).then(|| self.start.members[culprit].peer)
    }

    /// A member is gone. That ends the run, unless its last word is here.
    pub(crate) fn lost(&mut self, peer: PeerId, now: Time, out: &mut Outbox) -> Option<Ended> {
        let rank = self.start.rank_of(&peer)?;
        let reported = self.stage == Stage::Comparing && self.reports.contains_key(&(self.round(), rank));
        if self.is_agreed() || (reported && self.is_last_step()) {
            if let Some(other) = self.others.get_mut(&peer) {
                other.report = None;
            }
            return self.leave_if_heard(out);
        }
        self.fail(AbortReason::MemberLost, peer, now, out)
    }

    /// Ends the run for what we have found ourselves.
    pub(crate) fn fail(&mut self, reason: AbortReason, culprit: PeerId, now: Time, out: &mut Outbox) -> Option<Ended> {
        self.end(RunFailure { reason, culprit, reported_by: out.me() }, now, out)
    }

    /// Ends the run here and tells the others who is to blame. A run that is
    /// saved has ended well: only the delivery of the last report is cut short.
    fn end(&mut self, failure: RunFailure, now: Time, out: &mut Outbox) -> Option<Ended> {
        if matches!(self.stage, Stage::Leaving { .. }) {
            return Some(self.close(out));
        }
        let RunFailure { reason, culprit, .. } = failure;
        let abort = Message::Abort(Abort { run: self.run(), reason, culprit });
        self.say_to_all(&abort, now, out);
        out.push(Effect::Close { run: self.run(), failure: Some(failure) });
        Some(Ended)
    }

    /// Whether all members agree on the last round, so that none is needed any more.
    fn is_agreed(&self) -> bool {
        matches!(self.stage, Stage::Saving | Stage::Leaving { .. })
    }

    fn is_last_step(&self) -> bool {
        self.step + 1 == self.start.spec.steps()
    }

    /// A member that left before its last report was delivered would leave the
    /// others waiting for it.
    fn leave_if_heard(&self, out: &mut Outbox) -> Option<Ended> {
        let heard = self.others.values().all(|other| other.report.is_none());
        (heard && matches!(self.stage, Stage::Leaving { .. })).then(|| self.close(out))
    }

    fn close(&self, out: &mut Outbox) -> Ended {
        out.push(Effect::Close { run: self.run(), failure: None });
        Ended
    }

    fn round(&self) -> u32 {
        u32::try_from(self.step / u64::from(self.start.spec.steps_per_round)).unwrap_or(u32::MAX)
    }

    fn heard(&mut self, from: PeerId, now: Time) {
        if let Some(other) = self.others.get_mut(&from) {
            other.last_heard = now;
            other.suspect = false;
            other.disconnected = false;
        }
    }

    fn say(&mut self, to: PeerId, message: &Message, now: Time, out: &mut Outbox) {
        let id = out.send(to, message.clone(), About::Run(self.run()), now).id;
        if let (Message::RoundReport(_), Some(other)) = (message, self.others.get_mut(&to)) {
            other.report = id;
        }
    }

    fn say_to_all(&mut self, message: &Message, now: Time, out: &mut Outbox) {
        let others: Vec<_> = self.others.keys().copied().collect();
        others.into_iter().for_each(|peer| self.say(peer, message, now, out));
    }

    /// Our latest word of this kind, to say it again.
    fn said(&self, kind: Kind) -> Option<Message> {
        let run = self.run();
        match kind {
            Kind::Ready => {
                let parameter_hash = *self.ready.get(&self.start.me())?;
                Some(Message::Ready(Ready { run, parameter_hash }))
            }
            Kind::RoundReport => {
                let mine = self.reports.iter().rev().find(|((_, rank), _)| *rank == self.start.rank);
                mine.map(|(_, report)| Message::RoundReport(report.clone()))
            }
            _ => None,
        }
    }

    fn start_if_all_ready(&mut self, now: Time, out: &mut Outbox) -> Option<Ended> {
        if self.stage != Stage::Gathering || self.ready.len() < self.start.members.len() {
            return None;
        }
        let hashes: Vec<_> =
            self.start.members.iter().filter_map(|member| self.ready.get(&member.peer)).copied().collect();
        if let Some((reason, rank)) = difference(&hashes) {
            return self.fail(reason, self.start.members[rank].peer, now, out);
        }
        self.compute(now, out);
        None
    }

    fn compute(&mut self, now: Time, out: &mut Outbox) {
        self.patience.step_begins(now);
        self.stage = Stage::Computing;
        out.push(Effect::ComputeGradient { run: self.run(), step: self.step });
    }

    fn drive_reduce(&mut self, now: Time, out: &mut Outbox) {
        let (run, step) = (self.run(), self.step);
        let peer = |rank: usize| self.start.members[rank].peer;
        while let Some(action) = self.reduce.poll_action() {
            match action {
                Action::SendContribution { to, chunk } => {
                    out.push(Effect::SendChunk { run, to: peer(to), step, phase: Phase::Contribution, chunk });
                }
                Action::Reduce { chunk } => out.push(Effect::Reduce { run, step, chunk }),
                Action::SendSum { to, chunk } => {
                    out.push(Effect::SendChunk { run, to: peer(to), step, phase: Phase::Sum, chunk });
                }
                Action::Complete => {
                    if let Stage::Reducing { since } = self.stage {
                        self.tally.reduce_ms += now.since(since).as_ms();
                    }
                    self.patience.step_whole(now);
                    self.stage = Stage::Applying;
                    out.push(Effect::Apply { run, step });
                }
            }
        }
    }

    fn finish_step(&mut self, now: Time, out: &mut Outbox) {
        out.notify(Event::StepDone { run: self.run(), step: self.step });
        if (self.step + 1).is_multiple_of(u64::from(self.start.spec.steps_per_round)) {
            self.stage = Stage::Hashing;
            out.push(Effect::HashParameters { run: self.run(), round: self.round() });
        } else {
            self.next_step();
            self.compute(now, out);
        }
    }

    fn next_step(&mut self) {
        self.step += 1;
        let fresh = AllReduce::new(self.plan.clone(), self.start.rank);
        self.reduce = std::mem::replace(&mut self.reduce_next, fresh);
    }

    fn report(&mut self, parameter_hash: Hash, now: Time, out: &mut Outbox) {
        self.stage = Stage::Comparing;
        self.patience.wait_begins(now);
        let Tally { loss, compute_ms, reduce_ms } = std::mem::take(&mut self.tally);
        let round = self.round();
        let report = RoundReport { run: self.run(), round, parameter_hash, loss, compute_ms, reduce_ms };
        self.say_to_all(&Message::RoundReport(report.clone()), now, out);
        self.reports.insert((round, self.start.rank), report);
    }

    /// Once all have reported the round: equal hashes go on, unequal ones end the run.
    fn compare(&mut self, now: Time, out: &mut Outbox) -> Option<Ended> {
        let round = self.round();
        let ranks = self.start.members.len();
        if self.stage != Stage::Comparing || self.reports.range((round, 0)..(round, ranks)).count() < ranks {
            return None;
        }
        let reports: Vec<_> =
            self.reports.range((round, 0)..(round, ranks)).map(|(_, report)| report.clone()).collect();
        // Our own last report is kept: a member that has not got it may need it again.
        self.reports.retain(|(of, rank), _| *of > round || (*of == round && *rank == self.start.rank));
        let hashes: Vec<_> = reports.iter().map(|report| report.parameter_hash).collect();
        if let Some((reason, rank)) = difference(&hashes) {
            return self.fail(reason, self.start.members[rank].peer, now, out);
        }
        out.notify(Event::RoundDone { run: self.run(), reports });
        if self.is_last_step() {
            self.stage = Stage::Saving;
            out.push(Effect::Save { run: self.run() });
        } else {
            self.next_step();
            self.compute(now, out);
        }
        None
    }
}

/// A chunk that came in, as [`Input::ChunkArrived`](crate::Input::ChunkArrived) tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkArrived {
    pub(crate) transfer: u64,
    pub(crate) from: PeerId,
    pub(crate) step: u64,
    pub(crate) phase: Phase,
    pub(crate) chunk: u32,
    pub(crate) elements: u64,
}

/// The first rank whose hash is not the commonest one (of equally common ones,
/// the one that the lowest rank holds), and whether a majority of all members
/// says so; `None` if all are equal.
fn difference(hashes: &[Hash]) -> Option<(AbortReason, usize)> {
    let count = |hash: &Hash| hashes.iter().filter(|other| *other == hash).count();
    let commonest = hashes.iter().rev().max_by_key(|hash| count(hash))?;
    let decided = 2 * count(commonest) > hashes.len();
    let reason = if decided { AbortReason::ParametersDiffer } else { AbortReason::NoMajority };
    hashes.iter().position(|hash| hash != commonest).map(|rank| (reason, rank))
}
