//! Ends that are told, forgotten and bounded.

use super::*;
use crate::ids::NetworkId;
use crate::wire::Identity;

const NOW: Time = Time(1_790_000_000_000_000_000);

fn identity(number: u8) -> Identity {
    Identity::from_secret([number; 32])
}

fn me() -> PeerId {
    identity(1).peer_id()
}

fn owner() -> PeerId {
    identity(2).peer_id()
}

fn run(number: u8) -> RunId {
    RunId([number; 32])
}

fn out() -> Outbox {
    Outbox::new(identity(1), NetworkId::from_name("ends"))
}

/// The run of this number, which ended at that many milliseconds.
fn over(number: u8, kept: bool) -> Over {
    let at = NOW + Duration::from_ms(number.into());
    Over { run: run(number), owner: owner(), me: me(), at, end: End::Well { root: Hash::of(b"model"), kept } }
}

fn effects(out: &mut Outbox) -> Vec<Effect> {
    std::iter::from_fn(|| out.poll_effect()).collect()
}

fn frames(out: &mut Outbox) -> usize {
    effects(out).iter().filter(|effect| matches!(effect, Effect::SendFrame { to, .. } if *to == owner())).count()
}

#[test]
fn an_owner_is_told_less_and_less_often_until_it_says_that_it_has_the_result() {
    let (mut ends, mut out) = (Ends::default(), out());
    ends.add(over(1, true), NOW, &mut out);
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let due = ends.timeout().expect("it is to be told");
        ends.tell(Time(due.0 - 1), &mut out);
        assert_eq!(frames(&mut out), 0, "not before its time");
        ends.tell(due, &mut out);
        assert_eq!(frames(&mut out), 1);
        pauses.push(due.since(now).as_ms() / 1_000);
        now = due;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    ends.met(identity(3).peer_id(), now);
    assert_eq!(ends.timeout(), Some(now + TELL_PAUSE_MAX), "another peer does not matter");
    ends.met(owner(), now);
    assert_eq!(ends.timeout(), Some(now + TELL_FIRST), "the owner is back");

    ends.finished_there(run(1), identity(3).peer_id(), now, &mut out);
    assert_eq!(effects(&mut out), [], "another keeper's word is not the owner's");
    ends.finished_there(run(1), owner(), now, &mut out);
    let effects = effects(&mut out);
    let kept = Record::Over(Over { end: End::Well { root: Hash::of(b"model"), kept: false }, ..over(1, true) });
    let journal = Effect::Journal { run: run(1), record: Some(kept.encode()) };
    assert_eq!(effects, [journal, Effect::DropResult { run: run(1) }]);
    assert_eq!((ends.timeout(), ends.word(run(1), owner())), (None, None));
    assert!(matches!(ends.word(run(1), me()), Some(Message::Finished(_))), "the others still hear of the end");
}

#[test]
fn an_owner_that_has_left_is_not_told_any_more_and_its_result_stays() {
    let (mut ends, mut out) = (Ends::default(), out());
    ends.add(over(1, true), NOW, &mut out);
    ends.left_there(run(1), identity(3).peer_id());
    assert!(ends.timeout().is_some());
    ends.left_there(run(1), owner());
    assert_eq!((ends.timeout(), effects(&mut out)), (None, Vec::new()));
    assert!(matches!(ends.word(run(1), owner()), Some(Message::Finished(_))), "it may ask all the same");
}

#[test]
fn what_is_restored_is_kept_and_told_again() {
    let (mut ends, mut out) = (Ends::default(), out());
    ends.restore(over(1, true), NOW, &mut out);
    let (root, owner) = (Hash::of(b"model"), owner());
    assert_eq!(effects(&mut out), [Effect::KeepResult { run: run(1), root, owner }]);
    assert!(ends.timeout().is_some());
    ends.restore(over(2, false), NOW, &mut out);
    assert!(ends.is_over(run(2)) && effects(&mut out).is_empty());
}

#[test]
fn the_owner_answers_who_tells_it_once_it_has_the_result() {
    let (mut ends, mut out) = (Ends::default(), out());
    ends.add(Over { owner: me(), ..over(1, true) }, NOW, &mut out);
    assert_eq!(ends.timeout(), None, "it tells nobody by itself");
    ends.finished_there(run(1), owner(), NOW, &mut out);
    assert_eq!(frames(&mut out), 1);
}

#[test]
fn the_oldest_results_and_then_the_oldest_ends_make_room() {
    let (mut ends, mut out) = (Ends::default(), out());
    // Latest first: what counts is when they ended.
    for number in (1..=6).rev() {
        ends.add(over(number, true), NOW, &mut out);
    }
    let kept =
        |ends: &Ends| ends.runs.values().filter(|over| over.is_kept_for_owner()).map(|over| over.run.0[0]).collect();
    let results: Vec<u8> = kept(&ends);
    assert_eq!(results, [3, 4, 5, 6]);
    assert_eq!(ends.telling.len(), RESULTS_KEPT_MAX);
    effects(&mut out);
    for number in 7..7 + RUNS_OVER_MAX as u8 {
        ends.add(over(number, false), NOW, &mut out);
    }
    assert_eq!(ends.runs.len(), RUNS_OVER_MAX);
    let results: Vec<u8> = kept(&ends);
    assert_eq!(results, [3, 4, 5, 6], "ends go before results");
    let forgotten: Vec<_> = effects(&mut out).into_iter().collect();
    let expected = [1, 2, 7, 8, 9, 10].map(|number| Effect::Journal { run: run(number), record: None });
    assert_eq!(forgotten, expected);
}
