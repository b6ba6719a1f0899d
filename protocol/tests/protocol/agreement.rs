//! The next view as one member finds it: as a voter, as the proposer, through
//! restarts; and what becomes of the exchange in which a view ends.

use crate::bench::{Bench, events, sent};
use crate::member::{
    Member, accused, asks, ballot, failures_to, hash, is_end, journalled, prepared, proposed, question, state_of, told,
    views,
};
use crate::samples::{identity, network, peer};
use manta_protocol::effect::{Entry, Pause};
use manta_protocol::input::Done;
use manta_protocol::run::Phase;
use manta_protocol::run::report::AbortReason;
use manta_protocol::run::view::{
    Accepted, Checkpoint, Fate, Handover, Holding, View, ViewAccept, ViewAsk, ViewInstall, ViewState,
};
use manta_protocol::wire::Message;
use manta_protocol::{Command, Config, Duration, Effect, Event, Input, Node};

const KEPT: Fate = Fate::Kept { handovers: Vec::new() };

impl Member {
    /// The connection to a member is lost, and so is the question whether it is there.
    fn crash(&mut self, number: u8) -> Vec<Effect> {
        let effects = self.bench.input(Input::PeerDisconnected { peer: peer(number) });
        let probe = failures_to(&effects, number).pop().expect("it asks whether it is there");
        self.bench.input(probe)
    }

    /// A member says that a view holds.
    fn hear_of(&mut self, from: u8, view: &View) -> Vec<Effect> {
        let install = ViewInstall { run: self.run(), view: view.clone() };
        self.say(from, &Message::ViewInstall(Box::new(install)))
    }
}

fn is_accept(message: &Message) -> bool {
    matches!(message, Message::ViewAccept(_))
}

fn is_apply(effect: &Effect) -> bool {
    matches!(effect, Effect::Apply { .. })
}

fn refused(effects: &[Effect]) -> bool {
    events(effects).iter().any(|event| matches!(event, Event::Refused { .. }))
}

/// What is promised is durable before it is said.
fn journalled_before(effects: &[Effect], said: impl Fn(&Message) -> bool) {
    let says = |effect: &Effect| sent(std::slice::from_ref(effect)).iter().any(|(_, message)| said(message));
    let written = effects.iter().position(|effect| matches!(effect, Effect::Journal { record: Some(_), .. }));
    let said = effects.iter().position(says).expect("it is said");
    assert!(written.is_some_and(|written| written < said), "{written:?} is not before {said}");
}

// ---- as a voter ----

#[test]
fn a_promise_never_goes_down() {
    let mut member = Member::started(&[1, 2, 3]);
    for (why, from, ballot, heeded) in [
        ("the first", 3, ballot(5, 3), true),
        ("a lower one", 2, ballot(4, 2), false),
        ("one as high, of a lower id", 2, ballot(5, 2), false),
        ("the same again", 3, ballot(5, 3), true),
        ("another's", 2, ballot(6, 3), false),
        ("a stranger's", 9, ballot(7, 9), false),
        ("a higher one", 2, ballot(6, 2), true),
        ("the first again", 3, ballot(5, 3), false),
    ] {
        let answer = state_of(&member.ask(from, ballot)).map(|state| state.ballot);
        assert_eq!(answer, heeded.then_some(ballot), "{why}");
    }
    let next = member.view_without(&[], KEPT);
    for (why, from, ballot, heeded) in [
        ("below the promise", 3, ballot(5, 3), false),
        ("as promised", 2, ballot(6, 2), true),
        ("another's", 2, ballot(7, 3), false),
        ("above the promise, though nobody asked", 3, ballot(8, 3), true),
        ("what was accepted before", 2, ballot(6, 2), false),
    ] {
        assert_eq!(told(&member.propose(from, ballot, &next), is_accept).len(), usize::from(heeded), "{why}");
    }
    assert_eq!(state_of(&member.ask(2, ballot(7, 2))), None, "who accepts promises");
}

