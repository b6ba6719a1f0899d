//! One member of a run under test: the test plays all the others, by signed
//! frames, and keeps the books that they would keep.

use crate::bench::{Bench, events, sent};
use crate::samples::{confirm, listing, peer, reserve};
use manta_protocol::effect::{RunFailure, RunStart};
use manta_protocol::input::Done;
use manta_protocol::market::reservation::Confirm;
use manta_protocol::run::ledger::Ledger;
use manta_protocol::run::report::{Abort, AbortReason, Heartbeat, LossSum, Ready, RoundReport};
use manta_protocol::run::view::{
    Accepted, Ballot, Departure, Fate, Holding, Role, View, ViewAccept, ViewAsk, ViewInstall, ViewPropose, ViewState,
};
use manta_protocol::run::{ChunkPlan, Phase};
use manta_protocol::wire::Message;
use manta_protocol::{Command, Duration, Effect, Event, Hash, Input, PeerId, RunId};
use std::sync::Arc;

/// The member under test is identity 1; this one owns its runs unless said otherwise.
pub(crate) const OWNER: u8 = 2;

/// The member and what the others know.
pub(crate) struct Member {
    pub(crate) bench: Bench,
    pub(crate) start: Arc<RunStart>,
    /// The view that holds.
    pub(crate) view: View,
    /// The exchange that goes on.
    pub(crate) at: u64,
    /// Before that exchange.
    pub(crate) ledger: Ledger,
    /// How that exchange is cut, number of its plan, its ranks and those that do not count.
    pub(crate) plan: ChunkPlan,
    plan_number: u32,
    ranks: Vec<PeerId>,
    lost: Vec<PeerId>,
    /// The rank that owns each chunk.
    owners: Vec<usize>,
    /// The number of the latest chunk.
    pub(crate) transfer: u64,
}

pub(crate) fn hash(text: &str) -> Hash {
    Hash::of(text.as_bytes())
}

pub(crate) fn asks(effects: &[Effect], what: impl Fn(&Effect) -> bool) -> bool {
    effects.iter().any(what)
}

pub(crate) fn prepared(effects: &[Effect]) -> Option<Arc<RunStart>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Prepare(start) => Some(start.clone()),
        _ => None,
    })
}

/// Whether and how the run was closed.
pub(crate) fn closed(effects: &[Effect]) -> Option<Option<RunFailure>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close { failure, .. } => Some(*failure),
        _ => None,
    })
}

pub(crate) fn failure(effects: &[Effect]) -> Option<(AbortReason, PeerId)> {
    closed(effects).flatten().map(|failure| (failure.reason, failure.culprit))
}

/// Whether this is a record of a run that is over: whoever starts with it takes no part in it.
pub(crate) fn is_end(record: &[u8]) -> bool {
    let effects = Bench::new().input(Input::Command(Command::Resume { record: record.to_vec() }));
    let refused = events(&effects).iter().any(|event| matches!(event, Event::Refused { .. }));
    !refused && prepared(&effects).is_none()
}

/// The latest record for the journal; `Some(None)` if none is needed any more.
pub(crate) fn journalled(effects: &[Effect]) -> Option<Option<Vec<u8>>> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Journal { record, .. } => Some(record.clone()),
        _ => None,
    })
}

/// Who is accused before everyone, and of what.
pub(crate) fn accused(effects: &[Effect]) -> Option<(AbortReason, PeerId)> {
    sent(effects).into_iter().find_map(|(_, message)| match message {
        Message::Suspect(suspect) => Some((suspect.reason, suspect.peer)),
        _ => None,
    })
}

/// The views that were put in force.
pub(crate) fn views(effects: &[Effect]) -> Vec<Arc<View>> {
    let views = effects.iter().filter_map(|effect| match effect {
        Effect::Notify(Event::ViewChanged { view, .. }) => Some(view.clone()),
        _ => None,
    });
    views.collect()
}

pub(crate) fn state_of(effects: &[Effect]) -> Option<ViewState> {
    sent(effects).into_iter().find_map(|(_, message)| match message {
        Message::ViewState(state) => Some(*state),
        _ => None,
    })
}

pub(crate) fn proposed(effects: &[Effect]) -> Option<ViewPropose> {
    sent(effects).into_iter().find_map(|(_, message)| match message {
        Message::ViewPropose(propose) => Some(*propose),
        _ => None,
    })
}

