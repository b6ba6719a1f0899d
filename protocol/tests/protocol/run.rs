//! A run as one member lives it: beginning, work, chunks, hashes, end.

use crate::bench::{Bench, events, published, sent};
use crate::member::{
    Member, OWNER, accused, asks, closed, failure, failures_to, hash, is_end, journalled, prepared, told, views,
};
use crate::samples::{confirm, listing, peer, reserve, spec};
use manta_protocol::effect::{Entry, RunFailure};
use manta_protocol::input::{Done, Wish};
use manta_protocol::market::demand::Share;
use manta_protocol::market::reservation::Confirm;
use manta_protocol::run::report::{AbortReason, LossSum, Ready};
use manta_protocol::run::view::{Fate, Suspect};
use manta_protocol::run::{Phase, RunSpec};
use manta_protocol::wire::Message;
use manta_protocol::wire::limits::EARLY_CHUNKS_MAX;
use manta_protocol::{Command, Duration, Effect, EffectId, Event, Input, OrderId, RunId};

impl Member {
    /// The last round is agreed, the model is being saved; our last report is
    /// on its way under the returned ids.
    fn saving(members: &[u8]) -> (Self, Vec<EffectId>) {
        let mut member = Self::started(members);
        let rounds = member.start.spec.rounds;
        let mut reports = Vec::new();
        for round in 0..rounds {
            let effects = member.round(round);
            let sent = effects.iter().filter_map(|effect| match effect {
                Effect::SendFrame { id, .. } => Some(*id),
                _ => None,
            });
            reports = sent.collect();
            let last = member.all_report(round);
            assert!(events(&last).iter().any(|event| matches!(event, Event::RoundDone { .. })));
            assert_eq!(asks(&last, |effect| matches!(effect, Effect::Save { .. })), round + 1 == rounds);
        }
        (member, reports)
    }

    fn saved(&mut self) -> Vec<Effect> {
        self.done(Done::Saved { root: hash("model"), kept: true })
    }
}

#[test]
fn a_whole_run_goes_from_confirm_to_close() {
    for members in [&[1, 2][..], &[1, 2, 3], &[1, 2, 3, 4, 5]] {
        let (mut member, reports) = Member::saving(members);
        let effects = member.saved();
        assert_eq!(closed(&effects), None, "the last report is still on its way");
        assert!(is_end(&journalled(&effects).flatten().expect("a record")), "no restart takes it back");
        let delivered = reports.into_iter().map(|id| Input::FrameDelivered { id });
        let last: Vec<_> = delivered.flat_map(|outcome| member.bench.input(outcome)).collect();
        assert_eq!((journalled(&last), closed(&last)), (None, Some(None)), "nothing more to remember");
    }
}

#[test]
fn a_user_alone_runs_without_any_network() {
    let mut bench = Bench::offering(listing());
    let wish = Wish {
        share: Share::Own,
        members_min: 1,
        members_max: 1,
        memory_bytes: 1,
        disk_bytes: 1,
        duration_s: 1,
        patience_ms: 1,
        deadline_ms: 1_000,
    };
    let order = Command::Order { order: OrderId(1), spec: Box::new(spec()), wish };
    let effects = bench.input(Input::Command(order));
    let mut member = Member::at_start(bench, prepared(&effects).expect("it begins at once"));
    let effects = member.done(Done::Prepared { parameter_hash: hash("initial") });
    assert!(asks(&effects, |effect| matches!(effect, Effect::Compute { exchange: 0, .. })));
    let mut all = Vec::new();
    for round in 0..2 {
        all.extend(member.round(round));
    }
    assert!(asks(&all, |effect| matches!(effect, Effect::Save { for_owner: false, .. })));
    all.extend(member.saved());
    assert!(is_end(&journalled(&all).flatten().expect("a record")));
    assert_eq!(closed(&all), Some(None));
    assert_eq!(sent(&all), []);
}

#[test]
fn ready_before_confirm_does_not_deadlock() {
    let mut bench = Bench::offering(listing());
    bench.frame(OWNER, &Message::Reserve(reserve()));
    let run = confirm(&[1, 2, 3]).run_id();
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
    assert!(asks(&effects, |effect| matches!(effect, Effect::Compute { exchange: 0, .. })));
    assert_eq!(told(&effects, |message| matches!(message, Message::Ready(_))), [peer(3)]);
    assert!(sent(&bench.frame(3, &early)).is_empty(), "no endless echo");
}

