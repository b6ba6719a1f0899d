//! A run as one member lives it; the test plays the others.

use crate::bench::{Bench, events, sent};
use crate::samples::{confirm, listing, peer, reserve, spec};
use manta_protocol::effect::{RunFailure, RunStart};
use manta_protocol::input::{Command, Done};
use manta_protocol::market::reservation::Confirm;
use manta_protocol::run::report::{Abort, AbortReason, Heartbeat, LossSum, Ready, RoundReport};
use manta_protocol::run::{ChunkPlan, Phase};
use manta_protocol::wire::Message;
use manta_protocol::{Duration, Effect, EffectId, Event, Hash, Input, PeerId, RunId};

/// The member under test is identity 1; 2 owns the run.
const OWNER: u8 = 2;

struct Member {
    bench: Bench,
    start: RunStart,
    plan: ChunkPlan,
    members: Vec<u8>,
}

fn held(bench: &mut Bench, owner: u8) {
    bench.frame(owner, &Message::Reserve(reserve()));
}

fn prepared(effects: &[Effect]) -> Option<&RunStart> {
    effects.iter().find_map(|effect| match effect {
        Effect::Prepare(start) => Some(&**start),
        _ => None,
    })
}

fn closed(effects: &[Effect]) -> Option<Option<RunFailure>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close { failure, .. } => Some(*failure),
        _ => None,
    })
}

fn failure(effects: &[Effect]) -> Option<(AbortReason, PeerId)> {
    closed(effects).flatten().map(|failure| (failure.reason, failure.culprit))
}

fn asks(effects: &[Effect], what: impl Fn(&Effect) -> bool) -> bool {
    effects.iter().any(what)
}

fn hash(text: &str) -> Hash {
    Hash::of(text.as_bytes())
}

impl Member {
    /// In the run, with nothing prepared yet.
    fn confirmed(members: &[u8]) -> Self {
        let mut bench = Bench::offering(listing());
        held(&mut bench, OWNER);
        let effects = bench.frame(OWNER, &Message::Confirm(confirm(members)));
        let start = prepared(&effects).expect("the run begins").clone();
        let plan = start.spec.chunk_plan(members.len()).expect("a plan");
        let others = members.iter().copied().filter(|member| *member != 1).collect();
        Self { bench, start, plan, members: others }
    }

    /// With everyone ready: the first gradient is asked for.
    fn started(members: &[u8]) -> Self {
        let mut member = Self::confirmed(members);
        member.done(Done::Prepared { parameter_hash: hash("initial") });
        let mut last = Vec::new();
        for other in member.members.clone() {
            last = member.ready(other, "initial");
        }
        assert!(asks(&last, |effect| matches!(effect, Effect::ComputeGradient { step: 0, .. })));
        member
    }

    fn run(&self) -> RunId {
        self.start.run
    }

    fn done(&mut self, done: Done) -> Vec<Effect> {
        let run = self.run();
        self.bench.input(Input::Trainer { run, done })
    }

    fn say(&mut self, from: u8, message: &Message) -> Vec<Effect> {
        self.bench.frame(from, message)
    }

    fn ready(&mut self, from: u8, parameters: &str) -> Vec<Effect> {
        let ready = Ready { run: self.run(), parameter_hash: hash(parameters) };
        self.say(from, &Message::Ready(ready))
    }

    fn report(&mut self, from: u8, round: u32, parameters: &str) -> Vec<Effect> {
        let (parameter_hash, loss) = (hash(parameters), LossSum { fixed: 1, tokens: 1 });
        let report = RoundReport { run: self.run(), round, parameter_hash, loss, compute_ms: 1, reduce_ms: 1 };
        self.say(from, &Message::RoundReport(report))
    }

    fn abort(&mut self, from: u8, culprit: u8) -> Vec<Effect> {
        let abort = Abort { run: self.run(), reason: AbortReason::Stopped, culprit: peer(culprit) };
        self.say(from, &Message::Abort(abort))
    }