pub(crate) fn question(effects: &[Effect]) -> Option<ViewAsk> {
    sent(effects).into_iter().find_map(|(_, message)| match message {
        Message::ViewAsk(ask) => Some(ask),
        _ => None,
    })
}

/// To whom messages of a kind go.
pub(crate) fn told(effects: &[Effect], what: impl Fn(&Message) -> bool) -> Vec<PeerId> {
    sent(effects).into_iter().filter(|(_, message)| what(message)).map(|(to, _)| to).collect()
}

/// The frames to a peer, as failures that the transport may report.
pub(crate) fn failures_to(effects: &[Effect], whom: u8) -> Vec<Input> {
    let ids = effects.iter().filter_map(|effect| match effect {
        Effect::SendFrame { id, to, .. } if *to == peer(whom) => Some(Input::FrameFailed { id: *id }),
        _ => None,
    });
    ids.collect()
}

/// The question of `proposer` about the successor of the view.
pub(crate) fn ballot(counter: u64, proposer: u8) -> Ballot {
    Ballot { counter, proposer: peer(proposer) }
}

fn number_of(id: &PeerId) -> u8 {
    (1..=20).find(|number| peer(*number) == *id).expect("an identity of the tests")
}

impl Member {
    /// In the run that `confirm` speaks of, with nothing prepared yet.
    pub(crate) fn in_run(confirm: &Confirm) -> Self {
        let owner = number_of(&confirm.owner);
        let mut bench = Bench::offering(listing());
        bench.frame(
            owner,
            &Message::Reserve(manta_protocol::market::reservation::Reserve { spec: confirm.spec.hash(), ..reserve() }),
        );
        let effects = bench.frame(owner, &Message::Confirm(confirm.clone()));
        Self::at_start(bench, prepared(&effects).expect("the run begins"))
    }

    /// As the first effects of a run leave it.
    pub(crate) fn at_start(bench: Bench, start: Arc<RunStart>) -> Self {
        let view = View::first(&start.spec, &start.members);
        let plan = start.spec.chunk_plan(1).expect("a plan");
        let (ledger, ranks, lost, owners) = (view.ledger.clone(), Vec::new(), Vec::new(), Vec::new());
        let mut member =
            Self { bench, start, view, at: 0, ledger, plan, plan_number: 0, ranks, lost, owners, transfer: 0 };
        member.follow_plan();
        member
    }

    pub(crate) fn confirmed(members: &[u8]) -> Self {
        Self::in_run(&confirm(members))
    }

    /// Everyone is ready: the first contribution is asked for.
    pub(crate) fn started(members: &[u8]) -> Self {
        let mut member = Self::confirmed(members);
        member.all_ready();
        member
    }

    /// As [`Self::started`], with identity 3 as the owner: of 1, 3 and 4 the member under test has the lowest id.
    pub(crate) fn started_first(members: &[u8]) -> Self {
        let mut member = Self::in_run(&Confirm { owner: peer(3), ..confirm(members) });
        assert_eq!(member.view.members[0].contact.peer, peer(1), "the lowest id");
        member.all_ready();
        member
    }

    /// The same machine, started again a second later with what its journal says.
    pub(crate) fn restarted(self, record: Vec<u8>) -> (Self, Vec<Effect>) {
        let mut bench = Bench::new();
        bench.now = self.bench.now + Duration::from_s(1);
        let mut effects = bench.input(Input::Command(Command::Resume { record }));
        effects.extend(bench.input(Input::Command(Command::Offer(Box::new(listing())))));
        (Self { bench, ..self }, effects)
    }

    fn all_ready(&mut self) {
        let mut last = self.done(Done::Prepared { parameter_hash: hash("initial") });
        for other in self.others() {
            last = self.ready(other, "initial");
        }
        assert!(asks(&last, |effect| matches!(effect, Effect::Compute { exchange: 0, plan: 0, .. })));
    }

    pub(crate) fn run(&self) -> RunId {
        self.start.run
    }

    /// The other members of the view.
    pub(crate) fn others(&self) -> Vec<u8> {
        let peers = self.view.members.iter().map(|member| number_of(&member.contact.peer));
        peers.filter(|number| *number != 1).collect()
    }