#[test]
fn a_run_begins_only_for_the_one_who_holds_the_machine() {
    let first = |members: &[u8]| confirm(members);
    let late = |members: &[u8]| Confirm { late: true, ..confirm(members) };
    let other_spec = Confirm { spec: RunSpec { rounds: 9, ..spec() }, ..first(&[1, 2]) };
    let cases: [(&str, u8, Confirm, Option<Entry>); 9] = [
        ("held and a member", OWNER, first(&[1, 2, 3]), Some(Entry::First)),
        ("a stranger", 3, first(&[1, 2, 3]), None),
        ("without us", OWNER, first(&[2, 3]), None),
        ("without its owner, who serves the data", OWNER, first(&[1, 3]), None),
        ("for another spec than its demand", OWNER, other_spec, None),
        ("late, from the member who holds us", OWNER, late(&[2, 3]), Some(Entry::Late)),
        ("late, from a member who does not hold us", 3, late(&[2, 3]), None),
        ("late, from one who is no member", OWNER, late(&[3, 4]), None),
        ("late, though we are a member", OWNER, late(&[1, 2, 3]), None),
    ];
    for (why, from, confirm, entry) in cases {
        let mut bench = Bench::offering(listing());
        bench.frame(OWNER, &Message::Reserve(reserve()));
        let effects = bench.frame(from, &Message::Confirm(confirm.clone()));
        assert_eq!(prepared(&effects).map(|start| start.entry), entry, "{why}");
        let aborts =
            told(&effects, |message| matches!(message, Message::Abort(abort) if abort.reason == AbortReason::NotReady));
        assert_eq!(aborts, if entry.is_some() { vec![] } else { vec![peer(from)] }, "{why}: the sender learns of it");
        if entry.is_some() {
            assert!(matches!(journalled(&effects), Some(Some(_))), "{why}: it outlives a restart");
            assert_eq!(bench.frame(from, &Message::Confirm(confirm)), [], "said twice");
        }
    }
}

#[test]
fn one_who_comes_late_asks_all_members_to_be_let_in() {
    let mut bench = Bench::offering(listing());
    bench.frame(OWNER, &Message::Reserve(reserve()));
    let late = Confirm { late: true, ..confirm(&[2, 3]) };
    let start = prepared(&bench.frame(OWNER, &Message::Confirm(late))).expect("it comes in");
    let done = Done::Prepared { parameter_hash: hash("initial") };
    let effects = bench.input(Input::Trainer { run: start.run, done });
    assert_eq!(told(&effects, |message| matches!(message, Message::Join(_))), [peer(2), peer(3)]);
    assert!(!asks(&effects, |effect| matches!(effect, Effect::Compute { .. })), "it holds no parameters yet");
}

#[test]
fn late_early_and_repeated_messages_are_harmless() {
    let mut member = Member::started(&[1, 2, 3]);
    assert_eq!(closed(&member.ready(2, "something else")), None, "it is too late to change one's mind");
    member.report(3, 0, "after 0");
    assert_eq!(closed(&member.report(3, 0, "a second thought")), None, "the first word counts");
    member.report(3, 7, "far ahead");
    let loss = LossSum::default();
    for early in [
        Done::Applied { exchange: 0 },
        Done::Hashed { exchange: 0, parameter_hash: hash("not yet") },
        Done::Saved { root: hash("not yet"), kept: true },
        Done::Computed { exchange: 5, plan: 0, loss, compute_ms: 1 },
        Done::Computed { exchange: 0, plan: 1, loss, compute_ms: 1 },
        Done::Reduced { exchange: 0, view: 0, chunk: 0 },
        Done::Snapshot { exchange: 0, root: hash("nobody asked") },
        Done::StateLoaded { exchange: 0 },
        Done::StateNotLoaded { exchange: 0 },
        Done::Checkpointed { exchange: 0 },
    ] {
        assert_eq!(member.done(early.clone()), [], "{early:?}");
    }
    member.round(0);
    let effects = member.report(2, 0, "after 0");
    assert!(asks(&effects, |effect| matches!(effect, Effect::Compute { exchange: 2, .. })), "{effects:?}");
    assert_eq!(accused(&member.report(2, 0, "an old one")), None);
    member.round(1);
    member.report(3, 1, "after 1");
    let effects = member.report(2, 1, "after 1");
    assert!(asks(&effects, |effect| matches!(effect, Effect::Save { .. })), "{effects:?}");
}

