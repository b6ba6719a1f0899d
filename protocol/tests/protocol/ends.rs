//! Runs that are over for one member: what it says of them, through restarts, and
//! what the word of a member that has left is worth.

use crate::bench::{Bench, sent};
use crate::member::{
    Member, asks, ballot, closed, hash, is_end, journalled, prepared, proposed, question, state_of, told, views,
};
use crate::samples::{confirm, listing, peer, reserve};
use manta_protocol::input::Done;
use manta_protocol::market::reservation::Confirm;
use manta_protocol::run::RunSpec;
use manta_protocol::run::report::{Abort, AbortReason};
use manta_protocol::run::view::{Fate, Finished, View};
use manta_protocol::wire::Message;
use manta_protocol::{Command, Duration, Effect, Input};

fn aborts(effects: &[Effect]) -> Vec<Abort> {
    let said = sent(effects).into_iter().filter_map(|(_, message)| match message {
        Message::Abort(abort) => Some(abort),
        _ => None,
    });
    said.collect()
}

impl Member {
    fn left(&mut self, from: u8, reason: AbortReason, culprit: u8, view: u32) -> Vec<Effect> {
        let abort = Abort { run: self.run(), reason, culprit: peer(culprit), view };
        self.say(from, &Message::Abort(abort))
    }

    fn finished(&mut self, from: u8) -> Vec<Effect> {
        let finished = Finished { run: self.run(), root: hash("model") };
        self.say(from, &Message::Finished(finished))
    }
}

// ---- as the one who leaves ----

#[test]
fn who_leaves_writes_it_down_first_and_never_votes_again() {
    let mut member = Member::started(&[1, 2, 3]);
    let effects = member.stop();
    let written = effects.iter().position(|effect| matches!(effect, Effect::Journal { record: Some(_), .. }));
    let said = effects.iter().position(|effect| matches!(effect, Effect::SendFrame { .. }));
    assert!(written.is_some() && written < said, "{effects:?}");
    let record = journalled(&effects).flatten().expect("a record");
    assert!(is_end(&record));
    let word = Abort { run: member.run(), reason: AbortReason::Stopped, culprit: peer(1), view: 0 };
    assert_eq!(aborts(&effects), [word.clone(), word.clone()]);

    let stays_out = |member: &mut Member| {
        let effects = member.ask(2, ballot(7, 2));
        assert_eq!((state_of(&effects), aborts(&effects)), (None, vec![word.clone()]));
        let next = member.view_without(&[3], Fate::Reduced);
        assert_eq!(member.propose(2, ballot(7, 2), &next), [], "it accepts nothing");
        assert_eq!(aborts(&member.beat(3)), std::slice::from_ref(&word));
        // Held for the same run once more, it refuses: it would not know what it has promised.
        member.bench.frame(2, &Message::Reserve(reserve()));
        let effects = member.bench.frame(2, &Message::Confirm(confirm(&[1, 2, 3])));
        assert!(prepared(&effects).is_none());
        assert_eq!(aborts(&effects)[0].reason, AbortReason::NotReady);
    };
    stays_out(&mut member);
    let (mut member, effects) = member.restarted(record);
    assert!(prepared(&effects).is_none());
    stays_out(&mut member);
}

#[test]
fn who_could_decide_alone_on_a_view_that_it_has_proposed_counts_it_as_seen() {
    let mut member = Member::started_first(&[1, 3]);
    let effects = member.bench.input(Input::PeerDisconnected { peer: peer(3) });
    let question = crate::member::failures_to(&effects, 3).pop().expect("it asks whether 3 is there");
    let effects = member.bench.input(question);
    let mut records = effects.iter().filter_map(|effect| match effect {
        Effect::Journal { record, .. } => record.clone(),
        _ => None,
    });
    assert_eq!(views(&effects).len(), 1, "alone it is a quorum");
    // Stopped between its acceptance and the view's coming into force, it may have told others already.
    let accepted = records.nth(1).expect("promised, accepted, in force");
    let (mut member, _) = member.restarted(accepted);
    assert_eq!(aborts(&member.stop())[0].view, 1);
}

// ---- as the one who stays ----

