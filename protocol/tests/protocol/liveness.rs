//! Who is there: silence, lost connections, stalls; and who is merely slow.

use crate::bench::{events, sent};
use crate::member::{Member, accused, asks, closed, failure, failures_to, hash, prepared, question, told};
use crate::samples::peer;
use manta_protocol::effect::Pause;
use manta_protocol::input::Done;
use manta_protocol::run::Phase;
use manta_protocol::run::report::AbortReason;
use manta_protocol::run::view::{Fate, Suspect};
use manta_protocol::wire::Message;
use manta_protocol::{Duration, Effect, Event, Input, PeerId};
use std::collections::BTreeSet;

#[test]
fn silence_is_noticed_after_a_second_and_a_half_and_all_are_told() {
    let mut member = Member::started(&[1, 2, 3]);
    let begun = member.bench.now;
    let mut effects = Vec::new();
    while accused(&effects).is_none() {
        member.beat(2);
        effects = member.bench.pass(Duration::from_ms(250));
        assert!(member.bench.now.since(begun) < Duration::from_s(3), "it is not noticed");
    }
    assert!(member.bench.now.since(begun) >= Duration::from_ms(1_500));
    assert_eq!(accused(&effects), Some((AbortReason::MemberLost, peer(3))));
    let suspects = told(&effects, |message| matches!(message, Message::Suspect(_)));
    assert_eq!(suspects, [peer(2), peer(3)], "both are told, the silent one too");
    assert_eq!(question(&effects), None, "2 comes first and will ask for a view");
    let effects = member.wait(&[2], 3, |effects| question(effects).is_some());
    let asked: BTreeSet<_> = told(&effects, |message| matches!(message, Message::ViewAsk(_))).into_iter().collect();
    assert_eq!(asked.len(), 2, "it did not: we do");
}

#[test]
fn who_is_heard_again_is_not_lost() {
    let mut member = Member::started(&[1, 2, 3]);
    let effects = member.wait(&[2], 3, |effects| accused(effects).is_some());
    assert_eq!(accused(&effects), Some((AbortReason::MemberLost, peer(3))));
    member.beat(3);
    let effects = member.wait(&[2, 3], 10, |_| false);
    assert_eq!((question(&effects), accused(&effects)), (None, None));
}

#[test]
fn an_accusation_counts_if_it_is_a_members_about_another_in_this_view() {
    for (why, from, view, culprit, counts) in [
        ("a member's word", 2, 0, 3, true),
        ("a stranger's", 9, 0, 3, false),
        ("of another view", 2, 1, 3, false),
        ("about a stranger", 2, 0, 9, false),
        ("about ourselves, which is for others to judge", 2, 0, 1, false),
    ] {
        let mut member = Member::started(&[1, 2, 3]);
        let (run, reason) = (member.run(), AbortReason::Stalled);
        member.say(from, &Message::Suspect(Suspect { run, view, peer: peer(culprit), reason }));
        let effects = member.wait(&[2, 3], 3, |effects| question(effects).is_some());
        assert_eq!(question(&effects).is_some(), counts, "{why}");
    }
}

#[test]
fn a_minority_does_not_decide_and_people_are_told() {
    let mut member = Member::started(&[1, 2, 3]);
    let effects = member.wait(&[], 60, |_| false);
    let pauses = events(&effects).into_iter().filter(|event| matches!(event, Event::RunPaused { .. }));
    let pauses: Vec<_> = pauses.collect();
    assert_eq!(pauses, [&Event::RunPaused { run: member.run(), why: Pause::NoMajority }], "once");
    assert_eq!(closed(&effects), None, "the others may come back");
    let end = member.wait(&[], 31 * 60, |effects| closed(effects).is_some());
    assert_eq!(failure(&end), Some((AbortReason::MemberLost, peer(1))), "half an hour is the end");
}

/// Until 3, which says that it is alive and nothing else, is accused: after how many seconds, and of what.
fn seconds_until_accused(member: &mut Member, patience_s: u64) -> Option<(u64, AbortReason, PeerId)> {
    (1..=patience_s).find_map(|second| {
        let effects = member.wait(&[2, 3], 1, |_| false);
        assert_eq!(closed(&effects), None);
        accused(&effects).map(|(reason, culprit)| (second, reason, culprit))
    })
}

#[test]
fn a_member_whose_trainer_hangs_is_named_although_it_is_alive() {
    let mut member = Member::started(&[1, 2, 3]);
    member.computed();
    member.values(2);
    assert_eq!(seconds_until_accused(&mut member, 599), None, "the first step of a slow machine may take long");
    let stalled = |second| Some((second, AbortReason::Stalled, peer(3)));
    assert_eq!(seconds_until_accused(&mut member, 5), stalled(2), "ten minutes");

    let mut member = Member::started(&[1, 2, 3]);
    member.exchange();
    member.computed();
    member.values(2);
    assert_eq!(seconds_until_accused(&mut member, 40), stalled(31), "later ones at least 30 s");
}

#[test]
fn a_member_four_times_slower_and_one_that_pauses_are_waited_for() {
    let mut member = Member::started(&[1, 2, 3]);
    for (at, theirs_s) in [(0, 80), (1, 80), (2, 300)] {
        // 20 s of our own computing; then `theirs_s` until the others' values.
        assert_eq!(seconds_until_accused(&mut member, 20), None);
        member.computed();
        assert_eq!(seconds_until_accused(&mut member, theirs_s), None, "exchange {at}");
        member.exchange();
        if at == 1 {
            member.done(Done::Hashed { exchange: 2, parameter_hash: hash("after 0") });
            member.all_report(0);
        }
    }
    assert_eq!(member.at, 3);
}