    fn chunk(&mut self, from: u8, step: u64, phase: Phase, chunk: u32) -> Vec<Effect> {
        let elements = self.plan.elements(chunk).map_or(0, |range| range.end - range.start);
        let (run, from) = (self.run(), peer(from));
        self.bench.input(Input::ChunkArrived { transfer: 1, from, run, step, phase, chunk, elements })
    }

    fn kept(effects: &[Effect]) -> bool {
        effects.contains(&Effect::ChunkVerdict { transfer: 1, keep: true })
    }

    /// Plays a whole step with everyone honest; the effects of its last input.
    fn step(&mut self, step: u64) -> Vec<Effect> {
        let mut effects = self.done(Done::Gradient { step, loss: LossSum { fixed: 1, tokens: 1 }, compute_ms: 1 });
        let own = self.plan.owned(self.start.rank);
        for other in self.members.clone() {
            for chunk in own.clone() {
                assert!(Self::kept(&self.chunk(other, step, Phase::Contribution, chunk)));
            }
        }
        for chunk in own {
            effects = self.done(Done::Reduced { step, chunk });
        }
        for other in self.members.clone() {
            let rank = self.start.rank_of(&peer(other)).expect("a member");
            for chunk in self.plan.owned(rank) {
                effects = self.chunk(other, step, Phase::Sum, chunk);
                assert!(Self::kept(&effects));
            }
        }
        assert!(asks(&effects, |effect| matches!(effect, Effect::Apply { step: at, .. } if *at == step)));
        self.done(Done::Applied { step })
    }

    /// Plays a round up to our own report.
    fn round(&mut self, round: u32) -> Vec<Effect> {
        let steps = u64::from(self.start.spec.steps_per_round);
        let first = u64::from(round) * steps;
        let mut effects = Vec::new();
        for step in first..first + steps {
            effects = self.step(step);
        }
        assert!(asks(&effects, |effect| matches!(effect, Effect::HashParameters { round: of, .. } if *of == round)));
        self.done(Done::Hashed { round, parameter_hash: hash(&format!("after {round}")) })
    }

    /// The last round is agreed, the model is being saved; our last report is
    /// on its way under the returned ids.
    fn saving(members: &[u8]) -> (Self, Vec<EffectId>) {
        let mut member = Self::started(members);
        let rounds = member.start.spec.rounds;
        let mut reports = Vec::new();
        for round in 0..rounds {
            let effects = member.round(round);
            reports = effects
                .iter()
                .filter_map(|effect| match effect {
                    Effect::SendFrame { id, .. } => Some(*id),
                    _ => None,
                })
                .collect();
            let mut last = Vec::new();
            for other in member.members.clone() {
                last = member.report(other, round, &format!("after {round}"));
            }
            assert!(events(&last).iter().any(|event| matches!(event, Event::RoundDone { .. })));
            assert_eq!(asks(&last, |effect| matches!(effect, Effect::Save { .. })), round + 1 == rounds);
        }
        (member, reports)
    }
}

#[test]
fn a_whole_run_goes_from_confirm_to_close() {
    for members in [&[1, 2][..], &[1, 2, 3], &[1, 2, 3, 4, 5]] {
        let (mut member, reports) = Member::saving(members);
        assert_eq!(closed(&member.done(Done::Saved)), None, "the last report is still on its way");
        let delivered = reports.into_iter().map(|id| Input::FrameDelivered { id });
        let last: Vec<_> = delivered.flat_map(|outcome| member.bench.input(outcome)).collect();
        assert_eq!(closed(&last), Some(None));
    }
}