#[test]
fn a_member_cannot_crowd_out_the_reports_of_others() {
    let mut member = Member::started(&[1, 2, 3]);
    member.report(3, 0, "after 0");
    (1..=300).for_each(|plan| drop(member.report_of_plan(3, 0, plan, "nonsense")));
    member.round(0);
    let effects = member.report(2, 0, "after 0");
    let agreed = events(&effects).iter().any(|event| matches!(event, Event::RoundDone { .. }));
    assert!(agreed, "an honest report has its place");
}

// ---- chunks ----

#[test]
fn chunks_are_kept_once_at_their_time_and_bad_lengths_named() {
    let mut member = Member::started(&[1, 2, 3]);
    let (own, theirs) = (member.owned(1)[0], member.owned(2)[0]);
    let kept = |member: &mut Member, from, exchange, phase, chunk| {
        let effects = member.chunk(from, exchange, phase, chunk);
        assert_eq!(effects, [Effect::ChunkVerdict { transfer: member.transfer, keep: member.kept(&effects) }]);
        member.kept(&effects)
    };
    let values = Phase::Contribution;
    assert!(kept(&mut member, 2, 0, values, own), "before our own values");
    assert!(!kept(&mut member, 2, 0, values, own), "sent again for a lost receipt: no blame");
    assert!(kept(&mut member, 2, 1, values, own), "one exchange ahead");
    assert!(!kept(&mut member, 2, 2, values, own), "two exchanges ahead");
    assert!(!kept(&mut member, 2, u64::MAX, values, own), "far ahead");
    assert!(!kept(&mut member, 9, 0, values, own), "a stranger");
    assert!(!kept(&mut member, 3, 0, values, theirs), "for another owner");
    assert!(!kept(&mut member, 3, 0, values, u32::MAX), "no such chunk");
    assert!(!kept(&mut member, 2, 0, Phase::Sum, theirs), "a sum that cannot be there yet");
    let (run, from) = (RunId([9; 32]), peer(2));
    let phase = Phase::Sum;
    let other = Input::ChunkArrived { transfer: 1, from, run, view: 0, exchange: 0, phase, chunk: theirs, elements: 1 };
    assert_eq!(member.bench.input(other), [Effect::ChunkVerdict { transfer: 1, keep: false }]);
    let effects = member.chunk_of_view(3, 0, 0, Phase::Contribution, own, 1);
    assert_eq!(member.verdict(&effects), Some(false));
    assert!(asks(&effects, |effect| matches!(effect, Effect::Misbehaviour { peer: who, .. } if *who == peer(3))));
    assert_eq!(accused(&effects), Some((AbortReason::BadGradient, peer(3))));
}

#[test]
fn a_member_that_sent_a_bad_gradient_leaves_and_may_not_come_back() {
    let mut member = Member::started_first(&[1, 3, 4]);
    let own = member.owned(1)[0];
    let effects = member.chunk_of_view(3, 0, 0, Phase::Contribution, own, 1);
    assert_eq!(told(&effects, |message| matches!(message, Message::ViewAsk(_))), [peer(4), peer(3)]);
    let view = member.agree_with(&[4], &effects);
    let left: Vec<_> = view.left.iter().map(|departure| (departure.reason, departure.peer)).collect();
    assert_eq!((left, view.fate), (vec![(AbortReason::BadGradient, peer(3))], Fate::Reduced));
    let join = manta_protocol::run::view::Join { run: member.run(), contact: crate::samples::contact(3), view: 1 };
    let effects = member.say(3, &Message::Join(join));
    assert!(told(&effects, |message| matches!(message, Message::ViewAsk(_))).is_empty(), "it is not let in again");
}