    // ---- what the others say ----

    pub(crate) fn done(&mut self, done: Done) -> Vec<Effect> {
        let run = self.run();
        self.bench.input(Input::Trainer { run, done })
    }

    pub(crate) fn say(&mut self, from: u8, message: &Message) -> Vec<Effect> {
        self.bench.frame(from, message)
    }

    pub(crate) fn ready(&mut self, from: u8, parameters: &str) -> Vec<Effect> {
        let ready = Ready { run: self.run(), parameter_hash: hash(parameters) };
        self.say(from, &Message::Ready(ready))
    }

    pub(crate) fn report(&mut self, from: u8, round: u32, parameters: &str) -> Vec<Effect> {
        self.report_of_plan(from, round, self.plan_number, parameters)
    }

    pub(crate) fn report_of_plan(&mut self, from: u8, round: u32, plan: u32, parameters: &str) -> Vec<Effect> {
        let (parameter_hash, loss) = (hash(parameters), LossSum { fixed: 1, tokens: 1 });
        let report =
            RoundReport { run: self.run(), round, plan, parameter_hash, loss, compute_ms: 1, reduce_ms: 1, batches: 2 };
        self.say(from, &Message::RoundReport(report))
    }

    pub(crate) fn abort(&mut self, from: u8, reason: AbortReason, culprit: u8) -> Vec<Effect> {
        let abort = Abort { run: self.run(), reason, culprit: peer(culprit), view: self.view.number };
        self.say(from, &Message::Abort(abort))
    }

    pub(crate) fn beat(&mut self, from: u8) -> Vec<Effect> {
        let heartbeat = Heartbeat { run: self.run(), view: self.view.number };
        self.say(from, &Message::Heartbeat(heartbeat))
    }

    pub(crate) fn ask(&mut self, from: u8, ballot: Ballot) -> Vec<Effect> {
        let ask = ViewAsk { run: self.run(), view: self.view.number, ballot };
        self.say(from, &Message::ViewAsk(ask))
    }

    pub(crate) fn propose(&mut self, from: u8, ballot: Ballot, next: &View) -> Vec<Effect> {
        let propose = ViewPropose { run: self.run(), ballot, next: next.clone() };
        self.say(from, &Message::ViewPropose(Box::new(propose)))
    }

    /// What a member says of itself that is in the same exchange as we, with no sum yet.
    pub(crate) fn live(&self) -> Holding {
        Holding::Live { exchange: self.at, ledger: self.ledger.clone(), sums: Vec::new(), whole: 0 }
    }

    /// Answers our question about the successor of the view.
    pub(crate) fn answer(
        &mut self,
        from: u8,
        ballot: Ballot,
        accepted: Option<Accepted>,
        holding: Holding,
    ) -> Vec<Effect> {
        let (run, view, accepted) = (self.run(), self.view.number, accepted.map(Box::new));
        let state = ViewState { run, view, ballot, accepted, unreachable: 0, holding };
        self.say(from, &Message::ViewState(Box::new(state)))
    }

    pub(crate) fn accept(&mut self, from: u8, ballot: Ballot) -> Vec<Effect> {
        let accept = ViewAccept { run: self.run(), view: self.view.number, ballot };
        self.say(from, &Message::ViewAccept(accept))
    }

    /// Our question in `asked` is answered, and our proposal accepted, by these; the view that follows.
    pub(crate) fn agree_with(&mut self, with: &[u8], asked: &[Effect]) -> View {
        let ballot = question(asked).expect("we ask for a view").ballot;
        let answers: Vec<_> = with.iter().flat_map(|other| self.answer(*other, ballot, None, self.live())).collect();
        let next = proposed(&answers).expect("we propose one").next;
        let accepts: Vec<_> = with.iter().flat_map(|other| self.accept(*other, ballot)).collect();
        assert_eq!(views(&accepts).last().map(|view| &**view), Some(&next));
        self.follows(&next);
        next
    }

