//! One training run as one member lives it.
//!
//! Prepare → (compute → all-reduce → optimiser step) × exchanges, with hashes
//! compared after each round → save. Members are equal: nobody leads, everybody
//! compares. Every message may come early, late or twice.
//!
//! Members come and go: [`agreement`] finds the next view with the others,
//! [`install`] puts it in force, [`entering`] brings this member in (again),
//! [`recruit`] looks for more, [`balance`] sees who is slow. [`liveness`] tells who is there, [`leaving`] ends the
//! run for one or for all, [`training`] is the work itself.

mod agreement;
mod balance;
mod entering;
mod install;
mod leaving;
mod liveness;
mod recruit;
mod training;

use super::allreduce::AllReduce;
use super::ends::{End, Over};
use super::ledger::{Ledger, Span};
use super::patience::Patience;
use super::record::{Going, Record};
use super::report::{AbortReason, LossSum, RoundReport};
use super::view::{Checkpoint, Plan, View};
use super::{Phase, RunSpec};
use crate::effect::{Effect, Entry, RunFailure, RunStart};
use crate::ids::{EffectId, Hash, PeerId, RunId};
use crate::input::Done;
use crate::market::demand::{Demand, Share};
use crate::market::listing::Contact;
use crate::market::reservation::run_id;
use crate::outbox::{About, Outbox};
use crate::time::{Duration, Time};
use crate::wire::Message;
use agreement::Agreement;
use balance::Speed;
use entering::Entering;
use liveness::{HEARTBEAT_INTERVAL, Other};
pub(crate) use recruit::Market;
use recruit::Recruit;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// All members must have data and model after so long.
const PREPARE_MAX: Duration = Duration::from_s(15 * 60);
/// Who still waits for our last report gets so long to hear it.
const LEAVE_MAX: Duration = Duration::from_s(15);
/// Views that are kept for members that missed them.
const RECENT_VIEWS: usize = 4;
/// How often the state goes to the disk, at the ends of rounds.
const CHECKPOINT_INTERVAL: Duration = Duration::from_s(10);

/// What this member waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its own data and model.
    Preparing,
    /// The other members' data and models.
    Gathering,
    /// To be in the run (again), see [`Entering`].
    Entering,
    /// Its own contribution.
    Computing,
    /// The all-reduce.
    Reducing { since: Time },
    /// The sums of an exchange that it has no part in.
    Following,
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
    /// The own run's result, which others keep.
    Retrieving { root: Hash, from: PeerId, prepared: bool },
}

/// What this member has measured in the current round.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    loss: LossSum,
    compute_ms: u64,
    reduce_ms: u64,
    batches: u32,
}

/// One exchange.
#[derive(Debug)]
struct Exchange {
    plan: Arc<Plan>,
    reduce: AllReduce,
    /// Sums from before this view are of other contributors.
    sums_since: u32,
}

impl Exchange {
    fn new(plan: Arc<Plan>, me: &PeerId) -> Self {
        let reduce = AllReduce::new(plan.chunks.clone(), plan.rank_of(me));
        let sums_since = plan.number;
        Self { plan, reduce, sums_since }
    }

    /// Those whose batches count, ascending.
    fn contributors(&self) -> Vec<PeerId> {
        let ranks = self.plan.ranks.iter().enumerate();
        ranks.filter(|(rank, _)| self.reduce.counts(*rank)).map(|(_, peer)| *peer).collect()
    }

    fn assignment(&self, ledger: &Ledger) -> Vec<Vec<Span>> {
        ledger.assign(&self.plan.shares)
    }
}

/// The state that newcomers can fetch from here, or will be able to.
#[derive(Clone, Debug)]
struct Snapshot {
    /// Before which exchange.
    exchange: u64,
    ledger: Ledger,
    /// Whether it has been asked for.
    begun: bool,
    /// By which it is fetched, once it is there.
    root: Option<Hash>,
}

