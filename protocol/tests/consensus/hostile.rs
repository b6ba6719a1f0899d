//! What strangers and lying members can make a member do: little, and bounded.

use crate::bench::{Bench, value};
use crate::swarm::chain_id;
use manta_protocol::consensus::{
    Evidence, EvidenceError, Input, NIL, Output, Proposal, ProposalAsk, Refusal, Step, Worth,
};
use manta_protocol::wire::Identity;
use manta_protocol::{Hash, Seed};

fn refused(bench: &mut Bench, proposal: Proposal) -> Refusal {
    bench.input(Input::Proposal(Box::new(proposal))).expect_err("refused")
}

#[test]
fn what_no_honest_peer_passes_on_is_refused() {
    let mut bench = Bench::drawn_in(&[5]);
    let drawn = bench.drawn(0);
    let wrong = (drawn % 3) + 1;
    let wrong = if wrong == drawn { (wrong % 3) + 1 } else { wrong };
    let good = bench.proposal(drawn, 0, 0, &value(1));

    let stranger = Identity::from_secret([99; 32]);
    let mut vote = bench.vote(1, 0, Step::Prevote, NIL);
    vote.author = stranger.peer_id();
    vote.signature = vote.statement(&chain_id()).sign(&stranger);
    assert_eq!(bench.hear_votes(vec![vote]), Err(Refusal::NotMember(stranger.peer_id())));

    let mut vote = bench.vote(1, 0, Step::Prevote, NIL);
    vote.round = 1;
    assert_eq!(bench.hear_votes(vec![vote]), Err(Refusal::BadSignature(bench.peer(1))));
    // Signed for another chain.
    let mut vote = bench.vote(1, 0, Step::Prevote, NIL);
    vote.signature = vote.statement(&Hash::of(b"another ledger")).sign(&bench.identities[1]);
    assert_eq!(bench.hear_votes(vec![vote]), Err(Refusal::BadSignature(bench.peer(1))));

    let undrawn = bench.proposal(wrong, 0, 0, &value(1));
    let expected = Refusal::NotProposer { found: bench.peer(wrong), expected: bench.peer(drawn) };
    assert_eq!(refused(&mut bench, undrawn), expected);
    assert_eq!(refused(&mut bench, Proposal { polka: 7, ..good.clone() }), Refusal::BadSignature(bench.peer(drawn)));
    let other_bytes = Proposal { bytes: value(2), ..good.clone() };
    assert_eq!(refused(&mut bench, other_bytes), Refusal::WrongBytes(good.value));
    assert_eq!(refused(&mut bench, Proposal { bytes: vec![1], ..good.clone() }), Refusal::WrongBytes(good.value));
    assert_eq!(bench.outputs(), [], "none of it had any effect");
    assert_eq!(bench.input(Input::Proposal(Box::new(good.clone()))), Ok(Worth::New));
    assert_eq!(bench.input(Input::Proposal(Box::new(good))), Ok(Worth::Known));
}

#[test]
fn a_new_value_is_of_its_proposers_own_making() {
    let mut bench = Bench::drawn_in(&[5]);
    let built_by = |place: usize, bench: &Bench| [&value(1)[..], bench.peer(place).as_bytes()].concat();
    let (drawn, next) = (bench.drawn(0), bench.drawn(1));
    let lender = (1..4).find(|place| *place != drawn && *place != next).unwrap();
    let lent = built_by(lender, &bench);
    let proposal = bench.proposal(drawn, 0, 0, &lent);
    let value = proposal.value;
    assert_eq!(refused(&mut bench, proposal), Refusal::WrongBytes(value));
    let own = bench.proposal(drawn, 0, 0, &built_by(drawn, &bench));
    assert_eq!(bench.input(Input::Proposal(Box::new(own))), Ok(Worth::New));
    // With an earlier quorum behind it, anyone may propose it again.
    let again = bench.proposal(next, 1, 1, &lent);
    assert_eq!(bench.input(Input::Proposal(Box::new(again))), Ok(Worth::New));
}

#[test]
fn whoever_says_two_things_is_named_once_with_proof() {
    let mut bench = Bench::drawn_in(&[5]);
    bench.outputs();
    let values: Vec<_> = (0..50u8).map(|n| Hash::of(&value(n))).collect();
    for value in &values {
        bench.hear_votes(vec![bench.vote(1, 0, Step::Prevote, *value)]).unwrap();
    }
    let outputs = bench.outputs();
    let proofs: Vec<_> = outputs.iter().filter(|output| matches!(output, Output::Evidence(_))).collect();
    let [Output::Evidence(proof)] = proofs[..] else { panic!("{proofs:?}") };
    assert_eq!(proof.author, bench.peer(1));
    assert_eq!(proof.verify(&chain_id()), Ok(()));
}

#[test]
fn a_proposer_that_proposes_without_end_fills_one_place() {
    let mut bench = Bench::drawn_in(&[5]);
    let drawn = bench.drawn(0);
    let mut checks = 0;
    let mut proofs = 0;
    for number in 0..100 {
        let proposal = bench.proposal(drawn, 0, 0, &value(number));
        bench.input(Input::Proposal(Box::new(proposal))).unwrap();
        for output in bench.outputs() {
            checks += usize::from(matches!(output, Output::CheckValue { .. }));
            proofs += usize::from(matches!(output, Output::Evidence(_)));
        }
    }
    assert_eq!((checks, proofs), (1, 1), "one value is judged, one proof is enough");
    let ask = |n: u8| ProposalAsk { chain: chain_id(), height: 1, round: 0, value: Hash::of(&value(n)) };
    let kept = (0..100).filter(|n| bench.engine.proposal(&ask(*n)).is_some()).count();
    assert_eq!(kept, 1);
}