#[test]
fn nothing_is_promised_before_it_is_written_down() {
    let mut member = Member::started(&[1, 2, 3]);
    journalled_before(&member.ask(2, ballot(1, 2)), |message| matches!(message, Message::ViewState(_)));
    let next = member.view_without(&[3], Fate::Reduced);
    journalled_before(&member.propose(2, ballot(1, 2), &next), is_accept);
    assert!(matches!(journalled(&member.install(2, &next)), Some(Some(_))), "the view itself, too");

    let mut member = Member::started_first(&[1, 3, 4]);
    let effects = member.crash(3);
    journalled_before(&effects, |message| matches!(message, Message::ViewAsk(_)));
    let ballot = question(&effects).expect("a question").ballot;
    let effects = member.answer(4, ballot, None, member.live());
    journalled_before(&effects, |message| matches!(message, Message::ViewPropose(_)));
    assert!(matches!(journalled(&member.accept(4, ballot)), Some(Some(_))));
}

#[test]
fn what_was_accepted_is_told_to_the_next_who_asks() {
    let mut member = Member::started(&[1, 2, 3]);
    assert_eq!(state_of(&member.ask(2, ballot(1, 2))).expect("an answer").accepted, None);
    let next = member.view_without(&[3], Fate::Reduced);
    member.propose(2, ballot(1, 2), &next);
    let state = state_of(&member.ask(3, ballot(2, 3))).expect("an answer");
    assert_eq!(state.accepted.as_deref(), Some(&Accepted { ballot: ballot(1, 2), view: next }));
}

#[test]
fn an_answer_says_what_is_held_and_who_cannot_be_reached() {
    let mut member = Member::started(&[1, 2, 3]);
    let expected = |member: &Member, sums, whole| {
        let (exchange, ledger) = (member.at, member.ledger.clone());
        Holding::Live { exchange, ledger, sums, whole }
    };
    let holding = |effects: &[Effect]| state_of(effects).expect("an answer").holding;
    let chunks = member.plan.chunks().div_ceil(8) as usize;
    assert_eq!(holding(&member.ask(2, ballot(1, 2))), expected(&member, vec![0; chunks], 0));
    member.computed();
    member.values(2);
    let (me, two) = (1 << member.rank(1), 1 << member.rank(2));
    assert_eq!(holding(&member.ask(2, ballot(2, 2))), expected(&member, vec![0; chunks], me | two));
    member.values(3);
    member.reduced();
    let mut sums = vec![0; chunks];
    member.owned(1).into_iter().for_each(|chunk| sums[chunk as usize / 8] |= 1 << (chunk % 8));
    assert_eq!(holding(&member.ask(2, ballot(3, 2))), expected(&member, sums, 0b111));
    member.bench.input(Input::PeerDisconnected { peer: peer(3) });
    let state = state_of(&member.ask(2, ballot(4, 2))).expect("an answer");
    assert_eq!(state.unreachable, 1 << member.rank(3), "as a bit for its place in the view");
}

#[test]
fn an_older_question_is_answered_with_the_newer_views() {
    let mut member = Member::started(&[1, 2, 3]);
    let first = member.view_without(&[], KEPT);
    member.install(2, &first);
    let second = View { number: 2, ..first.clone() };
    member.install(2, &second);
    member.bench.pass(Duration::from_ms(250));
    let ask = |view| ViewAsk { run: member.start.run, view, ballot: ballot(1, 3) };
    let (newest, oldest) = (Message::ViewAsk(ask(1)), Message::ViewAsk(ask(0)));
    let installs = |effects: &[Effect]| -> Vec<View> {
        let views = sent(effects).into_iter().filter_map(|(to, message)| match message {
            Message::ViewInstall(install) if to == peer(3) => Some(install.view),
            _ => None,
        });
        views.collect()
    };
    assert_eq!(installs(&member.say(3, &oldest)), [first, second.clone()], "in order");
    assert_eq!(installs(&member.say(3, &oldest)), [], "not for each question");
    member.bench.pass(Duration::from_ms(250));
    assert_eq!(installs(&member.say(3, &newest)), [second]);
}

