//! One member, step by step.

use crate::bench::{Bench, own_votes, value};
use manta_protocol::consensus::{Input, NIL, Output, Step, Worth};
use manta_protocol::{Duration, Hash};

fn journal_first(outputs: &[Output]) -> bool {
    let journal = outputs.iter().position(|output| matches!(output, Output::Journal(_)));
    let said = |output: &Output| matches!(output, Output::GossipVotes(_) | Output::GossipProposal(_));
    journal.is_some() && journal < outputs.iter().position(said)
}

#[test]
fn a_proposal_is_checked_then_prevoted_then_precommitted_then_decided() {
    let mut bench = Bench::drawn_in(&[5]);
    let (me, good) = (bench.peer(0), Hash::of(&value(1)));
    let others = [1, 2, 3];
    let proposal = bench.proposal(bench.drawn(0), 0, 0, &value(1));

    bench.input(Input::Proposal(Box::new(proposal))).unwrap();
    let outputs = bench.outputs();
    assert!(matches!(&outputs[..], [Output::CheckValue { height: 1, .. }]), "no vote before the verdict: {outputs:?}");

    bench.input(Input::ValueChecked { value: good, valid: true }).unwrap();
    let outputs = bench.outputs();
    assert!(journal_first(&outputs), "{outputs:?}");
    assert_eq!(own_votes(&outputs, me), [(0, Step::Prevote, good)]);

    for (place, want) in others.into_iter().zip([&[][..], &[(0, Step::Precommit, good)], &[]]) {
        bench.hear_votes(vec![bench.vote(place, 0, Step::Prevote, good)]).unwrap();
        let outputs = bench.outputs();
        assert_eq!(own_votes(&outputs, me), want, "after the prevote of {place}");
        assert!(want.is_empty() || journal_first(&outputs));
    }
    assert_eq!(bench.engine.progress().locked, Some((0, good)));

    bench.hear_votes(vec![bench.vote(1, 0, Step::Precommit, good)]).unwrap();
    assert_eq!(bench.outputs(), []);
    bench.hear_votes(vec![bench.vote(2, 0, Step::Precommit, good)]).unwrap();
    let outputs = bench.outputs();
    let [Output::Decided { certificate, bytes }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((certificate.height, certificate.round, certificate.value), (1, 0, good));
    assert_eq!(bytes, &value(1));
    assert_eq!(bench.engine.timeout(), None, "nothing is waited for once it is decided");
}

#[test]
fn an_unacceptable_value_gets_no_vote() {
    let mut bench = Bench::drawn_in(&[5]);
    let (me, bad) = (bench.peer(0), Hash::of(&value(1)));
    let proposal = bench.proposal(bench.drawn(0), 0, 0, &value(1));
    bench.input(Input::Proposal(Box::new(proposal))).unwrap();
    bench.input(Input::ValueChecked { value: bad, valid: false }).unwrap();
    assert_eq!(own_votes(&bench.outputs(), me), [(0, Step::Prevote, NIL)]);
}

/// Bound in round 0 while the others gave up, the member keeps to its value and
/// proposes it again when it is drawn, with the quorum that it rests on.
#[test]
fn a_locked_value_is_kept_and_proposed_again_with_its_quorum() {
    let mut bench = Bench::drawn_in(&[2]);
    let (me, first) = (bench.peer(0), Hash::of(&value(1)));
    let proposal = bench.proposal(bench.drawn(0), 0, 0, &value(1));
    bench.hear_good(proposal);
    bench.hear_votes(vec![bench.vote(1, 0, Step::Prevote, first), bench.vote(2, 0, Step::Prevote, first)]).unwrap();
    assert_eq!(own_votes(&bench.outputs(), me), [(0, Step::Precommit, first)]);

    // Crash and all, it stays bound. The others saw no quorum.
    bench.restart();
    bench.outputs();
    assert_eq!(bench.engine.progress().locked, Some((0, first)));
    bench.hear_votes((1..4).map(|place| bench.vote(place, 0, Step::Precommit, NIL)).collect()).unwrap();
    bench.outputs();
    bench.pass(250);
    assert_eq!(bench.engine.progress().round, Some(1));

    // Another value is refused, for we are bound.
    let other = bench.proposal(bench.drawn(1), 1, 0, &value(2));
    assert_eq!(own_votes(&bench.hear_good(other), me), [(1, Step::Prevote, NIL)]);
    bench.hear_votes((1..4).map(|place| bench.vote(place, 1, Step::Prevote, NIL)).collect()).unwrap();
    bench.hear_votes((1..4).map(|place| bench.vote(place, 1, Step::Precommit, NIL)).collect()).unwrap();
    bench.outputs();
    let outputs = bench.pass(10_000);
    assert_eq!(bench.engine.progress().round, Some(2));

    let proposed = outputs.iter().find_map(|output| match output {
        Output::GossipProposal(proposal) => Some(proposal),
        _ => None,
    });
    let proposed = proposed.expect("our value again");
    assert_eq!((proposed.round, proposed.value, proposed.polka_round()), (2, first, Some(0)));
    assert_eq!(proposed.bytes, value(1));
    let quorum = outputs.iter().find_map(|output| match output {
        Output::GossipVotes(votes) if votes.votes.len() == 3 => Some(votes),
        _ => None,
    });
    let quorum = quorum.expect("the quorum of round 0 goes with it");
    assert!(quorum.votes.iter().all(|vote| (vote.round, vote.step, vote.value) == (0, Step::Prevote, first)));
}

/// Votes of long gone rounds are let go, but not what binds us.
#[test]
fn what_binds_a_member_outlasts_any_number_of_rounds() {
    let mut bench = Bench::drawn_in(&[3]);
    let (me, first) = (bench.peer(0), Hash::of(&value(1)));
    let proposal = bench.proposal(bench.drawn(0), 0, 0, &value(1));
    bench.hear_good(proposal);
    bench.hear_votes(vec![bench.vote(1, 0, Step::Prevote, first), bench.vote(2, 0, Step::Prevote, first)]).unwrap();
    let mut proposed = Vec::new();
    for round in 0..80 {
        let outputs = bench.outputs();
        let mine = outputs.iter().filter_map(|output| match output {
            Output::GossipProposal(proposal) => Some((proposal.round, proposal.value, proposal.polka_round())),
            _ => None,
        });
        let mine: Vec<_> = mine.filter(|(of, ..)| *of == round).collect();
        if bench.drawn(round) == 0 && round > 0 {
            assert_eq!(mine[0], (round, first, Some(0)));
            assert!(own_votes(&outputs, me).contains(&(round, Step::Prevote, first)), "and votes for it itself");
            proposed.push(round);
        }
        if round > 0 {
            bench.hear_votes((1..4).map(|place| bench.vote(place, round, Step::Prevote, NIL)).collect()).unwrap();
        }
        bench.hear_votes((1..4).map(|place| bench.vote(place, round, Step::Precommit, NIL)).collect()).unwrap();
        bench.engine.tick(bench.now);
        bench.now = bench.now + Duration::from_s(30);
        bench.engine.tick(bench.now);
        assert_eq!(bench.engine.progress().round, Some(round + 1));
        assert_eq!(bench.engine.progress().locked, Some((0, first)));
        if round == 60 {
            bench.outputs();
            bench.restart();
        }
    }
    assert!(proposed.iter().filter(|round| **round > 40).count() > 2, "{proposed:?}");
}

#[test]
fn bound_by_nothing_a_member_accepts_an_earlier_value_only_with_its_quorum() {
    let mut bench = Bench::drawn_in(&[5]);
    let (me, first) = (bench.peer(0), Hash::of(&value(1)));
    // Round 0 passes without us.
    bench.hear_votes((1..3).map(|place| bench.vote(place, 1, Step::Prevote, NIL)).collect()).unwrap();
    bench.outputs();
    assert_eq!(bench.engine.progress().round, Some(1));
    let proposal = bench.proposal(bench.drawn(1), 1, 1, &value(1));
    assert_eq!(own_votes(&bench.hear_good(proposal), me), [], "round 0 may have had no quorum");
    // One of the quorum told us something else before: its vote counts nonetheless.
    bench.hear_votes(vec![bench.vote(3, 0, Step::Prevote, NIL)]).unwrap();
    assert_eq!(own_votes(&bench.outputs(), me), []);
    bench.hear_votes((1..4).map(|place| bench.vote(place, 0, Step::Prevote, first)).collect()).unwrap();
    let outputs = bench.outputs();
    assert!(outputs.iter().any(|output| matches!(output, Output::Evidence(_))));
    assert_eq!(own_votes(&outputs, me), [(1, Step::Prevote, first)]);
}

#[test]
fn the_drawn_member_asks_for_a_value_and_proposes_it_once() {
    let mut bench = Bench::drawn_in(&[0]);
    assert_eq!(bench.outputs(), [Output::BuildValue { height: 1, round: 0 }]);
    bench.input(Input::ValueBuilt { height: 1, round: 0, bytes: value(1) }).unwrap();
    let outputs = bench.outputs();
    assert!(journal_first(&outputs));
    assert_eq!(own_votes(&outputs, bench.peer(0)), [(0, Step::Prevote, Hash::of(&value(1)))]);
    // A second answer, another height's and nonsense change nothing.
    for (height, bytes) in [(1, value(2)), (2, value(1)), (1, Vec::new())] {
        bench.input(Input::ValueBuilt { height, round: 0, bytes }).unwrap();
        assert_eq!(bench.outputs(), []);
    }
}

#[test]
fn silence_is_answered_by_saying_it_again_ever_more_rarely() {
    let mut bench = Bench::drawn_in(&[5]);
    let me = bench.peer(0);
    let said: Vec<_> = (0..600).map(|_| own_votes(&bench.pass(100), me)).collect();
    let times: Vec<_> = (0..600).filter(|at| !said[*at].is_empty()).collect();
    assert!(said.iter().flatten().all(|vote| *vote == (0, Step::Prevote, NIL)), "alone, no round is left");
    assert!((8..40).contains(&times.len()), "{times:?}");
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.last() >= gaps.first() && gaps.iter().all(|gap| *gap <= 49), "{gaps:?}");
}