#[test]
fn chunks_of_a_view_to_come_are_answered_once_when_it_has_come() {
    let mut member = Member::started(&[1, 2, 3]);
    member.computed();
    let view = member.view_without(&[3], Fate::Reduced);
    let own = member.owned(1)[0];
    let elements = member.elements(own);
    let early = member.chunk_of_view(2, 1, 0, Phase::Contribution, own, elements);
    assert_eq!(member.verdict(&early), None, "it is held");
    let transfer = member.transfer;
    let effects = member.chunk_of_view(3, 1, 0, Phase::Contribution, own, elements);
    assert_eq!(member.verdict(&effects), None, "who knows what the view says of 3");
    let effects = member.chunk_of_view(9, 1, 0, Phase::Contribution, own, elements);
    assert_eq!(member.verdict(&effects), Some(false), "nothing is held for strangers");
    let effects = member.install(2, &view);
    let verdicts = |effects: &[Effect]| -> Vec<(u64, bool)> {
        let verdicts = effects.iter().filter_map(|effect| match effect {
            Effect::ChunkVerdict { transfer, keep } => Some((*transfer, *keep)),
            _ => None,
        });
        verdicts.collect()
    };
    assert_eq!(verdicts(&effects), [(transfer, true), (transfer + 1, false)]);
    let again = member.install(2, &view);
    assert_eq!(verdicts(&again), [], "each is answered once");
}

#[test]
fn held_chunks_are_bounded() {
    let mut member = Member::started(&[1, 2, 3]);
    let own = member.owned(1)[0];
    let elements = member.elements(own);
    for _ in 0..EARLY_CHUNKS_MAX {
        let effects = member.chunk_of_view(2, 1, 0, Phase::Contribution, own, elements);
        assert_eq!(member.verdict(&effects), None);
    }
    let effects = member.chunk_of_view(3, 1, 0, Phase::Contribution, own, elements);
    assert_eq!(member.verdict(&effects), Some(false), "there is no room for more");
    let view = member.view_without(&[3], Fate::Reduced);
    let effects = member.install(2, &view);
    let kept = effects.iter().filter(|effect| matches!(effect, Effect::ChunkVerdict { keep: true, .. })).count();
    let dropped = effects.iter().filter(|effect| matches!(effect, Effect::ChunkVerdict { keep: false, .. })).count();
    assert_eq!((kept, dropped), (1, EARLY_CHUNKS_MAX - 1), "one of a kind is of use");
}

// ---- hashes ----

#[test]
fn the_one_with_unequal_initial_parameters_leaves_before_the_first_exchange() {
    let mut member = Member::confirmed(&[1, 2, 3]);
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    member.ready(2, "initial");
    let effects = member.ready(3, "other");
    assert_eq!(accused(&effects), Some((AbortReason::ParametersDiffer, peer(3))));
    assert!(!asks(&effects, |effect| matches!(effect, Effect::Compute { .. })), "not with 3");
    let view = member.view_without(&[3], Fate::Reduced);
    let effects = member.install(2, &view);
    assert!(asks(&effects, |effect| matches!(effect, Effect::Compute { exchange: 0, .. })), "{effects:?}");
}

#[test]
fn the_one_with_unequal_parameters_leaves_and_the_round_is_agreed_without_it() {
    let mut member = Member::started(&[1, 2, 3]);
    member.round(0);
    member.report(3, 0, "other");
    let effects = member.report(2, 0, "after 0");
    assert_eq!(accused(&effects), Some((AbortReason::ParametersDiffer, peer(3))));
    assert_eq!(told(&effects, |message| matches!(message, Message::Suspect(_))).len(), 2, "both are told");
    let agreed = |effects: &[Effect]| events(effects).iter().any(|event| matches!(event, Event::RoundDone { .. }));
    assert!(!agreed(&effects), "nothing is agreed with 3");
    let view = member.view_without(&[3], Fate::Reduced);
    let effects = member.install(2, &view);
    assert!(agreed(&effects), "{effects:?}");
    assert!(asks(&effects, |effect| matches!(effect, Effect::Compute { exchange: 2, .. })));
}

