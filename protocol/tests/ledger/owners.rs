//! One person with many keys.

use crate::bench::{Bench, Manner, parameters};
use manta_protocol::PeerId;
use manta_protocol::ledger::{Action, Admission, Agreement, Parameters, Register};

/// Puts `worker` under the owner `owner` with the owner's consent.
fn adopt(bench: &mut Bench, worker: usize, owner: usize) {
    let (peer, by) = (bench.peer(worker), bench.workers[owner].identity.clone());
    let nonce = bench.pool.next_nonce(&bench.state, &peer);
    let countersignature = (worker != owner).then(|| Register::countersign(&by, &bench.state.ledger(), &peer, nonce));
    let vrf = bench.workers[worker].identity.vrf().public();
    let register = Register { vrf, owner: by.peer_id(), countersignature, class: 0 };
    let transaction = bench.counted(worker, Action::Register(register));
    assert_eq!(bench.send(transaction), Admission::New);
}

#[test]
fn keys_of_one_owner_have_one_seat_a_task() {
    let mut bench = Bench::honest(3);
    bench.steps(2);
    adopt(&mut bench, 1, 0);
    adopt(&mut bench, 2, 0);
    bench.step();
    let before = bench.state.height();
    bench.steps(30);
    let later = bench.state.tasks().chain(bench.state.settled().map(|settled| &settled.task));
    let later = later.filter(|task| task.stages[0].opened > before + 2).count();
    assert_eq!(later, 0, "one owner cannot agree with itself: no task is drawn for it alone");
}

#[test]
fn two_keys_of_an_owner_never_meet_in_a_task() {
    let parameters = Parameters { trust_after: 1_000, trust_max: 1_000, ..parameters(Agreement::Escalate) };
    let mut bench = Bench::new(&[Manner::Honest; 5], parameters);
    bench.steps(2);
    adopt(&mut bench, 1, 0);
    bench.steps(60);
    let pair = [bench.peer(0), bench.peer(1)];
    let both = |seats: Vec<PeerId>| pair.iter().all(|peer| seats.contains(peer));
    let recent: Vec<_> = bench.state.settled().filter(|settled| settled.task.stages[0].opened > 6).collect();
    assert!(recent.len() > 20);
    for settled in recent {
        assert!(!both(settled.task.seats.iter().map(|seat| seat.worker).collect()));
    }
    assert!(pair.iter().all(|peer| {
        bench.state.power(peer).unwrap().record.real(manta_protocol::power::Branch::Drilling).0 > 1_000_000
    }));
}

#[test]
fn to_change_owners_before_a_lie_is_found_saves_nothing() {
    let parameters = Parameters { trust_after: 1_000, trust_max: 1_000, ..parameters(Agreement::Escalate) };
    let mut bench = Bench::new(&[Manner::Honest; 5], parameters);
    adopt(&mut bench, 1, 0);
    bench.steps(30);
    let owner = bench.peer(0);
    assert!(bench.state.trust(&owner).streak > 0);
    // One key of the owner lies; then it goes to an owner of its own at once.
    bench.workers[1].manner = Manner::Liar;
    let since = bench.state.height();
    let has_lied = |bench: &Bench| {
        let mut tasks = bench.state.tasks().filter(|task| task.stages[0].opened > since);
        tasks.any(|task| task.seat(&bench.peer(1)).is_some_and(|seat| seat.owner == owner))
    };
    while !has_lied(&bench) {
        bench.step();
    }
    adopt(&mut bench, 1, 1);
    bench.steps(25);
    assert!(bench.state.trust(&owner).faults > 0, "the owner of then is at fault");
    for settled in bench.state.settled() {
        let of_key = settled.task.seats.iter().filter(|seat| seat.worker == bench.peer(1)).count();
        assert!(of_key <= 1, "nor does it give the key a second seat");
    }
}