#[derive(Debug)]
pub(crate) struct Machine {
    start: Arc<RunStart>,
    demand: Demand,
    issued_at_ms: u64,
    contact: Contact,
    view: Arc<View>,
    recent: VecDeque<Arc<View>>,
    /// In force, the latest last.
    plans: VecDeque<Arc<Plan>>,
    stage: Stage,
    /// The exchange that comes or goes on; in [`Stage::Applying`] the one that is applied.
    number: u64,
    /// Before that exchange.
    ledger: Ledger,
    current: Exchange,
    /// The one before, whose sums may be asked of us, with the ledger before it.
    previous: Option<(Exchange, Ledger)>,
    /// Later ones, of which chunks are here.
    ahead: BTreeMap<u64, Exchange>,
    /// Chunks of views that we are not in yet.
    early: Vec<ChunkArrived>,
    agreement: Agreement,
    entering: Entering,
    recruit: Recruit,
    tally: Tally,
    speeds: BTreeMap<PeerId, Speed>,
    patience: Patience,
    others: BTreeMap<PeerId, Other>,
    ready: BTreeMap<PeerId, Hash>,
    /// Reports by round, plan and member.
    reports: BTreeMap<(u32, u32, PeerId), RoundReport>,
    snapshot: Option<Snapshot>,
    /// A view or a comparison has ended the run for us.
    doomed: Option<RunFailure>,
    /// How the run has ended here, once that is in the journal.
    over: Option<Over>,
    checkpoint: Option<Checkpoint>,
    /// On its way to the disk.
    checkpoint_begun: Option<Checkpoint>,
    checkpoint_at: Time,
    heartbeat_at: Time,
    prepare_until: Time,
}

/// With what a machine begins.
pub(crate) struct Beginning {
    pub(crate) start: RunStart,
    pub(crate) demand: Demand,
    pub(crate) issued_at_ms: u64,
    /// Where we are.
    pub(crate) contact: Contact,
}

impl Machine {
    /// `None` if the vector cannot be cut for so many members.
    pub(crate) fn new(beginning: Beginning, now: Time, out: &mut Outbox) -> Option<Self> {
        let view = View::first(&beginning.start.spec, &beginning.start.members);
        let machine = Self::with_view(beginning, view, now)?;
        machine.journal(out);
        out.push(Effect::Prepare(machine.start.clone()));
        Some(machine)
    }

    /// Goes on after a restart.
    pub(crate) fn again(record: Going, now: Time, out: &mut Outbox) -> Option<Self> {
        let Going { spec, demand, owner, issued_at_ms, contact, view, promised, accepted, leavers, checkpoint } =
            record;
        let members: Vec<_> = view.members.iter().map(|member| member.contact.clone()).collect();
        let start = RunStart {
            run: run_id(owner, spec.hash(), issued_at_ms),
            owner,
            me: contact.peer,
            donors: donors(owner, &members, contact.peer),
            members,
            entry: Entry::Again { checkpoint: checkpoint.as_ref().map(|checkpoint| checkpoint.exchange) },
            spec,
        };
        let mut machine = Self::with_view(Beginning { start, demand, issued_at_ms, contact }, view, now)?;
        machine.agreement.restore(promised, accepted, leavers);
        machine.checkpoint = checkpoint;
        out.push(Effect::Prepare(machine.start.clone()));
        Some(machine)
    }

    fn with_view(beginning: Beginning, view: View, now: Time) -> Option<Self> {
        let Beginning { start, demand, issued_at_ms, contact } = beginning;
        let plan = Arc::new(Plan::new(&view, &start.spec)?);
        let view = Arc::new(view);
        let others = view.members.iter().map(|member| member.contact.peer).filter(|peer| *peer != start.me);
        Some(Self {
            others: others.map(|peer| (peer, Other::new(now))).collect(),
            current: Exchange::new(plan.clone(), &start.me),
            number: view.from,
            ledger: view.ledger.clone(),
            entering: Entering::new(start.entry, now),
            start: Arc::new(start),
            demand,
            issued_at_ms,
            contact,
            recent: VecDeque::from([view.clone()]),
            view,
            plans: VecDeque::from([plan]),
            stage: Stage::Preparing,
            previous: None,
            ahead: BTreeMap::new(),
            early: Vec::new(),
            agreement: Agreement::default(),
            recruit: Recruit::new(now),
            tally: Tally::default(),
            speeds: BTreeMap::new(),
            patience: Patience::new(now),
            ready: BTreeMap::new(),
            reports: BTreeMap::new(),
            snapshot: None,
            doomed: None,
            over: None,
            checkpoint: None,
            checkpoint_begun: None,
            checkpoint_at: now,
            heartbeat_at: now + HEARTBEAT_INTERVAL,
            prepare_until: now + PREPARE_MAX,
        })
    }

    pub(crate) fn run(&self) -> RunId {
        self.start.run
    }

    fn me(&self) -> PeerId {
        self.start.me
    }

    fn spec(&self) -> &RunSpec {
        &self.start.spec
    }

    /// Hash of the spec under which machines are reserved for the run.
    pub(crate) fn spec_hash(&self) -> Hash {
        self.demand.spec
    }

    pub(crate) fn timeout(&self) -> Time {
        self.heartbeat_at
    }

    /// Whether we have ordered the run.
    pub(crate) fn is_owner(&self) -> bool {
        self.start.owner == self.me()
    }