#[test]
fn whoever_is_seen_in_an_earlier_round_is_led_out_of_it() {
    let mut bench = Bench::drawn_in(&[5]);
    // Out of round 0 by the precommits of three.
    bench.pass(500);
    bench.hear_votes((1..4).map(|place| bench.vote(place, 0, Step::Prevote, NIL)).collect()).unwrap();
    bench.hear_votes((1..3).map(|place| bench.vote(place, 0, Step::Precommit, NIL)).collect()).unwrap();
    bench.outputs();
    bench.pass(250);
    assert_eq!(bench.engine.progress().round, Some(1));
    let shown = |outputs: &[Output]| {
        outputs.iter().any(|output| matches!(output, Output::GossipVotes(votes) if votes.votes.len() == 3))
    };
    assert!(!shown(&bench.pass(2_000)), "nobody seems to need it");
    let late = bench.vote(3, 0, Step::Prevote, NIL);
    assert_eq!(bench.hear_votes(vec![late]), Ok(Worth::Known));
    assert!(shown(&bench.pass(5_000)), "the votes that led out of round 0");
}

#[test]
fn a_missed_proposal_is_asked_for_and_taken_from_anyone() {
    let mut bench = Bench::drawn_in(&[5]);
    let (me, wanted) = (bench.peer(0), Hash::of(&value(7)));
    bench.pass(500);
    bench.hear_votes((1..4).map(|place| bench.vote(place, 0, Step::Prevote, wanted)).collect()).unwrap();
    let outputs = bench.pass(1_000);
    let asked = outputs.iter().find_map(|output| match output {
        Output::WantProposal { ask, holders } => Some((*ask, holders.clone())),
        _ => None,
    });
    let (asked, holders) = asked.expect("three voted for something that we never saw");
    assert_eq!((asked.height, asked.round, asked.value, holders.len()), (1, 0, wanted, 3));
    let proposal = bench.proposal(bench.drawn(0), 0, 0, &value(7));
    let outputs = bench.hear_good(proposal);
    assert!(own_votes(&outputs, me).is_empty(), "our prevote was given and stands");
    assert!(bench.engine.proposal(&asked).is_some());
}