#[test]
fn a_user_alone_runs_without_any_network() {
    let mut bench = Bench::offering(listing());
    let wish = manta_protocol::input::Wish {
        members_min: 1,
        members_max: 1,
        memory_bytes: 1,
        disk_bytes: 1,
        duration_s: 1,
        patience_ms: 1,
        deadline_ms: 1_000,
        share: manta_protocol::market::demand::Share::Open,
    };
    let order = Command::Order { order: manta_protocol::OrderId(1), spec: Box::new(spec()), wish };
    let effects = bench.input(Input::Command(order));
    let start = prepared(&effects).expect("it begins at once").clone();
    let plan = start.spec.chunk_plan(1).unwrap();
    let mut member = Member { bench, start, plan, members: Vec::new() };
    let effects = member.done(Done::Prepared { parameter_hash: hash("initial") });
    assert!(asks(&effects, |effect| matches!(effect, Effect::ComputeGradient { step: 0, .. })));
    for step in 0..4 {
        let loss = LossSum { fixed: 1, tokens: 1 };
        member.done(Done::Gradient { step, loss, compute_ms: 1 });
        for chunk in 0..member.plan.chunks() {
            member.done(Done::Reduced { step, chunk });
        }
        member.done(Done::Applied { step });
        if step % 2 == 1 {
            member.done(Done::Hashed { round: (step / 2) as u32, parameter_hash: hash("same") });
        }
    }
    assert_eq!(closed(&member.done(Done::Saved)), Some(None));
}

#[test]
fn ready_before_confirm_does_not_deadlock() {
    let mut bench = Bench::offering(listing());
    held(&mut bench, OWNER);
    let run = confirm(&[1, 2, 3]).run_id(peer(OWNER));
    let early = Message::Ready(Ready { run, parameter_hash: hash("initial") });
    assert_eq!(bench.frame(3, &early), [], "nothing is known of this run yet");
    let effects = bench.frame(OWNER, &Message::Confirm(confirm(&[1, 2, 3])));
    assert!(prepared(&effects).is_some());
    let done = Done::Prepared { parameter_hash: hash("initial") };
    let effects = bench.input(Input::Trainer { run, done });
    assert_eq!(sent(&effects).len(), 2, "our word goes to both");
    bench.frame(OWNER, &early);
    // 3 hears our word for the first time and says its own again; so do we, once.
    let effects = bench.frame(3, &early);
    assert!(asks(&effects, |effect| matches!(effect, Effect::ComputeGradient { step: 0, .. })));
    let again: Vec<_> =
        sent(&effects).into_iter().filter(|(_, message)| matches!(message, Message::Ready(_))).collect();
    assert_eq!(again.len(), 1);
    assert!(sent(&bench.frame(3, &early)).is_empty(), "no endless echo");
}

#[test]
fn a_run_begins_only_for_the_one_who_holds_the_machine() {
    let sorted = |members: &[u8]| confirm(members);
    let cases: [(&str, u8, Confirm, bool); 5] = [
        ("held and a member", OWNER, sorted(&[1, 2, 3]), true),
        ("a stranger", 3, sorted(&[1, 2, 3]), false),
        ("without us", OWNER, sorted(&[2, 3]), false),
        ("without its owner, who serves the data", OWNER, sorted(&[1, 3]), false),
        (
            "for another spec",
            OWNER,
            Confirm {
                spec: {
                    let mut spec = spec();
                    spec.rounds = 9;
                    spec
                },
                ..sorted(&[1, 2])
            },
            false,
        ),
    ];
    for (why, from, confirm, begins) in cases {
        let mut bench = Bench::offering(listing());
        held(&mut bench, OWNER);
        let effects = bench.frame(from, &Message::Confirm(confirm.clone()));
        assert_eq!(prepared(&effects).is_some(), begins, "{why}");
        let aborts = sent(&effects).into_iter().filter(|(to, message)| {
            *to == peer(from) && matches!(message, Message::Abort(abort) if abort.reason == AbortReason::NotReady)
        });
        assert_eq!(aborts.count(), usize::from(!begins), "{why}: the sender learns of it");
        if begins {
            assert_eq!(bench.frame(from, &Message::Confirm(confirm)), [], "said twice");
        }
    }
}

