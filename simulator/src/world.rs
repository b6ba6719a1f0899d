//! The simulation itself: takes events from the schedule, hands them to the
//! nodes and carries out what the nodes ask for.

mod cuts;

use crate::checkers::Checkers;
use crate::clock::{EPOCH, elapsed};
use crate::faults::{Fault, Plan};
use crate::host::{Host, State, Work};
use crate::network::{Conditions, Fate, Network};
use crate::options::Options;
use crate::report::{Failure, Summary, Trace, describe_effect, describe_input};
use crate::schedule::Schedule;
use crate::workload::{self, Break, Training};
use manta_protocol::effect::{RunFailure, Verdict};
use manta_protocol::input::Done;
use manta_protocol::market::reservation::{Answer, RESERVATION_MAX};
use manta_protocol::run::report::{AbortReason, LossSum};
use manta_protocol::run::{Phase, RunSpec};
use manta_protocol::wire::{Envelope, Message};
use manta_protocol::{
    Command, Duration, Effect, EffectId, Event, Hash, Input, NetworkId, OrderId, PeerId, RunId, Seed, Time,
};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

/// Events that may wait at once, for each machine.
const WAITING_MAX_PER_HOST: usize = 16_384;
/// Effects of one input.
const EFFECTS_MAX: usize = 8_192;
/// An order that came to nothing on lossy links is tried so often.
const ATTEMPTS_MAX: u32 = 8;
/// After this a bulk transport gives up on whoever does not answer.
const BULK_TIMEOUT: Duration = Duration::from_s(10);
/// After the last run, for holds to end and listings to settle.
const AFTERWARDS: Duration = Duration::from_s(40);
/// A simulation that takes longer than this and the rounds' share has hung.
const PATIENCE: Duration = Duration::from_s(900);
/// What a round may take on the worst links.
const PATIENCE_PER_ROUND: Duration = Duration::from_s(30);

/// One thing that happens.
enum Happening {
    Offer { host: usize },
    Order { order: usize },
    Wake { host: usize, due: Time },
    Gossip { to: usize, from: usize, id: Hash, bytes: Arc<Vec<u8>> },
    Frame { to: usize, from: usize, bytes: Vec<u8>, message: Message },
    Outcome { host: usize, id: EffectId, delivered: bool },
    Chunk(Box<Chunk>),
    BulkFailed { host: usize, run: RunId, peer: PeerId },
    Disconnected { host: usize, peer: PeerId },
    Trained { host: usize, run: RunId, work: Work },
    Connected { host: usize, peer: PeerId },
    FaultBegins,
    FaultEnds,
    MustBeOver { host: usize, run: RunId },
}

/// A chunk on its way.
#[derive(Clone)]
struct Chunk {
    to: usize,
    from: usize,
    run: RunId,
    step: u64,
    phase: Phase,
    chunk: u32,
    values: Vec<f32>,
}

/// What a transport holds while its node judges it.
#[derive(Default)]
struct Judged {
    gossip: Option<(usize, Hash, Arc<Vec<u8>>)>,
    chunk: Option<Box<Chunk>>,
}

/// A user's wish and what became of it.
struct OrderState {
    host: usize,
    spec: RunSpec,
    attempts: u32,
    run: Option<RunId>,
    over: bool,
    finished: bool,
}

struct World {
    options: Options,
    conditions: Conditions,
    schedule: Schedule<Happening>,
    network: Network,
    hosts: Vec<Host>,
    index: BTreeMap<PeerId, usize>,
    orders: Vec<OrderState>,
    checkers: Checkers,
    trace: Trace,
    summary: Summary,
    over_at: Option<Time>,
    plan: Option<Plan>,
}

/// Runs a simulation to its end; the trace goes to `trace` if there is one.
///
/// # Errors
/// The trace could not be written.
pub fn simulate(options: Options, trace: Option<Box<dyn Write>>) -> std::io::Result<Summary> {
    World::new(options, trace).run()
}