#[test]
fn views_of_strangers_old_ones_and_impossible_ones_change_nothing() {
    let mut member = Member::started(&[1, 2, 3]);
    let next = member.view_without(&[3], Fate::Reduced);
    assert_eq!(views(&member.hear_of(9, &next)), [], "a stranger's");
    let first = View::first(&member.start.spec, &member.start.members);
    assert_eq!(views(&member.hear_of(2, &first)), [], "the one that holds");
    // With no full member the vector cannot be cut.
    let mut nobody = next.clone();
    nobody.members.iter_mut().for_each(|member| member.role = manta_protocol::run::view::Role::Listener);
    let far = View { number: u32::MAX, ..next.clone() };
    let late = View { from: u64::MAX, ..next.clone() };
    for (why, impossible) in [("nobody computes", nobody), ("far ahead", far), ("no such exchange", late)] {
        let effects = member.hear_of(2, &impossible);
        let blamed = asks(&effects, |effect| matches!(effect, Effect::Misbehaviour { .. }));
        assert!(views(&effects).is_empty() && blamed && refused(&effects), "{why}");
        let effects = member.propose(2, ballot(1, 2), &impossible);
        assert!(told(&effects, is_accept).is_empty(), "{why}");
    }
    let effects = member.propose(2, ballot(1, 2), &View { number: 2, plan: 2, ..next.clone() });
    assert!(told(&effects, is_accept).is_empty(), "not the successor");
    assert_eq!(views(&member.install(2, &next)).len(), 1);
}

#[test]
fn handovers_to_ranks_that_do_not_exist_are_harmless() {
    let mut member = Member::started(&[1, 2, 3]);
    let handovers = vec![Handover { first: 0, count: member.plan.chunks(), by: 16 }];
    let view = member.view_without(&[], Fate::Kept { handovers });
    member.hear_of(2, &view);
    member.view = view;
    member.exchange();
}

// ---- the exchange in which a view ends ----

#[test]
fn no_exchange_ends_between_the_promise_and_the_view() {
    let mut member = Member::started(&[1, 2, 3]);
    member.computed();
    member.values(2);
    member.values(3);
    member.reduced();
    member.ask(2, ballot(1, 2));
    let mut effects = member.sums(2);
    effects.extend(member.sums(3));
    effects.extend(member.bench.pass(Duration::from_ms(200)));
    assert!(!asks(&effects, is_apply), "the proposer counts on what it was told");
    let theirs = member.owned(3);
    let handover = Handover { first: theirs[0], count: theirs.len() as u32, by: member.rank(1) as u16 };
    let view = member.view_without(&[3], Fate::Kept { handovers: vec![handover] });
    let effects = member.install(2, &view);
    let batches = 3 * u64::from(member.start.spec.batches_per_exchange());
    assert!(asks(&effects, |effect| matches!(effect, Effect::Apply { batches: of, .. } if *of == batches)));
    let handed: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::SendChunk { to, phase: Phase::Sum, chunk, .. } if *to == peer(2) => Some(*chunk),
            _ => None,
        })
        .collect();
    assert_eq!(handed, theirs, "we send what 3 owed");
    let effects = member.applied();
    assert!(asks(&effects, |effect| matches!(effect, Effect::Compute { exchange: 1, plan: 1, .. })), "{effects:?}");
    member.exchange();
}

#[test]
fn an_exchange_that_is_being_applied_counts_as_over_and_the_next_waits() {
    let mut member = Member::started(&[1, 2, 3]);
    member.computed();
    member.values(2);
    member.values(3);
    member.reduced();
    member.sums(2);
    assert!(asks(&member.sums(3), is_apply));
    let state = state_of(&member.ask(2, ballot(1, 2))).expect("an answer");
    assert!(matches!(state.holding, Holding::Live { exchange: 1, .. }), "{:?}", state.holding);
    member.applied();
    member.computed();
    member.values(2);
    member.values(3);
    member.reduced();
    member.sums(2);
    assert!(!asks(&member.sums(3), is_apply));
    let view = View { from: 1, ledger: member.ledger.clone(), ..member.view_without(&[], KEPT) };
    assert!(asks(&member.install(2, &view), is_apply));
}