#[test]
fn who_finds_itself_the_odd_one_ends_the_run_for_itself() {
    let odd = RunFailure { reason: AbortReason::ParametersDiffer, culprit: peer(1), reported_by: peer(1) };
    let mut member = Member::confirmed(&[1, 2, 3]);
    member.done(Done::Prepared { parameter_hash: hash("other") });
    member.ready(2, "initial");
    assert_eq!(closed(&member.ready(3, "initial")), Some(Some(odd)));

    let mut member = Member::started(&[1, 2, 3]);
    member.round(0);
    member.report(2, 0, "something else");
    let effects = member.report(3, 0, "something else");
    assert_eq!(closed(&effects), Some(Some(odd)));
    assert!(is_end(&journalled(&effects).flatten().expect("a record")));
    let parting = told(&effects, |message| matches!(message, Message::Abort(abort) if abort.culprit == peer(1)));
    assert_eq!(parting.len(), 2, "the others need not wait for us");
}

#[test]
fn without_a_majority_nobody_is_said_to_be_wrong_and_the_run_ends() {
    for (members, hashes) in [(&[1, 2][..], &["other"][..]), (&[1, 2, 3, 4], &["initial", "other", "other"])] {
        let mut member = Member::confirmed(members);
        member.done(Done::Prepared { parameter_hash: hash("initial") });
        let others = member.others();
        let last = others.into_iter().zip(hashes).map(|(other, hash)| member.ready(other, hash));
        let (reason, _) = last.last().and_then(|effects| failure(&effects)).expect("they differ");
        assert_eq!((reason, reason.is_decided()), (AbortReason::NoMajority, false));
    }
    let mut member = Member::started(&[1, 2]);
    member.round(0);
    assert_eq!(failure(&member.report(2, 0, "other")).map(|(reason, _)| reason), Some(AbortReason::NoMajority));
}

#[test]
fn who_is_put_out_of_a_view_for_its_fault_ends_and_who_was_lost_comes_back() {
    for (reason, ends) in [(AbortReason::BadGradient, true), (AbortReason::MemberLost, false)] {
        let mut member = Member::started(&[1, 2, 3]);
        let mut view = member.view_without(&[1], Fate::Reduced);
        view.left[0].reason = reason;
        let effects = member.install(2, &view);
        assert_eq!(failure(&effects), ends.then_some((reason, peer(1))));
        let joins = told(&member.bench.pass(Duration::from_s(1)), |message| matches!(message, Message::Join(_)));
        assert_eq!(joins.is_empty(), ends, "{reason:?}");
    }
}

// ---- the end ----

#[test]
fn a_failed_report_is_said_again_until_it_is_delivered_or_its_reader_lost() {
    for lost in [false, true] {
        let (mut member, reports) = Member::saving(&[1, 2]);
        let [report] = reports[..] else { panic!("one report to one other member") };
        let effects = member.bench.input(Input::FrameFailed { id: report });
        let question = failures_to(&effects, 2).pop().expect("it asks whether 2 is there");
        assert_eq!(closed(&member.saved()), None, "2 still needs the report");
        if lost {
            member.bench.input(Input::PeerDisconnected { peer: peer(2) });
            assert_eq!(closed(&member.bench.input(question)), Some(None), "nobody is left to wait for");
            continue;
        }
        assert_eq!(closed(&member.bench.input(question)), None, "it is tried again while there is time");
        let again = member.bench.pass(Duration::from_ms(250));
        let is_report =
            |message: &Message| matches!(message, Message::RoundReport(report) if report.round == spec().rounds - 1);
        assert_eq!(told(&again, is_report), [peer(2)]);
        let Some(Input::FrameFailed { id }) = failures_to(&again, 2).pop() else { panic!("{again:?}") };
        assert_eq!(closed(&member.bench.input(Input::FrameDelivered { id: report })), None, "an outcome is known once");
        assert_eq!(closed(&member.bench.input(Input::FrameDelivered { id })), Some(None));
    }
}

#[test]
fn a_member_that_is_never_told_of_the_delivery_leaves_in_the_end() {
    let (mut member, _) = Member::saving(&[1, 2]);
    assert_eq!(closed(&member.saved()), None);
    assert_eq!(closed(&member.bench.pass(Duration::from_s(14))), None, "it gives the others time");
    assert_eq!(closed(&member.bench.pass(Duration::from_s(3))), Some(None));
}