impl World {
    fn new(options: Options, trace: Option<Box<dyn Write>>) -> Self {
        let seed = Seed::from_number(options.seed);
        let conditions = options.conditions.unwrap_or_else(|| Conditions::drawn(seed));
        let network_id = NetworkId::from_name("simulation");
        let new_host = |index| Host::new(index, network_id, seed, conditions.skew_ms_max, EPOCH);
        let mut hosts: Vec<_> = (0..options.peers).map(new_host).collect();
        if let Some(host) = hosts.get_mut(1) {
            host.broken = options.broken;
        }
        let orders = (0..options.orders.min(options.peers)).map(|order| OrderState {
            host: order,
            spec: workload::spec(options.rounds, seed.child("run", order as u64)),
            attempts: 0,
            run: None,
            over: false,
            finished: false,
        });
        Self {
            schedule: Schedule::new(EPOCH),
            network: Network::new(options.peers, conditions, seed.child("network", 0)),
            index: hosts.iter().enumerate().map(|(index, host)| (host.peer, index)).collect(),
            orders: orders.collect(),
            checkers: Checkers::default(),
            trace: Trace::new(trace),
            summary: Summary::new(&options, conditions, options.broken.and(hosts.get(1)).map(|host| host.peer)),
            over_at: None,
            plan: options.fault.map(|fault| Plan::drawn(fault, options.peers, seed)),
            options,
            conditions,
            hosts,
        }
    }

    fn run(mut self) -> std::io::Result<Summary> {
        let seed = Seed::from_number(self.options.seed);
        for host in 0..self.hosts.len() {
            let after = Duration::from_ms(seed.below("offer", host as u64, 500));
            self.schedule.at(EPOCH + after, Happening::Offer { host });
        }
        for order in 0..self.orders.len() {
            let after = Duration::from_ms(seed.below("order", order as u64, 1_500));
            self.schedule.at(EPOCH + after, Happening::Order { order });
        }
        if let Some(plan) = &self.plan {
            self.schedule.at(plan.at, Happening::FaultBegins);
            if plan.fault == Fault::Partition {
                self.schedule.at(plan.heals_at, Happening::FaultEnds);
            }
        }
        let limit = EPOCH + PATIENCE + PATIENCE_PER_ROUND.times(u64::from(self.options.rounds));
        let waiting_max = WAITING_MAX_PER_HOST * self.hosts.len();
        while let Some(happening) = self.schedule.pop() {
            if self.over_at.is_some_and(|at| self.schedule.now() >= at) || !self.checkers.violations().is_empty() {
                break;
            }
            if self.schedule.now() > limit {
                self.checkers.violation("the runs are not over in the time they may take".into());
                break;
            }
            self.summary.events += 1;
            self.happen(happening);
            self.checkers.bound("events waiting", self.schedule.longest(), waiting_max);
        }
        self.conclude()
    }