#[test]
fn sums_are_made_anew_without_a_lost_member() {
    let mut member = Member::started(&[1, 2, 3]);
    member.computed();
    member.values(2);
    member.values(3);
    let old_own = member.owned(1);
    member.reduced();
    let view = member.view_without(&[3], Fate::Reduced);
    let effects = member.install(2, &view);
    assert!(asks(&effects, |effect| matches!(effect, Effect::DropSums { exchange: 0, .. })));
    assert!(asks(&effects, |effect| matches!(effect, Effect::DropExchange { exchange: 1, .. })));
    let two = [peer(2), peer(1)];
    let again: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Reduce { view: 1, chunk, contributors, .. } if *contributors == two => Some(*chunk),
            _ => None,
        })
        .collect();
    assert_eq!(again, old_own);
    let late = Done::Reduced { exchange: 0, view: 0, chunk: old_own[0] };
    assert_eq!(member.done(late), [], "a sum of three is of no use");
    let theirs = member.owned(2)[0];
    let elements = member.elements(theirs);
    let effects = member.chunk_of_view(2, 0, 0, Phase::Sum, theirs, elements);
    assert_eq!(member.verdict(&effects), Some(false), "nor is one of another");
    // What 3 owned has new owners; 2's values of it come, and the rest of the exchange.
    let new: Vec<_> = member.owned(1).into_iter().filter(|chunk| !old_own.contains(chunk)).collect();
    assert!(!new.is_empty());
    for chunk in new {
        let effects = member.chunk(2, 0, Phase::Contribution, chunk);
        assert!(member.kept(&effects));
    }
    member.reduced();
    assert!(asks(&member.sums(2), |effect| matches!(effect, Effect::Apply { batches: 2, .. })));
    let effects = member.applied();
    let done = events(&effects).into_iter().find_map(|event| match event {
        Event::ExchangeDone { contributors, ledger, .. } => Some((contributors.clone(), ledger.clone())),
        _ => None,
    });
    assert_eq!(done, Some((two.to_vec(), view.ledger.clone())));
    assert_eq!((view.ledger.done(), view.ledger.next), (2, 3), "3's batch comes back");
    let batches = effects.iter().find_map(|effect| match effect {
        Effect::Compute { exchange: 1, plan: 1, batches, .. } => Some(batches.clone()),
        _ => None,
    });
    assert_eq!(batches, Some(view.ledger.assign(&[1, 1]).swap_remove(1)));
}

// ---- as the proposer ----

#[test]
fn the_first_member_asks_proposes_and_tells_what_holds() {
    let mut member = Member::started_first(&[1, 3, 4]);
    let effects = member.crash(3);
    assert_eq!(accused(&effects), Some((AbortReason::MemberLost, peer(3))));
    let ask = question(&effects).expect("a question");
    assert_eq!((ask.view, ask.ballot), (0, ballot(1, 1)));
    let effects = member.answer(4, ask.ballot, None, member.live());
    let propose = proposed(&effects).expect("a proposal");
    assert_eq!(propose.ballot, ask.ballot);
    assert_eq!(propose.next, member.view_without(&[3], Fate::Reduced));
    assert!(views(&effects).is_empty(), "one of three is no majority");
    let effects = member.accept(4, ask.ballot);
    let told = told(&effects, |message| matches!(message, Message::ViewInstall(_)));
    assert_eq!(told, [peer(4), peer(3)], "3, too: it may be there after all");
    assert_eq!(views(&effects).len(), 1);
}

#[test]
fn what_one_of_them_has_accepted_is_proposed_again_the_latest_if_there_are_several() {
    let mut member = Member::started_first(&[1, 3, 4, 7, 9]);
    let (earlier, later) = (member.view_without(&[7], Fate::Reduced), member.view_without(&[9], Fate::Reduced));
    // 7 has tried before.
    member.ask(7, ballot(8, 7));
    let effects = member.crash(9);
    let effects = if question(&effects).is_some() { effects } else { member.bench.pass(Duration::from_ms(250)) };
    let ballot_of_ours = question(&effects).expect("a question").ballot;
    assert_eq!(ballot_of_ours, ballot(9, 1), "above what we have heard of");
    let accepted =
        |counter, number, view: &View| Some(Accepted { ballot: ballot(counter, number), view: view.clone() });
    member.answer(4, ballot_of_ours, accepted(7, 4, &earlier), member.live());
    member.answer(7, ballot_of_ours, accepted(8, 7, &later), member.live());
    let effects = member.answer(3, ballot_of_ours, None, member.live());
    let propose = proposed(&effects).expect("a proposal");
    assert_eq!((propose.ballot, propose.next), (ballot_of_ours, later));
}