#[test]
fn a_saved_run_that_is_stopped_while_its_last_report_travels_has_ended_well() {
    let (mut member, _) = Member::saving(&[1, 2]);
    assert_eq!(closed(&member.saved()), None);
    let effects = member.stop();
    assert_eq!((closed(&effects), sent(&effects).len()), (Some(None), 0), "nobody is told of a failure");
    let (mut member, _) = Member::saving(&[1, 2]);
    assert_eq!(failure(&member.stop()), Some((AbortReason::Stopped, peer(1))), "what is not saved yet is not");
}

#[test]
fn nothing_can_fail_a_run_whose_last_round_is_agreed() {
    let (mut member, reports) = Member::saving(&[1, 2, 3]);
    let run = member.run();
    let suspect = Suspect { run, view: 0, peer: peer(3), reason: AbortReason::Stalled };
    let view = member.view_without(&[1, 3], Fate::Reduced);
    let failed = Input::BulkFailed { run, peer: peer(3), exchange: 3, phase: Phase::Sum, chunk: 0 };
    let mut all = member.abort(2, AbortReason::Stopped, 2);
    all.extend(member.abort(2, AbortReason::NoMajority, 3));
    all.extend(member.say(2, &Message::Suspect(suspect)));
    all.extend(member.install(2, &view));
    all.extend(member.bench.input(failed));
    all.extend(member.bench.input(Input::TrainerFailed { run, culprit: Some(peer(3)) }));
    all.extend(member.bench.input(Input::PeerDisconnected { peer: peer(2) }));
    all.extend(member.bench.pass(Duration::from_s(40)));
    assert_eq!((closed(&all), views(&all).len(), accused(&all)), (None, 0, None), "saving may take its time");
    reports.into_iter().for_each(|id| drop(member.bench.input(Input::FrameDelivered { id })));
    assert_eq!(closed(&member.saved()), Some(None));
}

#[test]
fn the_owners_leaving_ends_the_run_anothers_does_not() {
    let mut member = Member::started(&[1, 2, 3]);
    let stopped = RunFailure { reason: AbortReason::Stopped, culprit: peer(2), reported_by: peer(2) };
    let effects = member.abort(2, AbortReason::Stopped, 2);
    assert_eq!(closed(&effects), Some(Some(stopped)));
    assert!(is_end(&journalled(&effects).flatten().expect("a record")));

    let mut member = Member::started(&[1, 2, 3]);
    let effects = member.abort(3, AbortReason::CannotCompute, 3);
    assert_eq!((closed(&effects), accused(&effects)), (None, Some((AbortReason::CannotCompute, peer(3)))));
    let mut member = Member::started(&[1, 2, 3]);
    let effects = member.abort(3, AbortReason::CannotCompute, 2);
    assert_eq!(accused(&effects), Some((AbortReason::CannotCompute, peer(3))), "its word is about itself");
}

#[test]
fn a_stranger_cannot_end_a_run() {
    for reason in [AbortReason::Stopped, AbortReason::NoMajority, AbortReason::CannotCompute] {
        let mut member = Member::started(&[1, 2, 3]);
        member.round(0);
        let effects = member.abort(9, reason, 2);
        assert_eq!((closed(&effects), accused(&effects)), (None, None), "{reason:?}");
    }
}

#[test]
fn a_trainer_that_fails_blames_itself_or_the_culprit() {
    let mut member = Member::started(&[1, 2, 3]);
    let run = member.run();
    let effects = member.bench.input(Input::TrainerFailed { run, culprit: None });
    assert_eq!(failure(&effects), Some((AbortReason::CannotCompute, peer(1))));
    assert_eq!(told(&effects, |message| matches!(message, Message::Abort(_))).len(), 2);
    member.bench.frame(3, &Message::Reserve(reserve()));
    let busy = |message: &Message| matches!(message, Message::Listing(listing) if listing.busy);
    let effects = member.bench.pass(Duration::from_s(1));
    assert!(published(&effects).iter().any(busy), "the machine is held again: it was free after the run");

    let mut member = Member::started(&[1, 2, 3]);
    let effects = member.bench.input(Input::TrainerFailed { run, culprit: Some(peer(3)) });
    assert_eq!((closed(&effects), accused(&effects)), (None, Some((AbortReason::BadGradient, peer(3)))));
}