#[test]
fn what_comes_before_its_height_waits_for_it() {
    let mut bench = Bench::drawn_in(&[0]);
    bench.outputs();
    let mut early = bench.vote(1, 0, Step::Prevote, NIL);
    early.height = 2;
    early.signature = early.statement(&crate::swarm::chain_id()).sign(&bench.identities[1]);
    assert_eq!(bench.hear_votes(vec![early]), Ok(Worth::New));
    assert_eq!(bench.hear_votes(vec![early]), Ok(Worth::Known));
    let mut start = bench.engine.start().clone();
    start.height = 2;
    start.parent_time_ms = bench.now.as_unix_ms();
    bench.engine.advance(start, bench.now);
    let heard = bench.engine.progress();
    assert_eq!((heard.round, heard.heard_weight), (None, 2), "heard, and the epoch is waited for");
    bench.outputs();
    bench.pass(999);
    assert_eq!(bench.engine.progress().round, None);
    bench.pass(1);
    assert_eq!(bench.engine.progress().round, Some(0));
}

#[test]
fn more_than_a_third_awake_wakes_a_slow_clock() {
    let mut bench = Bench::drawn_in(&[5]);
    bench.now = bench.now + Duration::from_ms(10);
    let mut start = bench.engine.start().clone();
    start.height = 2;
    start.parent_time_ms = bench.now.as_unix_ms() + 400;
    bench.engine.advance(start, bench.now);
    for (place, begun) in [(1, None), (2, Some(0))] {
        let mut vote = bench.vote(place, 0, Step::Prevote, NIL);
        vote.height = 2;
        vote.signature = vote.statement(&crate::swarm::chain_id()).sign(&bench.identities[place]);
        bench.hear_votes(vec![vote]).unwrap();
        assert_eq!(bench.engine.progress().round, begun);
    }
}