/// 2 has the lower id of two, so that 1 alone is no quorum.
fn of_two(solo: bool) -> Member {
    let confirm = confirm(&[1, 2]);
    let spec = RunSpec { solo, ..confirm.spec.clone() };
    let demand = manta_protocol::market::demand::Demand { spec: spec.hash(), ..confirm.demand.clone() };
    let mut member = Member::in_run(&Confirm { spec, demand, ..confirm });
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    member.ready(2, "initial");
    assert_eq!(member.view.members[0].contact.peer, peer(2));
    member
}

#[test]
fn the_last_of_two_goes_on_alone_once_the_other_has_left() {
    let mut member = of_two(true);
    let effects = member.left(2, AbortReason::CannotCompute, 2, 0);
    let [view] = &views(&effects)[..] else { panic!("one view: {effects:?}") };
    let full: Vec<_> = view.full().map(|member| member.contact.peer).collect();
    assert_eq!((full, view.number), (vec![peer(1)], 1));
    assert!(proposed(&effects).is_some(), "2 is told, should it be there after all");
    member.follows(&View::clone(view));
    member.computed();
    assert!(asks(&member.reduced(), |effect| matches!(effect, Effect::Apply { batches: 1, .. })));
}

#[test]
fn other_words_of_a_leaver_or_about_it_are_no_vote() {
    let stopped = AbortReason::CannotCompute;
    for (why, solo, reason, culprit, view) in [
        ("nobody goes on alone", false, stopped, 2, 0),
        ("it may not have begun, and begin yet", true, AbortReason::NotReady, 2, 0),
        ("nobody knows whose parameters are right", true, AbortReason::NoMajority, 2, 0),
        ("it speaks of another", true, stopped, 1, 0),
        ("it has seen a later view", true, stopped, 2, 1),
    ] {
        let mut member = of_two(solo);
        let mut effects = member.left(2, reason, culprit, view);
        effects.extend(member.wait(&[], 20, |_| false));
        assert!(views(&effects).is_empty() && closed(&effects).is_none(), "{why}");
    }
    // Of three, two are needed, and the leaver is none of them.
    let mut member = Member::started(&[1, 2, 3]);
    let mut effects = member.left(3, AbortReason::Stopped, 3, 0);
    effects.extend(member.wait(&[], 20, |_| false));
    assert!(question(&effects).is_some() && views(&effects).is_empty());
}

#[test]
fn a_leavers_word_outlives_a_restart_of_the_one_who_stays() {
    let mut member = of_two(true);
    // It has promised 2 a ballot; a promise does not keep it from going on.
    let record = journalled(&member.ask(2, ballot(9, 2))).flatten().expect("a record");
    let (mut member, _) = member.restarted(record);
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    let effects = member.left(2, AbortReason::Stopped, 2, 0);
    assert!(closed(&effects).is_some(), "2 owns the run: {effects:?}");

    let mut member = of_two(true);
    let record = journalled(&member.ask(2, ballot(9, 2))).flatten().expect("a record");
    let (mut member, _) = member.restarted(record);
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    let effects = member.left(2, AbortReason::CannotCompute, 2, 0);
    assert!(views(&effects).is_empty(), "work is not given up at once");
    let record = journalled(&effects).flatten().expect("a record");
    let (mut member, _) = member.restarted(record);
    let mut effects = member.done(Done::Prepared { parameter_hash: hash("initial") });
    effects.extend(member.wait(&[], 20, |effects| !views(effects).is_empty()));
    let [view] = &views(&effects)[..] else { panic!("one view") };
    assert_eq!((view.fate.clone(), view.full().count()), (Fate::Fresh, 1));
}

// ---- results ----

/// The member has ended the run and left it.
fn ended(members: &[u8], kept: bool) -> Member {
    let mut member = Member::started(members);
    for round in 0..member.start.spec.rounds {
        member.round(round);
        member.all_report(round);
    }
    let effects = member.done(Done::Saved { root: hash("model"), kept });
    assert!(is_end(&journalled(&effects).flatten().expect("a record")));
    assert_eq!(closed(&member.bench.pass(Duration::from_ms(15_250))), Some(None));
    member
}

fn is_finished(message: &Message) -> bool {
    matches!(message, Message::Finished(_))
}