#[test]
fn unequal_hashes_name_the_odd_one() {
    let mut member = Member::confirmed(&[1, 2, 3]);
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    member.ready(2, "initial");
    let found = RunFailure { reason: AbortReason::ParametersDiffer, culprit: peer(3), reported_by: peer(1) };
    assert_eq!(closed(&member.ready(3, "other")), Some(Some(found)));

    let mut member = Member::started(&[1, 2, 3]);
    member.round(0);
    member.report(3, 0, "other");
    let effects = member.report(2, 0, "after 0");
    assert_eq!(failure(&effects), Some((AbortReason::ParametersDiffer, peer(3))));
    assert!(!events(&effects).iter().any(|event| matches!(event, Event::RoundDone { .. })), "nothing is agreed");
    let told = sent(&effects).into_iter().filter(|(_, message)| matches!(message, Message::Abort(_))).count();
    assert_eq!(told, 2);
}

#[test]
fn without_a_majority_nobody_is_said_to_be_wrong() {
    for (members, hashes) in [(&[1, 2][..], &["other"][..]), (&[1, 2, 3, 4], &["initial", "other", "other"])] {
        let mut member = Member::confirmed(members);
        member.done(Done::Prepared { parameter_hash: hash("initial") });
        let last = member.members.clone().into_iter().zip(hashes).map(|(other, hash)| member.ready(other, hash));
        let (reason, _) = last.last().and_then(|effects| failure(&effects)).expect("they differ");
        assert_eq!((reason, reason.is_decided()), (AbortReason::NoMajority, false));
    }
}

#[test]
fn late_early_and_repeated_messages_are_harmless() {
    let mut member = Member::started(&[1, 2, 3]);
    assert_eq!(closed(&member.ready(2, "something else")), None, "it is too late to change one's mind");
    member.report(3, 0, "after 0");
    assert_eq!(closed(&member.report(3, 0, "a second thought")), None, "the first word counts");
    member.report(3, 7, "far ahead");
    member.done(Done::Applied { step: 0 });
    member.done(Done::Hashed { round: 0, parameter_hash: hash("not yet") });
    member.done(Done::Saved);
    member.done(Done::Gradient { step: 5, loss: LossSum::default(), compute_ms: 1 });
    member.round(0);
    let effects = member.report(2, 0, "after 0");
    assert!(asks(&effects, |effect| matches!(effect, Effect::ComputeGradient { step: 2, .. })), "{effects:?}");
    member.report(2, 0, "an old one");
    member.round(1);
    member.report(3, 1, "after 1");
    let effects = member.report(2, 1, "after 1");
    assert!(asks(&effects, |effect| matches!(effect, Effect::Save { .. })), "{effects:?}");
}

#[test]
fn silence_ends_the_run_and_tells_who() {
    let mut member = Member::started(&[1, 2, 3]);
    let run = member.run();
    let mut effects = Vec::new();
    for _ in 0..20 {
        member.say(2, &Message::Heartbeat(Heartbeat { run }));
        effects.extend(member.bench.pass(Duration::from_s(1)));
    }
    assert_eq!(failure(&effects), Some((AbortReason::MemberLost, peer(3))));
    let told: Vec<_> = sent(&effects)
        .into_iter()
        .filter(|(_, message)| matches!(message, Message::Abort(abort) if abort.culprit == peer(3)))
        .collect();
    assert_eq!(told.len(), 2, "both are told, the lost one too");
}

/// 3 says that it is alive, and nothing else, from now on; when we end the run,
/// and why.
fn seconds_until_stalled(member: &mut Member, patience_s: u64) -> Option<(u64, AbortReason, PeerId)> {
    let run = member.run();
    (1..=patience_s).find_map(|second| {
        (2..=3).for_each(|other| drop(member.say(other, &Message::Heartbeat(Heartbeat { run }))));
        failure(&member.bench.pass(Duration::from_s(1))).map(|(reason, culprit)| (second, reason, culprit))
    })
}

fn own_gradient(member: &mut Member, step: u64) {
    member.done(Done::Gradient { step, loss: LossSum { fixed: 1, tokens: 1 }, compute_ms: 1 });
}

