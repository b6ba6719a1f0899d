//! Uptime: who answers is reliable, who does not is not.

use crate::bench::Manner::Honest;
use crate::bench::{Bench, parameters};
use manta_protocol::PeerId;
use manta_protocol::ledger::{Action, Admission, Agreement, Parameters, ProbeResult, Refusal};

fn probing() -> Bench {
    let parameters =
        Parameters { probe_interval_ms: 1_000, tasks_per_1000_owners: 0, ..parameters(Agreement::Escalate) };
    let mut bench = Bench::new(&[Honest; 4], parameters);
    bench.probes = true;
    bench
}

#[test]
fn reliability_is_what_elected_checkers_found() {
    let mut bench = probing();
    bench.workers[2].answers = false;
    bench.steps(40);
    let permille = |peer: PeerId| bench.state.reliability(&peer).unwrap().permille();
    assert_eq!(
        (0..4).map(|worker| permille(bench.peer(worker))).collect::<Vec<_>>(),
        [Some(1000), Some(1000), Some(0), Some(1000)]
    );
    let probes: u64 = (0..4).map(|worker| bench.state.reliability(&bench.peer(worker)).unwrap().probed_ever).sum();
    // Four are expected a height, one for each peer.
    assert!((100..220).contains(&probes), "{probes} probes in 40 heights");
}

#[test]
fn a_peer_that_comes_back_is_reliable_again_by_and_by() {
    let mut bench = probing();
    bench.workers[2].answers = false;
    bench.steps(20);
    bench.workers[2].answers = true;
    bench.steps(60);
    let permille = bench.state.reliability(&bench.peer(2)).unwrap().permille().unwrap();
    assert!((500..1000).contains(&permille), "{permille}");
}

#[test]
fn a_checker_neither_chooses_nor_repeats_nor_invents() {
    let mut bench = probing();
    bench.probes = false;
    bench.steps(3);
    let height = bench.state.height();
    let election = bench.state.probe_election(height).unwrap();
    let elected = (0..4).find_map(|worker| {
        let (output, proof) = bench.workers[worker].prove(&election.input);
        let me = bench.peer(worker);
        (election.seats(&me, &output) > 0).then_some((worker, output, proof))
    });
    let Some((checker, output, proof)) = elected else { panic!("four seats were expected, none was won") };
    let me = bench.peer(checker);
    let target = election.target(&me, &output, 0).unwrap();
    assert_ne!(target, me);
    let beacon = bench.state.beacon().0;
    let by = |bench: &Bench, peer: PeerId| bench.workers.iter().position(|worker| worker.peer() == peer).unwrap();
    let reply = |bench: &Bench, from: PeerId| {
        let identity = &bench.workers[by(bench, from)].identity;
        Some(ProbeResult::reply(identity, &bench.state.ledger(), &beacon, &me))
    };
    let right = ProbeResult { height, seat: 0, proof, reply: reply(&bench, target) };
    let wrong_target = ProbeResult { reply: reply(&bench, me), ..right };
    let another_seat = ProbeResult { seat: 16, ..right };
    let another = (checker + 1) % 4;
    let refused = |bench: &Bench, worker: usize, result: ProbeResult| {
        let transaction = bench.workers[worker].sign(&bench.state, 0, Action::Probe(result));
        bench.state.build(&bench.workers[0].identity, [&transaction], bench.now_ms + 1).unwrap().transactions.is_empty()
    };
    assert!(refused(&bench, checker, wrong_target), "the reply is not the target's");
    assert!(refused(&bench, checker, another_seat), "it has not won so many seats");
    assert!(refused(&bench, another, right), "the proof is not this one's");
    assert!(!refused(&bench, checker, right));
    let transaction = bench.workers[checker].sign(&bench.state, 0, Action::Probe(right));
    assert_eq!(bench.send(transaction), Admission::New);
    bench.step();
    assert_eq!(bench.state.reliability(&target).unwrap().answered_ever, 1);
    assert!(refused(&bench, checker, right), "each seat counts once");
    bench.steps(6);
    let late = bench.workers[checker].sign(&bench.state, 0, Action::Probe(ProbeResult { reply: None, ..right }));
    assert_eq!(bench.send(late), Admission::Refused(Refusal::NoProbe(height)));
}