    fn conclude(mut self) -> std::io::Result<Summary> {
        for host in self.hosts.iter().filter(|host| host.state == State::Up && self.over_at.is_some()) {
            let own = host.node.listings().find(|(peer, _)| **peer == host.peer);
            if own.is_none_or(|(_, listing)| listing.busy) {
                self.checkers.violation(format!("{:?} is still not free long after the last run", host.peer));
            }
        }
        // Who is killed takes no run to its end any more.
        let victim = self.plan.as_ref().and_then(Plan::victim);
        let finished = self.orders.iter().all(|order| order.finished || Some(order.host) == victim);
        self.summary.virtual_ms = elapsed(self.schedule.now()).as_ms();
        self.summary.events_waiting_max = self.schedule.longest();
        self.summary.violations = self.checkers.violations().to_vec();
        self.summary.ok = finished && self.summary.violations.is_empty();
        self.summary.trace_hash = self.trace.finish()?;
        Ok(self.summary)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Offer { host } => {
                let listing = workload::listing(self.hosts[host].speed);
                self.input(host, Input::Command(Command::Offer(Box::new(listing))));
                for other in self.network.neighbours(host).to_vec() {
                    let peer = self.hosts[other].peer;
                    self.input(host, Input::PeerConnected { peer });
                }
            }
            Happening::Order { order } => self.place(order),
            Happening::Wake { host, due } => {
                if self.hosts[host].wake == Some(due) {
                    self.hosts[host].wake = None;
                    self.input(host, Input::Tick);
                }
            }
            Happening::Gossip { to, from, id, bytes } => {
                if self.hosts[to].state == State::Up && !self.is_cut(from, to) && self.hosts[to].first_sight(id) {
                    let input = Input::Gossip { message: 0, bytes: bytes.to_vec() };
                    self.judge(to, input, Judged { gossip: Some((from, id, bytes)), chunk: None });
                }
            }
            Happening::Frame { to, from, bytes, message } => self.frame_arrives(to, from, bytes, &message),
            Happening::Outcome { host, id, delivered } => {
                let outcome = if delivered { Input::FrameDelivered { id } } else { Input::FrameFailed { id } };
                self.input(host, outcome);
            }
            Happening::Chunk(chunk) => {
                let (run, step, phase, index) = (chunk.run, chunk.step, chunk.phase, chunk.chunk);
                let (to, from, elements) = (chunk.to, self.hosts[chunk.from].peer, chunk.values.len() as u64);
                let input = Input::ChunkArrived { transfer: 0, from, run, step, phase, chunk: index, elements };
                self.judge(to, input, Judged { gossip: None, chunk: Some(chunk) });
            }
            Happening::BulkFailed { host, run, peer } => self.input(host, Input::BulkFailed { run, peer }),
            Happening::Disconnected { host, peer } => self.input(host, Input::PeerDisconnected { peer }),
            Happening::Trained { host, run, work } => self.trained(host, run, work),
            Happening::Connected { host, peer } => self.input(host, Input::PeerConnected { peer }),
            Happening::FaultBegins => self.fault_begins(),
            Happening::FaultEnds => self.fault_ends(),
            Happening::MustBeOver { host, run } => self.must_be_over(host, run),
        }
    }

    /// A user asks (again) for a run.
    fn place(&mut self, order: usize) {
        let state = &mut self.orders[order];
        state.attempts += 1;
        let number = OrderId(order as u64 * u64::from(ATTEMPTS_MAX) + u64::from(state.attempts));
        let (host, spec) = (state.host, Box::new(state.spec.clone()));
        let wish = workload::wish(self.options.members);
        self.input(host, Input::Command(Command::Order { order: number, spec, wish }));
    }

    fn input(&mut self, host: usize, input: Input) {
        self.judge(host, input, Judged::default());
    }

    /// Hands an input to a node and does what it asks for; `judged` is what
    /// the input told about and the node decides on.
    fn judge(&mut self, host: usize, input: Input, mut judged: Judged) {
        if self.hosts[host].state != State::Up {
            return;
        }
        let now = self.schedule.now();
        let local = self.hosts[host].clock.local(now);
        self.trace.line(&format!("{} {host} < {}", elapsed(now).0, describe_input(&input)));
        self.hosts[host].node.handle(input, local);
        let mut effects = 0;
        while let Some(effect) = self.hosts[host].node.poll_effect() {
            effects += 1;
            self.trace.line(&format!("{} {host} > {}", elapsed(now).0, describe_effect(&effect)));
            self.perform(host, effect, &mut judged);
        }
        self.checkers.bound("effects of one input", effects, EFFECTS_MAX);
        let due = self.hosts[host].node.poll_timeout();
        if due <= local {
            let overdue = local.since(due).as_ms();
            self.checkers.violation(format!("{:?} asks to be woken {overdue} ms ago", self.hosts[host].peer));
        }
        if self.hosts[host].wake != Some(due) {
            self.hosts[host].wake = Some(due);
            self.schedule.at(self.hosts[host].clock.true_time(due, now), Happening::Wake { host, due });
        }
    }

    fn perform(&mut self, host: usize, effect: Effect, judged: &mut Judged) {
        match effect {
            Effect::Publish { bytes } => {
                let id = Hash::of(&bytes);
                self.hosts[host].first_sight(id);
                self.gossip(host, None, id, &Arc::new(bytes));
            }
            Effect::GossipVerdict { verdict, .. } => self.gossip_judged(host, verdict, judged.gossip.take()),
            Effect::SendFrame { id, to, bytes } => self.send_frame(host, id, to, bytes),
            Effect::Misbehaviour { peer, what } => {
                self.checkers.violation(format!("{:?} blames {peer:?}: {what}", self.hosts[host].peer));
            }
            Effect::Disconnect { peer, why } => {
                self.checkers
                    .violation(format!("{:?} shuts {peer:?} out of an open swarm: {why:?}", self.hosts[host].peer));
            }
            Effect::ChunkVerdict { keep, .. } => {
                if let Some(chunk) = judged.chunk.take().filter(|_| keep) {
                    self.keep(host, *chunk);
                }
            }
            Effect::SendChunk { run, to, step, phase, chunk } => self.send_chunk(host, run, to, step, phase, chunk),
            Effect::Prepare(start) => {
                let local = self.hosts[host].clock.local(self.schedule.now());
                self.checkers.started(self.hosts[host].peer, start.owner, &start.spec, start.run, local);
                let run = start.run;
                if self.plan.as_ref().is_some_and(|plan| self.schedule.now() >= plan.at) {
                    self.watch(host, &start);
                }
                self.hosts[host].training = Training::new(start, self.hosts[host].broken);
                self.plan(host, run, Work::Prepare);
            }
            Effect::ComputeGradient { run, step } => self.plan(host, run, Work::Gradient { step }),
            Effect::Reduce { run, step, chunk } => self.plan(host, run, Work::Reduce { step, chunk }),
            Effect::Apply { run, step } => self.plan(host, run, Work::Apply { step }),
            Effect::HashParameters { run, round } => self.plan(host, run, Work::Hash { round }),
            Effect::Save { run } => self.plan(host, run, Work::Save),
            Effect::Close { run, failure } => self.close(host, run, failure),
            Effect::Notify(event) => self.notified(host, event),
        }
    }

    fn plan(&mut self, host: usize, run: RunId, work: Work) {
        let done = self.hosts[host].plan(work, self.schedule.now());
        self.schedule.at(done, Happening::Trained { host, run, work });
    }

    // ---- transport ----

    fn gossip(&mut self, host: usize, except: Option<usize>, id: Hash, bytes: &Arc<Vec<u8>>) {
        for to in self.network.neighbours(host).to_vec() {
            if Some(to) != except {
                self.summary.gossip_messages += 1;
                let at = self.network.arrival(host, to, self.schedule.now());
                self.schedule.at(at, Happening::Gossip { to, from: host, id, bytes: bytes.clone() });
            }
        }
    }

    fn gossip_judged(&mut self, host: usize, verdict: Verdict, judged: Option<(usize, Hash, Arc<Vec<u8>>)>) {
        match (verdict, judged) {
            (Verdict::Accept, Some((from, id, bytes))) => self.gossip(host, Some(from), id, &bytes),
            (Verdict::Reject, _) => self.checkers.violation("an honest gossip message was rejected".into()),
            (Verdict::Ignore, Some(_)) => {}
            (_, None) => self.checkers.violation("a verdict on gossip that nobody asked for".into()),
        }
    }

    fn send_frame(&mut self, host: usize, id: EffectId, to: PeerId, bytes: Vec<u8>) {
        let now = self.schedule.now();
        let Some(&to) = self.index.get(&to) else {
            return self.checkers.violation(format!("a frame goes to {to:?}, who does not exist"));
        };
        let message = match Envelope::open(&bytes, NetworkId::from_name("simulation")) {
            Ok(envelope) => envelope.message,
            Err(error) => return self.checkers.violation(format!("a node sent what nobody can open: {error}")),
        };
        if let Message::ReserveReply(reply) = &message
            && reply.answer == Answer::Accepted
        {
            let (machine, user) = (self.hosts[host].peer, self.hosts[to].peer);
            let local = self.hosts[host].clock.local(now);
            self.checkers.accepted(machine, user, reply.spec, local, local);
        }
        self.summary.frames += 1;
        self.summary.frame_bytes += bytes.len() as u64;
        let Fate { arrives, known, delivered } = match self.hosts[to].state {
            _ if self.is_parted(host, to) => self.network.unanswered(now),
            State::Gone => self.network.refused(host, to, now),
            State::Up | State::Frozen => self.network.frame(host, to, now),
        };
        self.summary.frames_failed += u64::from(!delivered);
        if let Some(at) = arrives {
            self.schedule.at(at, Happening::Frame { to, from: host, bytes, message });
        }
        self.schedule.at(known, Happening::Outcome { host, id, delivered });
    }

    fn frame_arrives(&mut self, to: usize, from: usize, bytes: Vec<u8>, message: &Message) {
        let (machine, user) = (self.hosts[to].peer, self.hosts[from].peer);
        match message {
            Message::Reserve(reserve) => {
                let local = self.hosts[to].clock.local(self.schedule.now());
                let until = local + Duration::from_ms(u64::from(reserve.hold_ms));
                self.checkers.reserve_arrived(machine, user, reserve.spec, until);
            }
            Message::Release(release) => self.checkers.released(machine, user, release.spec),
            _ => {}
        }
        self.input(to, Input::Frame { from: user, bytes });
    }

    fn send_chunk(&mut self, host: usize, run: RunId, to: PeerId, step: u64, phase: Phase, chunk: u32) {
        let now = self.schedule.now();
        let values = self.hosts[host].training_of(run).and_then(|training| training.chunk(step, phase, chunk));
        let (Some(values), Some(&to)) = (values, self.index.get(&to)) else {
            return self.checkers.violation(format!("chunk {chunk} of step {step} is sent before it is there"));
        };
        if self.hosts[to].state == State::Gone {
            let known = self.network.refused(host, to, now).known;
            let peer = self.hosts[to].peer;
            return self.schedule.at(known, Happening::BulkFailed { host, run, peer });
        }
        if self.is_parted(host, to) {
            let peer = self.hosts[to].peer;
            return self.schedule.at(now + BULK_TIMEOUT, Happening::BulkFailed { host, run, peer });
        }
        let first_chunk = phase == Phase::Contribution && !self.hosts[host].lost_chunk;
        if self.hosts[host].broken == Some(Break::LoseChunk) && step == 1 && first_chunk {
            return self.hosts[host].lost_chunk = true;
        }
        let bytes = size_of_val(values.as_slice()) as u64;
        self.summary.chunks += 1;
        self.summary.chunk_bytes += bytes;
        let arriving = Chunk { to, from: host, run, step, phase, chunk, values };
        for at in self.network.chunk(host, to, bytes, now) {
            self.schedule.at(at, Happening::Chunk(Box::new(arriving.clone())));
        }
    }

    fn keep(&mut self, host: usize, chunk: Chunk) {
        let from = self.hosts[chunk.from].peer;
        let Some(training) = self.hosts[host].training_of(chunk.run) else {
            return self.checkers.violation("a chunk is kept for a run that is not there".into());
        };
        let new = training.keep(&from, chunk.step, chunk.phase, chunk.chunk, chunk.values);
        let (held, max) = (training.chunks_held(), training.chunks_held_max());
        self.checkers.bound("chunks held by one member", held, max);
        if !new {
            self.checkers.violation(format!("chunk {} of step {} is kept twice", chunk.chunk, chunk.step));
        }
    }

    // ---- trainer ----

    fn trained(&mut self, host: usize, run: RunId, work: Work) {
        if self.hosts[host].state != State::Up {
            return;
        }
        let broken = self.hosts[host].broken;
        if matches!(work, Work::Gradient { step: 1 }) {
            match broken {
                Some(Break::Crash) => return self.vanish(host),
                Some(Break::Freeze) => return self.hosts[host].state = State::Frozen,
                Some(Break::Hang) => return,
                Some(Break::GiveUp) => return self.input(host, Input::TrainerFailed { run, culprit: None }),
                _ => {}
            }
        }
        let peer = self.hosts[host].peer;
        let Some(training) = self.hosts[host].training_of(run) else { return };
        let rank = training.start().rank;
        let ranks = training.start().members.len();
        let missing = |what: &str| format!("{what} was asked for before everything was there");
        let done = match work {
            Work::Prepare => Done::Prepared { parameter_hash: training.parameter_hash() },
            Work::Gradient { step } => {
                let gradient = training.compute_gradient(step);
                self.checkers.gradient(run, step, rank, gradient);
                Done::Gradient { step, loss: LossSum { fixed: 1 << 20, tokens: 16 }, compute_ms: 80 }
            }
            Work::Reduce { step, chunk } => {
                let range = training.range(chunk);
                match (range, training.reduce(step, chunk)) {
                    (Some(range), Some(sum)) => self.checkers.reduced(run, step, ranks, range, sum),
                    _ => return self.checkers.violation(missing("a sum")),
                }
                Done::Reduced { step, chunk }
            }
            Work::Apply { step } => {
                if !training.apply(step) {
                    return self.checkers.violation(missing("an optimiser step"));
                }
                Done::Applied { step }
            }
            Work::Hash { round } => {
                self.checkers.hashed(run, round, peer, training.parameter_hash());
                Done::Hashed { round, parameter_hash: training.reported_hash() }
            }
            Work::Save => Done::Saved,
        };
        self.input(host, Input::Trainer { run, done });
    }

    /// The machine is gone; who was connected learns of it.
    fn vanish(&mut self, host: usize) {
        self.hosts[host].state = State::Gone;
        let peer = self.hosts[host].peer;
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            let at = self.network.arrival(host, other, self.schedule.now());
            self.schedule.at(at, Happening::Disconnected { host: other, peer });
        }
    }

    // ---- what nodes tell ----

    fn notified(&mut self, host: usize, event: Event) {
        let peer = self.hosts[host].peer;
        let local = self.hosts[host].clock.local(self.schedule.now());
        match event {
            Event::Refused { why } => self.checkers.violation(format!("{peer:?} refused an honest message: {why}")),
            Event::ReservationAnswered { order, peer: machine, answer }
                if machine == peer && answer == Answer::Accepted =>
            {
                // An order asks for two thirds of the longest hold.
                let until = local + Duration(RESERVATION_MAX.0 / 3 * 2);
                let spec = self.orders[order_index(order)].spec.hash();
                self.checkers.accepted(machine, peer, spec, until, local);
            }
            Event::OrderMatched { order, run } => {
                let state = &mut self.orders[order_index(order)];
                state.run = Some(run);
            }
            Event::RunNotBegun { run, .. } => {
                if let Some(order) = self.orders.iter().position(|order| order.run == Some(run)) {
                    self.again(order);
                }
            }
            Event::OrderFailed { order, .. } => {
                self.summary.orders_failed += 1;
                let order = order_index(order);
                let spec = self.orders[order].spec.hash();
                self.checkers.released(peer, peer, spec);
                self.again(order);
            }
            Event::RoundDone { run, reports } => {
                let Some(training) = self.hosts[host].training_of(run) else { return };
                let members = training.start().members.iter().map(|member| member.peer);
                let members: Vec<_> = members.zip(reports.iter().map(|report| report.parameter_hash)).collect();
                let round = reports.first().map_or(0, |report| report.round);
                self.checkers.round_done(run, round, &members);
            }
            _ => {}
        }
    }

    fn close(&mut self, host: usize, run: RunId, failure: Option<RunFailure>) {
        let peer = self.hosts[host].peer;
        self.checkers.closed(peer, run);
        self.hosts[host].training = None;
        let Some(order) = self.orders.iter().position(|order| order.run == Some(run)) else { return };
        let owner = host == self.orders[order].host;
        let Some(failure) = failure else {
            if owner {
                self.finished(order, run);
            }
            return;
        };
        let lossy = self.conditions.loss_per_million > 0;
        let cut = self.index.get(&failure.culprit).is_some_and(|culprit| self.has_been_cut(host, *culprit));
        let excused = (lossy || cut) && matches!(failure.reason, AbortReason::MemberLost | AbortReason::NotReady);
        if self.options.broken.is_none() && !excused {
            self.checkers.violation(format!("{peer:?} ended an honest run: {failure:?}"));
        }
        self.summary.failures.push(Failure {
            on: peer.to_string(),
            reason: format!("{:?}", failure.reason),
            culprit: failure.culprit.to_string(),
            reported_by: failure.reported_by.to_string(),
        });
        if owner {
            self.again(order);
        }
    }

    fn finished(&mut self, order: usize, run: RunId) {
        self.summary.runs_finished += 1;
        self.orders[order].finished = true;
        match self.checkers.agreed(run, self.options.rounds - 1) {
            Some(hash) => self.summary.parameter_hashes.push(hash.to_string()),
            None => self.checkers.violation(format!("{run:?} finished without an agreed last round")),
        }
        self.order_over(order);
    }

    /// An attempt failed: try again where links may be blamed or users compete.
    fn again(&mut self, order: usize) {
        let hope = self.options.broken.is_none() && self.orders[order].attempts < ATTEMPTS_MAX;
        if hope {
            let pause = Duration::from_ms(1_000 + 700 * order as u64);
            self.schedule.at(self.schedule.now() + pause, Happening::Order { order });
        } else {
            self.order_over(order);
        }
    }

    fn order_over(&mut self, order: usize) {
        self.orders[order].over = true;
        if self.orders.iter().all(|order| order.over) {
            self.over_at = Some(self.schedule.now() + AFTERWARDS);
        }
    }
}

fn order_index(order: OrderId) -> usize {
    ((order.0 - 1) / u64::from(ATTEMPTS_MAX)) as usize
}