#[test]
fn unanswered_questions_and_proposals_are_said_again_and_tried_higher() {
    let mut member = Member::started_first(&[1, 3, 4]);
    let first = question(&member.crash(3)).expect("a question").ballot;
    let again = member.wait(&[4], 3, |_| false);
    assert!(told(&again, |message| matches!(message, Message::ViewAsk(_))).contains(&peer(4)));
    assert_eq!(question(&again).expect("again").ballot, first, "a question stays the same");
    assert!(proposed(&again).is_none(), "one of three knows too little");
    member.answer(4, first, None, member.live());
    let again = member.wait(&[4], 3, |effects| question(effects).is_some());
    assert!(proposed(&again).is_some(), "said again");
    let higher = question(&again).expect("somebody may hold another promise").ballot;
    assert!(higher > first);
    assert!(views(&member.accept(4, first)).is_empty(), "the old attempt is over");
    member.agree_with(&[4], &again);
}

#[test]
fn words_about_an_earlier_view_do_not_count_for_the_next() {
    let mut member = Member::started_first(&[1, 3, 4, 7, 9]);
    let (run, effects) = (member.run(), member.crash(9));
    let first = question(&effects).expect("a question");
    member.agree_with(&[4, 7, 3], &effects);
    let effects = member.crash(7);
    let second = question(&effects).expect("a question");
    assert_eq!((first.ballot, second.view), (second.ballot, 1), "attempts are counted anew in each view");
    let stale =
        ViewState { run, view: 0, ballot: first.ballot, accepted: None, unreachable: 0, holding: member.live() };
    for from in [4, 3] {
        let effects = member.say(from, &Message::ViewState(Box::new(stale.clone())));
        assert!(proposed(&effects).is_none(), "a promise about view 0 is none about view 1");
    }
    member.answer(4, second.ballot, None, member.live());
    assert!(proposed(&member.answer(3, second.ballot, None, member.live())).is_some());
    let accept = |view| Message::ViewAccept(ViewAccept { run, view, ballot: first.ballot });
    for from in [4, 3] {
        assert!(views(&member.say(from, &accept(0))).is_empty(), "nor is an acceptance");
    }
    assert_eq!(views(&member.say(4, &accept(1))).len(), 1, "half of four, the lowest among them");
}

#[test]
fn a_higher_ballot_ends_our_own_attempt() {
    let mut member = Member::started_first(&[1, 3, 4]);
    let ours = question(&member.crash(3)).expect("a question").ballot;
    assert!(state_of(&member.ask(4, ballot(2, 4))).is_some());
    assert!(proposed(&member.answer(4, ours, None, member.live())).is_none(), "we have promised 4 not to");
}

#[test]
fn ballots_that_are_far_ahead_are_not_heeded_so_that_there_is_always_a_higher_one() {
    const LEAD: u64 = 1 << 16;
    let mut member = Member::started_first(&[1, 3, 4]);
    let next = member.view_without(&[3], Fate::Reduced);
    for counter in [u64::MAX, u32::MAX.into(), LEAD + 1] {
        assert_eq!(state_of(&member.ask(4, ballot(counter, 4))), None, "{counter}");
        assert!(told(&member.propose(4, ballot(counter, 4), &next), is_accept).is_empty(), "{counter}");
    }
    assert!(state_of(&member.ask(4, ballot(LEAD, 4))).is_some());
    assert!(state_of(&member.ask(4, ballot(2 * LEAD, 4))).is_some(), "from there on");
    let effects = member.wait(&[3, 4], 5, |effects| question(effects).is_some());
    assert_eq!(question(&effects).expect("we go on").ballot, ballot(2 * LEAD + 1, 1));
}

// ---- through a restart ----

#[test]
fn a_restarted_member_keeps_its_promises_and_asks_to_come_in() {
    let mut member = Member::started(&[1, 2, 3]);
    let next = member.view_without(&[2], Fate::Reduced);
    member.ask(3, ballot(5, 3));
    let effects = member.propose(3, ballot(5, 3), &next);
    let record = journalled(&effects).flatten().expect("a record");
    let (mut member, effects) = member.restarted(record);
    let start = prepared(&effects).expect("it goes on");
    assert_eq!((start.entry, start.run), (Entry::Again { checkpoint: None }, member.run()));
    let effects = member.done(Done::Prepared { parameter_hash: hash("initial") });
    assert_eq!(told(&effects, |message| matches!(message, Message::Join(_))), [peer(2), peer(3)]);
    let paused = Event::RunPaused { run: member.run(), why: Pause::Restarted };
    assert!(events(&effects).contains(&&paused));
    assert_eq!(state_of(&member.ask(2, ballot(4, 2))), None, "the promise outlives the restart");
    assert!(told(&member.propose(2, ballot(4, 2), &next), is_accept).is_empty());
    let state = state_of(&member.ask(2, ballot(6, 2))).expect("an answer");
    assert_eq!(state.holding, Holding::Restarted { checkpoint: None });
    assert_eq!(state.accepted.as_deref(), Some(&Accepted { ballot: ballot(5, 3), view: next }), "so does its word");
}