#[test]
fn one_member_alone_moves_nobody_to_another_round_or_height() {
    let mut bench = Bench::drawn_in(&[5]);
    for round in 1..2_000 {
        bench.hear_votes(vec![bench.vote(1, round, Step::Prevote, NIL)]).unwrap();
    }
    assert_eq!(bench.engine.progress().round, Some(0));
    // Only its latest words are remembered: with one more member there, too, they count.
    bench.hear_votes(vec![bench.vote(2, 3, Step::Prevote, NIL)]).unwrap();
    assert_eq!(bench.engine.progress().round, Some(0));
    bench.hear_votes(vec![bench.vote(2, 1_999, Step::Prevote, NIL)]).unwrap();
    assert_eq!(bench.engine.progress().round, Some(1_999));
}

#[test]
fn messages_for_later_heights_are_bounded_for_each_author() {
    let mut bench = Bench::drawn_in(&[5]);
    let mut kept = 0;
    for round in 0..100 {
        let mut vote = bench.vote(1, round, Step::Prevote, NIL);
        vote.height = 2;
        vote.signature = vote.statement(&chain_id()).sign(&bench.identities[1]);
        kept += usize::from(bench.hear_votes(vec![vote]) == Ok(Worth::New));
        vote.height = 3;
        assert_eq!(bench.hear_votes(vec![vote]), Ok(Worth::Elsewhere));
        vote.height = 0;
        assert_eq!(bench.hear_votes(vec![vote]), Ok(Worth::Elsewhere), "the past is answered by nothing");
    }
    assert_eq!(kept, 4);
}

#[test]
fn evidence_convicts_liars_only() {
    let bench = Bench::drawn_in(&[5]);
    let chain = chain_id();
    let signed = |vote: manta_protocol::consensus::Vote| (vote.statement(&chain), vote.signature);
    let one = signed(bench.vote(1, 0, Step::Prevote, NIL));
    let two = signed(bench.vote(1, 0, Step::Prevote, Hash::of(b"x")));
    let proof = Evidence::new(bench.peer(1), two, one).unwrap();
    assert_eq!(Some(proof), Evidence::new(bench.peer(1), one, two), "one pair has one form");
    assert_eq!(proof.verify(&chain), Ok(()));

    // Voting differently in two rounds or steps is no lie.
    for harmless in [bench.vote(1, 1, Step::Prevote, NIL), bench.vote(1, 0, Step::Precommit, NIL)] {
        assert_eq!(Evidence::new(bench.peer(1), signed(harmless), two), None);
    }
    assert_eq!(Evidence::new(bench.peer(1), one, one), None);

    let elsewhere = Hash::of(b"another ledger");
    assert_eq!(proof.verify(&elsewhere), Err(EvidenceError::OtherChain { found: chain, expected: elsewhere }));
    let framed = Evidence { author: bench.peer(2), ..proof };
    assert_eq!(framed.verify(&chain), Err(EvidenceError::BadSignature(bench.peer(2))));
    let mut forged = proof;
    forged.second.value = Hash::of(b"y");
    assert!(forged.verify(&chain).is_err());
    let turned = Evidence { first: proof.second, second: proof.first, ..proof };
    assert!(matches!(turned.verify(&chain), Err(EvidenceError::Malformed(_))));
}

/// Any mix of messages of the other members, in any order, with any fields in
/// their limits: nothing panics, timers lie ahead, and what is said is logged first.
#[test]
fn random_words_of_others_never_break_a_member() {
    for seed in 0..40 {
        let chance = Seed::from_number(seed);
        let mut bench = Bench::drawn_in(&[2]);
        let values = [NIL, Hash::of(&value(0)), Hash::of(&value(1)), Hash::of(&value(2))];
        for turn in 0..80 {
            let draw = |label, bound| chance.below(label, turn, bound);
            let place = 1 + draw("who", 3) as usize;
            let round = draw("round", 4) as u32;
            match draw("what", 8) {
                0..4 => {
                    let step = if draw("step", 2) == 0 { Step::Prevote } else { Step::Precommit };
                    let vote = bench.vote(place, round, step, values[draw("value", 4) as usize]);
                    bench.hear_votes(vec![vote]).unwrap();
                }
                4 => {
                    let drawn = bench.drawn(round);
                    let polka = draw("polka", u64::from(round) + 1) as u32;
                    let proposal = bench.proposal(drawn, round, polka, &value(draw("value", 3) as u8));
                    if drawn != 0 {
                        bench.input(Input::Proposal(Box::new(proposal))).unwrap();
                    }
                }
                5 => {
                    let value = values[1 + draw("value", 3) as usize];
                    bench.input(Input::ValueChecked { value, valid: draw("valid", 3) > 0 }).unwrap();
                }
                6 => {
                    bench.input(Input::ValueBuilt { height: 1, round, bytes: value(draw("value", 3) as u8) }).unwrap();
                }
                _ => {
                    bench.pass(draw("ms", 1_500));
                }
            }
            bench.outputs();
            assert!(bench.engine.timeout().is_none_or(|at| at > bench.now), "seed {seed}, turn {turn}");
            if bench.engine.timeout().is_some() && draw("restart", 10) == 0 {
                bench.restart();
                bench.outputs();
            }
        }
    }
}