#[test]
fn a_keeper_tells_the_owner_until_that_has_the_result() {
    let mut member = ended(&[1, 2, 3], true);
    let effects = member.bench.pass(Duration::from_s(8));
    assert_eq!(told(&effects, is_finished), [peer(2), peer(2), peer(2)], "after 1, 3 and 7 s");
    member.bench.pass(Duration::from_s(3_000));
    let effects = member.bench.input(Input::PeerConnected { peer: peer(2) });
    assert!(told(&effects, is_finished).is_empty());
    let effects = member.bench.pass(Duration::from_s(1));
    assert_eq!(told(&effects, is_finished), [peer(2)], "it is back");
    let effects = member.finished(2);
    assert!(asks(&effects, |effect| matches!(effect, Effect::DropResult { .. })), "{effects:?}");
    assert!(told(&member.bench.pass(Duration::from_s(3_000)), is_finished).is_empty());
    assert!(member.finished(3).is_empty(), "who asks nothing is told nothing");
    assert_eq!(told(&member.beat(3), is_finished), [peer(3)]);
    assert!(told(&member.beat(2), is_finished).is_empty(), "the owner finds nothing here any more");
}

#[test]
fn who_keeps_nothing_sends_the_owner_to_nobody() {
    let mut member = ended(&[1, 2, 3], false);
    assert!(told(&member.bench.pass(Duration::from_s(60)), is_finished).is_empty());
    assert!(sent(&member.beat(2)).is_empty());
    assert_eq!(told(&member.beat(3), is_finished), [peer(3)], "another is told that it is over");
}

#[test]
fn a_result_that_is_lost_is_not_promised_any_more() {
    let mut member = ended(&[1, 2, 3], true);
    let run = member.run();
    let effects = member.bench.input(Input::Command(Command::ForgetResult { run }));
    assert!(asks(&effects, |effect| matches!(effect, Effect::DropResult { .. })));
    assert!(told(&member.bench.pass(Duration::from_s(60)), is_finished).is_empty());
}

/// An owner that was restarted in the middle of its run.
fn owner_back() -> Member {
    let mut bench = Bench::offering(listing());
    bench.frame(1, &Message::Reserve(reserve()));
    let begun = bench.frame(1, &Message::Confirm(Confirm { owner: peer(1), ..confirm(&[1, 3, 4]) }));
    let record = journalled(&begun).flatten().expect("a record");
    let (mut member, _) = Member::at_start(bench, prepared(&begun).expect("begun")).restarted(record);
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    member
}

#[test]
fn an_owner_forgets_its_run_only_with_the_result_in_its_hands() {
    let mut member = owner_back();
    let effects = member.finished(9);
    assert!(!asks(&effects, |effect| matches!(effect, Effect::FetchResult { .. })), "a stranger's word");
    let effects = member.finished(3);
    assert!(asks(&effects, |effect| matches!(effect, Effect::FetchResult { from, .. } if *from == peer(3))));
    assert_eq!((journalled(&effects), closed(&effects)), (None, None), "a restart looks for it again");
    assert!(member.finished(4).is_empty(), "one at a time");
    let quiet = member.wait(&[3, 4], 5, |_| false);
    assert!(told(&quiet, |message| matches!(message, Message::Join(_) | Message::Heartbeat(_))).is_empty());

    let effects = member.done(Done::ResultNotFetched);
    assert_eq!(closed(&effects), None);
    let joins = |effects: &[Effect]| told(effects, |message| matches!(message, Message::Join(_)));
    assert!(joins(&member.bench.pass(Duration::from_s(15))).is_empty(), "not at once");
    assert!(joins(&member.bench.pass(Duration::from_s(10))).contains(&peer(4)), "but before long");
    assert!(asks(&member.finished(4), |effect| matches!(effect, Effect::FetchResult { .. })));
    let effects = member.done(Done::Saved { root: hash("model"), kept: true });
    assert!(is_end(&journalled(&effects).flatten().expect("a record")));
    assert_eq!((closed(&effects), told(&effects, is_finished)), (Some(None), vec![peer(4)]), "4 need not keep it");
    assert_eq!(told(&member.finished(3), is_finished), [peer(3)], "nor need 3");
}

#[test]
fn an_owner_that_is_stopped_while_it_fetches_has_stopped() {
    let mut member = owner_back();
    member.finished(3);
    let effects = member.stop();
    assert!(matches!(closed(&effects), Some(Some(_))));
    let (mut member, _) = member.restarted(journalled(&effects).flatten().expect("a record"));
    assert_eq!(aborts(&member.finished(3)).len(), 1, "it wants none: 3 need not tell it again");
}