#[test]
fn a_member_whose_trainer_hangs_is_named_although_it_is_alive() {
    let stalled = |second| Some((second, AbortReason::Stalled, peer(3)));
    let mut member = Member::started(&[1, 2, 3]);
    own_gradient(&mut member, 0);
    let own = member.plan.owned(member.start.rank);
    own.clone().for_each(|chunk| drop(member.chunk(2, 0, Phase::Contribution, chunk)));
    assert_eq!(seconds_until_stalled(&mut member, 590), None, "the first step of a slow machine may take long");
    let (second, ..) = seconds_until_stalled(&mut member, 20).expect("it does not hang for ever");
    assert!((10..=12).contains(&second), "ten minutes: {second}");

    let mut member = Member::started(&[1, 2, 3]);
    member.step(0);
    own_gradient(&mut member, 1);
    own.for_each(|chunk| drop(member.chunk(2, 1, Phase::Contribution, chunk)));
    assert_eq!(seconds_until_stalled(&mut member, 40), stalled(31), "later ones at least 30 s");
}

#[test]
fn a_member_four_times_slower_and_one_that_pauses_are_waited_for() {
    let mut member = Member::started(&[1, 2, 3]);
    for (step, theirs_s) in [(0, 80), (1, 80), (2, 300)] {
        // 20 s of our own computing; then `theirs_s` until the others' values.
        assert_eq!(seconds_until_stalled(&mut member, 20), None);
        own_gradient(&mut member, step);
        assert_eq!(seconds_until_stalled(&mut member, theirs_s), None, "step {step}");
        member.step(step);
        if step == 1 {
            member.done(Done::Hashed { round: 0, parameter_hash: hash("after 0") });
            member.report(2, 0, "after 0");
            member.report(3, 0, "after 0");
        }
    }
}

#[test]
fn a_sum_or_a_report_that_never_comes_is_missed_too() {
    let mut member = Member::started(&[1, 2, 3]);
    member.step(0);
    own_gradient(&mut member, 1);
    let own = member.plan.owned(member.start.rank);
    for other in [2, 3] {
        own.clone().for_each(|chunk| drop(member.chunk(other, 1, Phase::Contribution, chunk)));
    }
    own.for_each(|chunk| drop(member.done(Done::Reduced { step: 1, chunk })));
    let theirs = member.plan.owned(member.start.rank_of(&peer(2)).expect("a member"));
    theirs.for_each(|chunk| drop(member.chunk(2, 1, Phase::Sum, chunk)));
    assert_eq!(seconds_until_stalled(&mut member, 60), Some((46, AbortReason::Stalled, peer(3))));

    let mut member = Member::started(&[1, 2, 3]);
    member.round(0);
    member.report(2, 0, "after 0");
    assert_eq!(seconds_until_stalled(&mut member, 70), Some((61, AbortReason::Stalled, peer(3))));
}

fn frames_to(effects: &[Effect], whom: PeerId) -> Vec<Input> {
    let ids = effects.iter().filter_map(|effect| match effect {
        Effect::SendFrame { id, to, .. } if *to == whom => Some(Input::FrameFailed { id: *id }),
        _ => None,
    });
    ids.collect()
}

#[test]
fn failed_frames_are_a_loss_once_nothing_is_heard_for_a_while() {
    let mut member = Member::started(&[1, 2, 3]);
    let (run, mut failures, mut ended) = (member.run(), 0, None);
    while ended.is_none() && failures < 100 {
        member.say(2, &Message::Heartbeat(Heartbeat { run }));
        let beat = member.bench.pass(Duration::from_ms(500));
        for frame in frames_to(&beat, peer(3)) {
            failures += 1;
            let effects = member.bench.input(frame);
            ended = ended.or(failure(&effects));
            // The question that the first failure asks fails at once.
            for frame in frames_to(&effects, peer(3)).into_iter().filter(|_| ended.is_none()) {
                let effects = member.bench.input(frame);
                assert!(sent(&effects).is_empty(), "a transport that fails at once must not make us spin");
            }
        }
    }
    assert_eq!((ended, failures), (Some((AbortReason::MemberLost, peer(3))), 4), "after more than 3 s");
}