    /// Seconds go by in which only these say that they are alive; ends early once `over`.
    pub(crate) fn wait(&mut self, alive: &[u8], seconds: u64, over: impl Fn(&[Effect]) -> bool) -> Vec<Effect> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            let mut effects: Vec<_> = alive.iter().flat_map(|other| self.beat(*other)).collect();
            effects.extend(self.bench.pass(Duration::from_s(1)));
            let ends = over(&effects);
            all.extend(effects);
            if ends {
                break;
            }
        }
        all
    }

    pub(crate) fn stop(&mut self) -> Vec<Effect> {
        let (run, reason) = (self.run(), AbortReason::Stopped);
        self.bench.input(Input::Command(Command::StopRun { run, reason }))
    }

    // ---- chunks ----

    pub(crate) fn rank(&self, number: u8) -> usize {
        self.ranks.iter().position(|rank| *rank == peer(number)).expect("a rank")
    }

    /// The chunks that a member owns in the exchange that goes on.
    pub(crate) fn owned(&self, number: u8) -> Vec<u32> {
        let rank = self.rank(number);
        (0..self.plan.chunks()).filter(|chunk| self.owners[*chunk as usize] == rank).collect()
    }

    pub(crate) fn elements(&self, chunk: u32) -> u64 {
        self.plan.elements(chunk).map_or(0, |range| range.end - range.start)
    }

    pub(crate) fn chunk(&mut self, from: u8, exchange: u64, phase: Phase, chunk: u32) -> Vec<Effect> {
        let (view, elements) = (self.view.number, self.elements(chunk));
        self.chunk_of_view(from, view, exchange, phase, chunk, elements)
    }

    pub(crate) fn chunk_of_view(
        &mut self,
        from: u8,
        view: u32,
        exchange: u64,
        phase: Phase,
        chunk: u32,
        elements: u64,
    ) -> Vec<Effect> {
        self.transfer += 1;
        let (transfer, run, from) = (self.transfer, self.run(), peer(from));
        self.bench.input(Input::ChunkArrived { transfer, from, run, view, exchange, phase, chunk, elements })
    }

    /// Whether the latest chunk was kept, according to these effects; `None` if they do not say.
    pub(crate) fn verdict(&self, effects: &[Effect]) -> Option<bool> {
        effects.iter().find_map(|effect| match effect {
            Effect::ChunkVerdict { transfer, keep } if *transfer == self.transfer => Some(*keep),
            _ => None,
        })
    }

    pub(crate) fn kept(&self, effects: &[Effect]) -> bool {
        self.verdict(effects) == Some(true)
    }

    // ---- an exchange, step by step ----

    pub(crate) fn computed(&mut self) -> Vec<Effect> {
        let loss = LossSum { fixed: 1, tokens: 1 };
        self.done(Done::Computed { exchange: self.at, plan: self.plan_number, loss, compute_ms: 1 })
    }

    /// A member's values of our chunks.
    pub(crate) fn values(&mut self, from: u8) -> Vec<Effect> {
        self.send(from, Phase::Contribution, self.owned(1))
    }

    /// A member's sums.
    pub(crate) fn sums(&mut self, from: u8) -> Vec<Effect> {
        self.send(from, Phase::Sum, self.owned(from))
    }

    fn send(&mut self, from: u8, phase: Phase, chunks: Vec<u32>) -> Vec<Effect> {
        let mut all = Vec::new();
        for chunk in chunks {
            let effects = self.chunk(from, self.at, phase, chunk);
            assert!(self.kept(&effects), "{phase:?} of chunk {chunk} from {from}");
            all.extend(effects);
        }
        all
    }

    /// Our own sums are made.
    pub(crate) fn reduced(&mut self) -> Vec<Effect> {
        let (exchange, view) = (self.at, self.view.number);
        self.owned(1).into_iter().flat_map(|chunk| self.done(Done::Reduced { exchange, view, chunk })).collect()
    }

    pub(crate) fn applied(&mut self) -> Vec<Effect> {
        let exchange = self.at;
        self.at += 1;
        self.ledger = if self.view.from == self.at { self.view.ledger.clone() } else { self.ledger_after() };
        self.lost.clear();
        self.follow_plan();
        self.done(Done::Applied { exchange })
    }

    /// The ledger after the exchange that goes on, if nobody else is lost.
    fn ledger_after(&self) -> Ledger {
        let share = self.start.spec.batches_per_exchange();
        let assignment = self.ledger.assign(&vec![share; self.ranks.len()]);
        self.ledger.after(&assignment, |rank| !self.lost.contains(&self.ranks[rank]))
    }

    /// Those of the plan that count.
    fn there(&self) -> Vec<u8> {
        let there = self.ranks.iter().filter(|rank| !self.lost.contains(rank)).map(number_of);
        there.filter(|number| *number != 1).collect()
    }

    /// A whole exchange with everyone honest, all its effects.
    pub(crate) fn exchange(&mut self) -> Vec<Effect> {
        let mut effects = self.computed();
        for other in self.there() {
            effects.extend(self.values(other));
        }
        effects.extend(self.reduced());
        for other in self.there() {
            effects.extend(self.sums(other));
        }
        let at = self.at;
        assert!(asks(&effects, |effect| matches!(effect, Effect::Apply { exchange, .. } if *exchange == at)));
        effects.extend(self.applied());
        effects
    }

    /// The rest of a round, up to our own report.
    pub(crate) fn round(&mut self, round: u32) -> Vec<Effect> {
        let end = u64::from(round + 1) * u64::from(self.start.spec.exchanges_per_round());
        let mut effects = Vec::new();
        while self.at < end {
            effects = self.exchange();
        }
        assert!(asks(&effects, |effect| matches!(effect, Effect::HashParameters { exchange, .. } if *exchange == end)));
        self.done(Done::Hashed { exchange: end, parameter_hash: hash(&format!("after {round}")) })
    }

    /// Everyone's honest report of a round; the effects of the last.
    pub(crate) fn all_report(&mut self, round: u32) -> Vec<Effect> {
        let reports = self.others().into_iter().map(|other| self.report(other, round, &format!("after {round}")));
        reports.last().unwrap_or_default()
    }

    // ---- views ----

    /// The view that follows if these are lost in the exchange that goes on.
    pub(crate) fn view_without(&self, lost: &[u8], fate: Fate) -> View {
        let lost: Vec<_> = lost.iter().map(|number| peer(*number)).collect();
        let number = self.view.number + 1;
        let share = self.start.spec.batches_per_exchange();
        let counts = |rank: usize| matches!(fate, Fate::Kept { .. }) || !lost.contains(&self.ranks[rank]);
        let ledger = self.ledger.after(&self.ledger.assign(&vec![share; self.ranks.len()]), counts);
        let members = self.view.members.iter().filter(|member| !lost.contains(&member.contact.peer)).cloned();
        let left = lost.iter().map(|peer| Departure { peer: *peer, reason: AbortReason::MemberLost }).collect();
        let plan = if lost.is_empty() { self.view.plan } else { number };
        View { number, plan, from: self.at + 1, members: members.collect(), fate, ledger, left }
    }

    /// The others say that this view holds.
    pub(crate) fn install(&mut self, from: u8, view: &View) -> Vec<Effect> {
        let message = Message::ViewInstall(Box::new(ViewInstall { run: self.run(), view: view.clone() }));
        let effects = self.say(from, &message);
        self.follows(view);
        effects
    }

    /// This view holds for the others.
    pub(crate) fn follows(&mut self, view: &View) {
        self.view = view.clone();
        match &view.fate {
            Fate::Kept { handovers } => {
                for handover in handovers {
                    let chunks = handover.first as usize..(handover.first + handover.count) as usize;
                    self.owners[chunks].fill(usize::from(handover.by));
                }
            }
            Fate::Reduced => {
                self.lost = view.left.iter().map(|departure| departure.peer).collect();
                let stay: Vec<_> =
                    (0..self.ranks.len()).filter(|rank| !self.lost.contains(&self.ranks[*rank])).collect();
                let orphans = self.owners.iter_mut().filter(|owner| !stay.contains(owner));
                orphans.enumerate().for_each(|(index, owner)| *owner = stay[index % stay.len()]);
            }
            Fate::Fresh => {}
        }
    }

    /// Cuts the exchange that begins.
    fn follow_plan(&mut self) {
        if self.at == 0 || self.view.from <= self.at {
            let full = self.view.members.iter().filter(|member| member.role == Role::Full);
            self.ranks = full.map(|member| member.contact.peer).collect();
            self.plan_number = self.view.plan;
        }
        self.plan = self.start.spec.chunk_plan(self.ranks.len()).expect("a plan");
        self.owners = (0..self.plan.chunks()).map(|chunk| self.plan.owner(chunk).expect("an owner")).collect();
    }
}