#[test]
fn a_log_that_has_gone_further_silences_the_heights_before() {
    let mut bench = Bench::drawn_in(&[0]);
    bench.outputs();
    bench.input(Input::ValueBuilt { height: 1, round: 0, bytes: value(1) }).unwrap();
    bench.outputs();
    // The block before was lost with its certificate, the log was not.
    let mut start = bench.engine.start().clone();
    start.height = 0;
    let config = crate::bench::config(&bench.identities[0]);
    let mut engine = manta_protocol::consensus::Engine::new(config, start, &bench.log, bench.now).unwrap();
    engine.tick(bench.now + Duration::from_s(60));
    assert_eq!(std::iter::from_fn(|| engine.poll()).count(), 0, "nothing is signed for a height already left");
}

#[test]
fn a_word_of_ours_that_the_log_does_not_know_silences_us_for_the_height() {
    let mut bench = Bench::drawn_in(&[5]);
    let (me, said) = (bench.peer(0), Hash::of(&value(9)));
    assert!(!bench.engine.progress().stands_by);
    let echo = bench.vote(0, 0, Step::Precommit, said);
    bench.hear_votes(vec![echo]).unwrap();
    assert!(bench.engine.progress().stands_by);
    // What bound us then is unknown, so not even a later round is voted in.
    let proposal = bench.proposal(bench.drawn(0), 0, 0, &value(1));
    assert_eq!(own_votes(&bench.hear_good(proposal), me), []);
    assert_eq!(own_votes(&bench.pass(60_000), me), []);
    // The next height is another matter.
    let mut start = bench.engine.start().clone();
    start.height = 2;
    bench.engine.advance(start, bench.now);
    assert!(!bench.engine.progress().stands_by);
    assert_eq!(own_votes(&bench.pass(500), me), [(0, Step::Prevote, NIL)]);
}

#[test]
fn whoever_else_signs_with_our_key_silences_us_and_is_not_accused() {
    let mut bench = Bench::drawn_in(&[5]);
    let me = bench.peer(0);
    assert_eq!(own_votes(&bench.pass(500), me), [(0, Step::Prevote, NIL)]);
    let copy = bench.vote(0, 0, Step::Prevote, Hash::of(&value(3)));
    assert_eq!(bench.hear_votes(vec![copy]), Ok(Worth::Known));
    assert!(bench.engine.progress().stands_by);
    assert_eq!(bench.outputs(), []);
    bench.hear_votes((1..4).map(|place| bench.vote(place, 0, Step::Prevote, NIL)).collect()).unwrap();
    assert_eq!(own_votes(&bench.outputs(), me), [], "no precommit");
}

/// Records cut from the middle are no log of ours: what is left does not explain
/// the precommit, and nothing is signed on top of it.
#[test]
fn a_log_that_does_not_explain_our_precommit_silences_us() {
    let mut bench = Bench::drawn_in(&[5]);
    let (me, first) = (bench.peer(0), Hash::of(&value(1)));
    let proposal = bench.proposal(bench.drawn(0), 0, 0, &value(1));
    bench.hear_good(proposal);
    bench.hear_votes(vec![bench.vote(1, 0, Step::Prevote, first), bench.vote(2, 0, Step::Prevote, first)]).unwrap();
    bench.outputs();
    assert_eq!(bench.log.len(), 2, "one record for the prevote, one for the precommit");
    bench.log.remove(0);
    bench.restart();
    assert!(bench.engine.progress().stands_by);
    let other = bench.proposal(bench.drawn(1), 1, 0, &value(2));
    bench.hear_votes((1..4).map(|place| bench.vote(place, 1, Step::Prevote, NIL)).collect()).unwrap();
    assert_eq!(own_votes(&bench.hear_good(other), me), []);
}