/// After the first round, with a checkpoint on its disk and in its journal.
fn with_checkpoint() -> (Member, Vec<u8>, Checkpoint) {
    let mut member = Member::started(&[1, 2, 3]);
    member.wait(&[2, 3], 11, |_| false);
    member.round(0);
    let effects = member.all_report(0);
    assert!(asks(&effects, |effect| matches!(effect, Effect::Checkpoint { exchange: 2, .. })));
    let checkpoint = Checkpoint { exchange: 2, ledger: member.ledger.clone() };
    assert_eq!(member.done(Done::Checkpointed { exchange: 1 }), [], "not that one");
    let record = journalled(&member.done(Done::Checkpointed { exchange: 2 })).flatten().expect("a record");
    (member, record, checkpoint)
}

#[test]
fn after_a_power_cut_of_all_the_run_goes_on_from_the_checkpoint() {
    let (member, record, checkpoint) = with_checkpoint();
    let (mut member, effects) = member.restarted(record);
    assert_eq!(prepared(&effects).expect("it goes on").entry, Entry::Again { checkpoint: Some(2) });
    member.done(Done::Prepared { parameter_hash: hash("after 0") });
    let state = state_of(&member.ask(2, ballot(1, 2))).expect("an answer");
    assert_eq!(state.holding, Holding::Restarted { checkpoint: Some(checkpoint.clone()) });
    let first = View::first(&member.start.spec, &member.start.members);
    let view = View { number: 1, plan: 1, from: 2, ledger: checkpoint.ledger, ..first };
    let effects = member.hear_of(2, &view);
    assert!(asks(&effects, |effect| matches!(effect, Effect::Compute { exchange: 2, plan: 1, .. })), "{effects:?}");
}

#[test]
fn a_checkpoint_that_is_damaged_is_none() {
    let (member, record, _) = with_checkpoint();
    let (mut member, _) = member.restarted(record);
    let effects = member.done(Done::StateNotLoaded { exchange: 2 });
    assert!(matches!(journalled(&effects), Some(Some(_))));
    member.done(Done::Prepared { parameter_hash: hash("initial") });
    let state = state_of(&member.ask(2, ballot(1, 2))).expect("an answer");
    assert_eq!(state.holding, Holding::Restarted { checkpoint: None });
}

#[test]
fn records_that_are_damaged_or_not_ours_are_refused() {
    let record = journalled(&Member::started(&[1, 2, 3]).ask(2, ballot(1, 2))).flatten().expect("a record");
    let resume = |record: &[u8]| Input::Command(Command::Resume { record: record.to_vec() });
    for damaged in [&record[..record.len() - 1], &record[..1], &[], &[record.clone(), vec![0]].concat()] {
        let effects = Bench::new().input(resume(damaged));
        assert!(refused(&effects) && prepared(&effects).is_none(), "{} bytes", damaged.len());
    }
    for byte in (0..record.len()).step_by(7) {
        // Some bytes are names, and any name will do; none may bring the node down.
        let mut damaged = record.clone();
        damaged[byte] ^= 0x80;
        let effects = Bench::new().input(resume(&damaged));
        assert!(refused(&effects) || prepared(&effects).is_some() || is_end(&damaged), "byte {byte}");
    }
    let mut other = Bench::new();
    other.node = Node::new(Config { network: network(), identity: identity(2) }, other.now);
    assert!(refused(&other.input(resume(&record))), "of another peer");
    let mut bench = Bench::new();
    assert!(prepared(&bench.input(resume(&record))).is_some());
    assert!(refused(&bench.input(resume(&record))), "a run goes on already");
}