    /// Who has ordered it.
    pub(crate) fn owner(&self) -> PeerId {
        self.start.owner
    }

    /// For how long machines were asked for.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_s(self.demand.duration_s)
    }

    /// Why this peer has left, if it did so with the view that holds.
    pub(crate) fn departure(&self, peer: &PeerId) -> Option<AbortReason> {
        self.view.left.iter().find(|departure| departure.peer == *peer).map(|departure| departure.reason)
    }

    /// Whose machines may see the run's data.
    pub(crate) fn share(&self) -> Share {
        self.demand.share
    }

    /// Whether this peer is in the run now.
    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        self.view.member(peer).is_some()
    }

    /// A member must leave, for a reason from outside the run.
    pub(crate) fn exclude(&mut self, peer: PeerId, reason: AbortReason, now: Time, out: &mut Outbox) -> Option<Over> {
        if peer == self.me() {
            return self.fail(reason, peer, now, out);
        }
        self.accuse(peer, reason, now, out);
        None
    }

    /// A message of this run came.
    pub(crate) fn message(&mut self, from: PeerId, message: &Message, now: Time, out: &mut Outbox) -> Option<Over> {
        self.heard(from, now);
        match message {
            // Who still asks has missed the end.
            Message::Join(_) | Message::ViewAsk(_) if self.over.is_some() => self.tell_end(from, now, out),
            // Who keeps the own result goes on telling until it hears that it is here.
            Message::Finished(_) if self.over.is_some() && self.is_owner() => self.tell_end(from, now, out),
            Message::Join(join) => self.asked_to_join(from, join, now, out),
            Message::ViewInstall(install) => self.view_heard(from, &install.view, now, out),
            Message::Finished(finished) => return self.finished_elsewhere(from, finished.root, now, out),
            Message::Abort(abort) => return self.abort_heard(from, abort, now, out),
            _ if self.view.member(&from).is_none() => self.tell_view(from, now, out),
            Message::Ready(ready) => self.is_ready(from, ready.parameter_hash, now, out),
            Message::RoundReport(report) => return self.reported(from, report, now, out),
            Message::Heartbeat(heartbeat) if heartbeat.view < self.view.number => {
                self.tell_views(from, heartbeat.view, now, out)
            }
            Message::Suspect(suspect) => self.suspicion_heard(from, suspect, now, out),
            Message::ViewAsk(ask) => self.asked(from, ask, now, out),
            Message::ViewState(state) => self.answered(from, state, now, out),
            Message::ViewPropose(propose) => self.proposed(from, propose, now, out),
            Message::ViewAccept(accept) => self.accepted(from, accept, now, out),
            Message::StateOffer(offer) => self.state_offered(from, offer, out),
            Message::CaughtUp(caught_up) => self.caught_up_heard(from, caught_up, now, out),
            _ => {}
        }
        self.compare(now, out)
    }

    /// The trainer has done something.
    pub(crate) fn trainer_done(&mut self, done: Done, now: Time, out: &mut Outbox) -> Option<Over> {
        match (self.stage, done) {
            (Stage::Preparing, Done::Prepared { parameter_hash }) => self.prepared(parameter_hash, now, out),
            (Stage::Retrieving { root, from, .. }, Done::Prepared { .. }) => {
                self.stage = Stage::Retrieving { root, from, prepared: true };
            }
            (Stage::Preparing | Stage::Retrieving { .. }, Done::StateNotLoaded { .. }) => {
                self.checkpoint_lost(now, out)
            }
            (Stage::Computing, Done::Computed { exchange, plan, loss, compute_ms })
                if exchange == self.number && plan == self.current.plan.number =>
            {
                self.computed(loss, compute_ms, now, out);
            }
            (_, Done::Reduced { exchange, view, chunk }) => self.reduced(exchange, view, chunk, now, out),
            (Stage::Applying, Done::Applied { exchange }) if exchange == self.number => self.applied(now, out),
            (Stage::Hashing, Done::Hashed { exchange, parameter_hash }) if exchange == self.number => {
                self.report(parameter_hash, now, out);
                return self.compare(now, out);
            }
            (_, Done::Snapshot { exchange, root }) => self.snapshot_taken(exchange, root, now, out),
            (Stage::Entering, Done::StateLoaded { exchange }) => self.state_loaded(exchange, now, out),
            (Stage::Entering, Done::StateNotLoaded { exchange }) => self.state_not_loaded(exchange, now, out),
            (_, Done::Checkpointed { exchange }) => self.checkpointed(exchange, out),
            (Stage::Saving, Done::Saved { root, kept }) => {
                self.write_end(End::Well { root, kept }, now, out);
                self.stage = Stage::Leaving { until: now + LEAVE_MAX };
                return self.leave_if_heard(out);
            }
            (Stage::Retrieving { root, from, .. }, Done::Saved { .. }) => {
                self.write_end(End::Well { root, kept: true }, now, out);
                self.tell_end(from, now, out);
                return self.close(out);
            }
            (Stage::Retrieving { prepared, .. }, Done::ResultNotFetched) => self.not_retrieved(prepared, now, out),
            _ => {}
        }
        None
    }

    /// Whether all members agree on the last round, so that none is needed any more.
    fn is_agreed(&self) -> bool {
        matches!(self.stage, Stage::Saving | Stage::Leaving { .. } | Stage::Retrieving { .. })
    }

    /// The plan of an exchange.
    fn plan_at(&self, exchange: u64) -> &Arc<Plan> {
        let newest = self.plans.iter().rev().find(|plan| plan.from <= exchange);
        newest.unwrap_or(&self.current.plan)
    }

    fn fresh_exchange(&self, number: u64) -> Exchange {
        Exchange::new(self.plan_at(number).clone(), &self.me())
    }

    /// Writes down what must outlive a restart, before anything is said that rests on it.
    fn journal(&self, out: &mut Outbox) {
        // A checkpoint may be done after all else: the end is not taken back.
        if self.over.is_some() {
            return;
        }
        let (promised, accepted, leavers) = self.agreement.promises();
        let record = Going {
            spec: self.start.spec.clone(),
            demand: self.demand.clone(),
            owner: self.start.owner,
            issued_at_ms: self.issued_at_ms,
            contact: self.contact.clone(),
            view: (*self.view).clone(),
            promised,
            accepted,
            leavers,
            checkpoint: self.checkpoint.clone(),
        };
        let record = Record::Going(Box::new(record));
        out.push(Effect::Journal { run: self.run(), record: Some(record.encode()) });
    }

    fn say(&mut self, to: PeerId, message: &Message, now: Time, out: &mut Outbox) -> Option<EffectId> {
        let id = out.send(to, message.clone(), About::Run(self.run()), now).id;
        if let (Message::RoundReport(_), Some(other)) = (message, self.others.get_mut(&to)) {
            other.report = id;
        }
        id
    }

    fn say_to_all(&mut self, message: &Message, now: Time, out: &mut Outbox) {
        let others: Vec<_> = self.others.keys().copied().collect();
        self.say_to(others, message, now, out);
    }

    fn say_to(&mut self, peers: impl IntoIterator<Item = PeerId>, message: &Message, now: Time, out: &mut Outbox) {
        for peer in peers {
            self.say(peer, message, now, out);
        }
    }

    /// Heartbeats, what must be said again, and what follows from silence.
    pub(crate) fn tick(&mut self, market: &Market<'_>, now: Time, out: &mut Outbox) -> Option<Over> {
        if now < self.heartbeat_at {
            return None;
        }
        self.heartbeat_at = now + HEARTBEAT_INTERVAL;
        match self.stage {
            Stage::Leaving { until } if until <= now => return self.close(out),
            // All that is missing comes from the driver.
            Stage::Retrieving { .. } => return None,
            _ => {}
        }
        if let Some(ended) = self.give_up_waiting(now, out) {
            return Some(ended);
        }
        self.say_again(now, out);
        if self.stage == Stage::Entering || (self.stage == Stage::Preparing && self.entering.is_left_behind()) {
            // While it prepares, too: only members are let in to the data.
            self.ask_to_enter(now, out);
        } else if !self.is_agreed() {
            self.look_for_silence(now, out);
            self.look_for_stalls(now, out);
            self.say_caught_up(now, out);
            self.offer_state(now, out);
            self.recruit(market, now, out);
        }
        self.agree(now, out);
        self.compare(now, out)
    }
}

/// Whom to ask for data: the owner first.
pub(crate) fn donors(owner: PeerId, members: &[Contact], me: PeerId) -> Vec<PeerId> {
    let others = members.iter().map(|member| member.peer).filter(|peer| *peer != owner);
    let mut donors: Vec<_> = [owner].into_iter().chain(others).collect();
    donors.retain(|peer| *peer != me);
    donors
}

/// A chunk that came in, as [`Input::ChunkArrived`](crate::Input::ChunkArrived) tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkArrived {
    pub(crate) transfer: u64,
    pub(crate) from: PeerId,
    pub(crate) view: u32,
    pub(crate) exchange: u64,
    pub(crate) phase: Phase,
    pub(crate) chunk: u32,
    pub(crate) elements: u64,
}