#[test]
fn one_failed_frame_is_an_accident_unless_the_connection_is_lost() {
    for alive in [true, false] {
        let mut member = Member::started(&[1, 2, 3]);
        let run = member.run();
        let beat = member.bench.pass(Duration::from_ms(1_000));
        let first = frames_to(&beat, peer(3)).pop().expect("a heartbeat");
        assert_eq!(closed(&member.bench.input(first)), None);
        let effects = member.bench.input(Input::PeerDisconnected { peer: peer(3) });
        let second = frames_to(&effects, peer(3)).pop().expect("it asks whether 3 is there");
        if alive {
            member.say(3, &Message::Heartbeat(Heartbeat { run }));
        }
        let expected = (!alive).then_some((AbortReason::MemberLost, peer(3)));
        assert_eq!(failure(&member.bench.input(second)), expected);
    }
}

#[test]
fn a_failed_report_is_said_again_until_it_is_delivered_or_its_reader_lost() {
    for lost in [false, true] {
        let (mut member, reports) = Member::saving(&[1, 2]);
        let [report] = reports[..] else { panic!("one report to one other member") };
        let effects = member.bench.input(Input::FrameFailed { id: report });
        let question = frames_to(&effects, peer(2)).pop().expect("it asks whether 2 is there");
        assert_eq!(closed(&member.done(Done::Saved)), None, "2 still needs the report");
        if lost {
            member.bench.input(Input::PeerDisconnected { peer: peer(2) });
            assert_eq!(closed(&member.bench.input(question)), Some(None), "nobody is left to wait for");
            continue;
        }
        assert_eq!(closed(&member.bench.input(question)), None, "it is tried again while there is time");
        let again = member.bench.pass(Duration::from_s(1));
        let [(to, Message::RoundReport(said))] = &sent(&again)[..] else { panic!("{again:?}") };
        assert_eq!((*to, said.round), (peer(2), member.start.spec.rounds - 1));
        let Some(Input::FrameFailed { id }) = frames_to(&again, peer(2)).pop() else { panic!("{again:?}") };
        assert_eq!(closed(&member.bench.input(Input::FrameDelivered { id: report })), None, "an outcome is known once");
        assert_eq!(closed(&member.bench.input(Input::FrameDelivered { id })), Some(None));
    }
}

#[test]
fn a_member_that_is_never_told_of_the_delivery_leaves_in_the_end() {
    let (mut member, _) = Member::saving(&[1, 2]);
    assert_eq!(closed(&member.done(Done::Saved)), None);
    assert_eq!(closed(&member.bench.pass(Duration::from_s(17))), Some(None));
}

#[test]
fn a_saved_run_that_is_stopped_while_its_last_report_travels_has_ended_well() {
    let (mut member, _) = Member::saving(&[1, 2]);
    assert_eq!(closed(&member.done(Done::Saved)), None);
    let (run, reason) = (member.run(), AbortReason::Stopped);
    let effects = member.bench.input(Input::Command(Command::StopRun { run, reason }));
    assert_eq!(closed(&effects), Some(None));
    assert!(sent(&effects).is_empty(), "nobody is told of a failure");
    let (mut member, _) = Member::saving(&[1, 2]);
    let (run, me) = (member.run(), peer(1));
    let effects = member.bench.input(Input::Command(Command::StopRun { run, reason }));
    assert_eq!(failure(&effects), Some((AbortReason::Stopped, me)), "what is not saved yet is not");
}

#[test]
fn nothing_can_fail_a_run_whose_last_round_is_agreed() {
    let (mut member, reports) = Member::saving(&[1, 2, 3]);
    let run = member.run();
    assert_eq!(closed(&member.abort(2, 3)), None);
    assert_eq!(closed(&member.bench.input(Input::BulkFailed { run, peer: peer(3) })), None);
    assert_eq!(closed(&member.bench.input(Input::PeerDisconnected { peer: peer(2) })), None);
    assert_eq!(closed(&member.bench.pass(Duration::from_s(40))), None, "saving may take its time");
    reports.into_iter().for_each(|id| drop(member.bench.input(Input::FrameDelivered { id })));
    assert_eq!(closed(&member.done(Done::Saved)), Some(None));
}