#[test]
fn a_sum_or_a_report_that_never_comes_is_missed_too() {
    let mut member = Member::started(&[1, 2, 3]);
    member.exchange();
    member.computed();
    member.values(2);
    member.values(3);
    member.reduced();
    member.sums(2);
    assert_eq!(seconds_until_accused(&mut member, 60), Some((46, AbortReason::Stalled, peer(3))));

    let mut member = Member::started(&[1, 2, 3]);
    member.round(0);
    member.report(2, 0, "after 0");
    assert_eq!(seconds_until_accused(&mut member, 70), Some((61, AbortReason::Stalled, peer(3))));
}

#[test]
fn while_a_view_is_looked_for_nobody_stalls() {
    let mut member = Member::started(&[1, 2, 3]);
    member.exchange();
    member.computed();
    member.values(2);
    assert_eq!(seconds_until_accused(&mut member, 28), None);
    for counter in 1..=20 {
        // 2 asks again and again: its turn never ends, and 3 may not be blamed for the pause.
        member.ask(2, crate::member::ballot(counter, 2));
        assert_eq!(seconds_until_accused(&mut member, 1), None);
    }
    let view = member.view_without(&[], Fate::Kept { handovers: Vec::new() });
    member.install(2, &view);
    assert_eq!(seconds_until_accused(&mut member, 29), None, "its time begins anew with the view");
    assert!(seconds_until_accused(&mut member, 5).is_some());
}

#[test]
fn failed_frames_are_asked_about_once_and_are_no_loss_by_themselves() {
    let mut member = Member::started(&[1, 2, 3]);
    for _ in 0..20 {
        let effects = member.wait(&[2, 3], 1, |_| false);
        let failures = failures_to(&effects, 3);
        assert!(!failures.is_empty());
        let mut questions = Vec::new();
        for failure in failures {
            let effects = member.bench.input(failure);
            assert_eq!(accused(&effects), None);
            questions.extend(failures_to(&effects, 3));
        }
        assert_eq!(questions.len(), 1, "asked at once, but a transport that fails at once must not make us spin");
        let effects = member.bench.input(questions.remove(0));
        assert_eq!(sent(&effects), []);
    }
}

#[test]
fn one_failed_frame_is_an_accident_unless_the_connection_is_lost() {
    for alive in [true, false] {
        let mut member = Member::started(&[1, 2, 3]);
        let beat = member.bench.pass(Duration::from_ms(1_000));
        let first = failures_to(&beat, 3).pop().expect("a heartbeat");
        assert_eq!(accused(&member.bench.input(first)), None);
        let effects = member.bench.input(Input::PeerDisconnected { peer: peer(3) });
        assert_eq!(accused(&effects), None);
        let second = failures_to(&effects, 3).pop().expect("it asks whether 3 is there");
        if alive {
            member.beat(3);
        }
        let expected = (!alive).then_some((AbortReason::MemberLost, peer(3)));
        assert_eq!(accused(&member.bench.input(second)), expected);
    }
}

#[test]
fn a_crash_is_settled_without_waiting_for_the_lost_one() {
    let mut member = Member::started_first(&[1, 3, 4]);
    let effects = member.bench.input(Input::PeerDisconnected { peer: peer(3) });
    let probe = failures_to(&effects, 3).pop().expect("it asks whether 3 is there");
    let effects = member.bench.input(probe);
    let begun = member.bench.now;
    let view = member.agree_with(&[4], &effects);
    assert_eq!(member.bench.now, begun, "no time has passed");
    assert_eq!(view.left.len(), 1);
}

#[test]
fn a_chunk_that_was_not_delivered_is_sent_again_once_its_receiver_is_heard() {
    let mut member = Member::started(&[1, 2, 3]);
    let effects = member.computed();
    let to_3 = |effect: &Effect| match effect {
        Effect::SendChunk { to, exchange, phase, chunk, .. } if *to == peer(3) => Some((*exchange, *phase, *chunk)),
        _ => None,
    };
    let (exchange, phase, chunk) = effects.iter().find_map(to_3).expect("values for 3");
    assert_eq!(phase, Phase::Contribution);
    let run = member.run();
    member.bench.input(Input::BulkFailed { run, peer: peer(3), exchange, phase, chunk });
    let again = |effects: &[Effect]| effects.iter().filter_map(to_3).collect::<Vec<_>>();
    assert_eq!(again(&member.bench.pass(Duration::from_ms(500))), [], "not into the blue");
    member.beat(3);
    assert_eq!(again(&member.bench.pass(Duration::from_ms(500))), [(exchange, phase, chunk)]);
    assert_eq!(again(&member.bench.pass(Duration::from_ms(500))), [], "once");
}

#[test]
fn who_is_not_ready_in_time_leaves_and_the_others_begin() {
    let mut member = Member::confirmed(&[1, 2, 3]);
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    member.ready(2, "initial");
    let effects = member.wait(&[2, 3], 899, |_| false);
    assert_eq!(accused(&effects), None);
    let effects = member.wait(&[2, 3], 3, |effects| accused(effects).is_some());
    assert_eq!(accused(&effects), Some((AbortReason::NotReady, peer(3))));
    let view = member.view_without(&[3], Fate::Reduced);
    let effects = member.install(2, &view);
    assert!(asks(&effects, |effect| matches!(effect, Effect::Compute { exchange: 0, .. })));
}

#[test]
fn who_cannot_prepare_in_time_gives_up() {
    let mut member = Member::confirmed(&[1, 2, 3]);
    let effects = member.wait(&[2, 3], 1_000, |effects| closed(effects).is_some());
    assert_eq!(failure(&effects), Some((AbortReason::NotReady, peer(1))));
    assert!(prepared(&effects).is_none());
}