#[test]
fn aborts_end_the_run_and_cannot_blame_strangers() {
    let mut member = Member::started(&[1, 2, 3]);
    let told = RunFailure { reason: AbortReason::Stopped, culprit: peer(3), reported_by: peer(2) };
    assert_eq!(closed(&member.abort(2, 3)), Some(Some(told)), "it is known on whose word");
    let mut member = Member::started(&[1, 2, 3]);
    assert_eq!(failure(&member.abort(2, 9)), Some((AbortReason::Stopped, peer(2))), "9 has no part in this");
    let mut member = Member::started(&[1, 2, 3]);
    assert_eq!(member.abort(9, 3), [], "nor does its word count");
}

#[test]
fn chunks_are_kept_once_at_their_time_and_bad_lengths_named() {
    let mut member = Member::started(&[1, 2, 3]);
    let own = member.plan.owned(member.start.rank).start;
    assert!(Member::kept(&member.chunk(2, 0, Phase::Contribution, own)), "before our own gradient");
    let again = member.chunk(2, 0, Phase::Contribution, own);
    assert_eq!(again, [Effect::ChunkVerdict { transfer: 1, keep: false }], "sent again for a lost receipt: no blame");
    assert!(Member::kept(&member.chunk(2, 1, Phase::Contribution, own)), "one step ahead");
    assert!(!Member::kept(&member.chunk(2, 2, Phase::Contribution, own)), "two steps ahead");
    assert!(!Member::kept(&member.chunk(9, 0, Phase::Contribution, own)), "a stranger");
    let theirs = member.plan.owned(member.start.rank_of(&peer(2)).unwrap()).start;
    assert!(!Member::kept(&member.chunk(2, 0, Phase::Sum, theirs)), "a sum that cannot be there yet");
    let (run, from) = (RunId([9; 32]), peer(2));
    let other = Input::ChunkArrived { transfer: 1, from, run, step: 0, phase: Phase::Sum, chunk: theirs, elements: 1 };
    assert_eq!(member.bench.input(other), [Effect::ChunkVerdict { transfer: 1, keep: false }]);
    let run = member.run();
    let phase = Phase::Contribution;
    let short = Input::ChunkArrived { transfer: 1, from: peer(3), run, step: 0, phase, chunk: own, elements: 1 };
    let effects = member.bench.input(short);
    assert!(!Member::kept(&effects));
    assert_eq!(failure(&effects), Some((AbortReason::BadGradient, peer(3))));
}

#[test]
fn members_who_are_not_ready_in_time_end_the_run() {
    let mut member = Member::confirmed(&[1, 2, 3]);
    let run = member.run();
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    member.ready(2, "initial");
    let mut effects = Vec::new();
    for _ in 0..100 {
        (2..=3).for_each(|other| drop(member.say(other, &Message::Heartbeat(Heartbeat { run }))));
        effects.extend(member.bench.pass(Duration::from_s(10)));
    }
    assert_eq!(failure(&effects), Some((AbortReason::NotReady, peer(3))));
}

#[test]
fn a_trainer_that_fails_blames_itself_or_the_culprit() {
    for (culprit, expected) in
        [(None, (AbortReason::CannotCompute, peer(1))), (Some(peer(3)), (AbortReason::BadGradient, peer(3)))]
    {
        let mut member = Member::started(&[1, 2, 3]);
        let run = member.run();
        assert_eq!(failure(&member.bench.input(Input::TrainerFailed { run, culprit })), Some(expected));
        held(&mut member.bench, 3);
        let effects = member.bench.pass(Duration::from_s(1));
        assert!(published_busy(&effects), "the machine is held again: it was free after the run");
    }
}

fn published_busy(effects: &[Effect]) -> bool {
    crate::bench::published(effects).iter().any(|message| matches!(message, Message::Listing(listing) if listing.busy))
}
