//! A committee that has left for good is replaced where owners say so, and
//! nowhere else.

use crate::trust::{Swarm, s};
use manta_protocol::consensus::{Committee, Plan, Recovery, RecoveryReply, Seal};
use manta_protocol::trust::words::LedgerStatus;
use manta_protocol::wire::{Identity, Message};
use manta_protocol::{Command, Duration, Event, Hash, Input, NetworkId, Node, PeerId};

/// A swarm of five of which two have left for good, and the three who wait.
fn waiting(seed: u64) -> (Swarm, [PeerId; 2], [PeerId; 3]) {
    let mut swarm = Swarm::new(seed);
    let peers = swarm.found(5);
    swarm.run(s(10));
    let (gone, left) = peers.split_at(2);
    let committee = swarm.ledger(&left[0]).next_committee().clone();
    let weight: u64 = gone.iter().map(|peer| committee.weight(peer)).sum();
    assert!(!committee.is_quorum(committee.total() - weight), "without them there is no quorum");
    gone.iter().for_each(|peer| swarm.kill(*peer));
    swarm.run(s(40));
    (swarm, [gone[0], gone[1]], [left[0], left[1], left[2]])
}

fn consented(swarm: &Swarm, plan: &Plan, by: &[PeerId]) -> Recovery {
    Recovery::new(plan.clone(), by.iter().map(|peer| plan.consent(&swarm.identities[peer])).collect())
}

fn recover(swarm: &mut Swarm, peer: PeerId, recovery: &Recovery) {
    swarm.input(peer, Input::Command(Command::Recover(Box::new(recovery.clone()))));
}

fn chain(swarm: &Swarm, peer: &PeerId) -> Hash {
    swarm.ledger(peer).chain()
}

fn told(swarm: &Swarm, peer: &PeerId, is_it: impl Fn(&Event) -> bool) -> usize {
    swarm.peers[peer].events.iter().filter(|event| is_it(event)).count()
}

fn differs(event: &Event) -> bool {
    matches!(event, Event::LedgersDiffer { .. })
}

#[test]
fn who_is_left_goes_on_and_everyone_else_decides_for_itself() {
    let (mut swarm, gone, [first, second, third]) = waiting(21);
    let height = swarm.ledger(&first).height();
    let missing = swarm.peers[&first].node.as_ref().and_then(Node::ledger_progress).expect("a ledger").missing;
    assert_eq!(missing.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), gone);

    let plan = swarm.ledger(&first).recovery_plan(&[first, second]).unwrap();
    let name = plan.new_chain();
    let lacking = consented(&swarm, &plan, &[first]);
    recover(&mut swarm, first, &lacking);
    let refused = |event: &Event| matches!(event, Event::Refused { why } if why.contains("has not consented"));
    assert_eq!((told(&swarm, &first, refused), chain(&swarm, &first)), (1, swarm.ledger(&first).ledger()));

    // One owner says so; the other new member's has signed it; the third peer's has not said anything.
    let whole = consented(&swarm, &plan, &[first, second]);
    recover(&mut swarm, first, &whole);
    assert_eq!(chain(&swarm, &first), name);
    swarm.run(s(40));
    assert_eq!(chain(&swarm, &second), name, "what it has signed it follows");
    assert!(swarm.ledger(&first).height() >= height + 20, "{} after {height}", swarm.ledger(&first).height());
    assert_eq!((swarm.ledger(&third).height(), chain(&swarm, &third)), (height, swarm.ledger(&third).ledger()));
    let offered = |event: &Event| matches!(event, Event::RecoveryOffered { recovery, .. } if *recovery == name);
    assert_eq!(told(&swarm, &third, offered), 1);
    let offer = swarm.peers[&third].node.as_ref().map(|node| node.recovery_offers().to_vec()).unwrap();
    assert_eq!(offer, [whole]);

    recover(&mut swarm, third, &offer[0]);

    // It comes back without its owner's word: it waits where the old committee ended.
    let gone = gone[0];
    swarm.start(gone);
    swarm.run(s(20));
    assert_eq!((swarm.ledger(&gone).height(), told(&swarm, &gone, offered)), (height, 1));
    recover(&mut swarm, gone, &offer[0]);
    // A newcomer gets the old blocks, and asks its owner, too.
    let newcomer = swarm.join(9);
    swarm.run(s(30));
    assert_eq!((swarm.ledger(&newcomer).height(), told(&swarm, &newcomer, offered)), (height, 1));
    recover(&mut swarm, newcomer, &offer[0]);
    swarm.run(s(30));
    assert!(swarm.agreed_height() >= height + 80, "{} after {height}", swarm.agreed_height());
    assert!(swarm.running().all(|peer| chain(&swarm, &peer) == name && told(&swarm, &peer, differs) == 0));
    let weighs = |peer: &PeerId| swarm.ledger(&first).weight(peer).is_some();
    assert!(weighs(&third) && weighs(&gone), "who is back takes part again");
}

#[test]
fn a_recovery_outlives_restarts() {
    let (mut swarm, _, [first, second, _]) = waiting(22);
    let plan = swarm.ledger(&first).recovery_plan(&[first, second]).unwrap();
    let recovery = consented(&swarm, &plan, &[first, second]);
    recover(&mut swarm, first, &recovery);
    // Killed before a block follows, and after some.
    for _ in 0..2 {
        swarm.kill(first);
        swarm.start(first);
        assert_eq!(chain(&swarm, &first), plan.new_chain());
        swarm.run(s(15));
        assert!(swarm.ledger(&first).height() >= plan.height + 5, "{}", swarm.ledger(&first).height());
    }
    assert_eq!(swarm.peers[&first].disk.recoveries.len(), 1);
    swarm.kill(first);
    swarm.peers.get_mut(&first).unwrap().disk.recoveries.clear();
    swarm.start(first);
    let unreadable = |event: &Event| matches!(event, Event::LedgerUnreadable { .. });
    assert_eq!(told(&swarm, &first, unreadable), 1, "its blocks do not follow without it");
}

#[test]
fn a_side_that_recovers_while_the_other_goes_on_is_told_and_never_merges() {
    let mut swarm = Swarm::new(23);
    let peers = swarm.found(4);
    swarm.run(s(10));
    let committee = swarm.ledger(&peers[0]).next_committee().clone();
    let least = committee.weights().iter().min_by_key(|(_, weight)| *weight).expect("a committee").0;
    assert!(committee.is_quorum(committee.total() - committee.weight(&least)), "the others go on without it");
    swarm.cut_off.insert(least);
    swarm.run(s(30));
    let plan = swarm.ledger(&least).recovery_plan(&[least]).unwrap();
    let recovery = consented(&swarm, &plan, &[least]);
    recover(&mut swarm, least, &recovery);
    swarm.run(s(20));
    assert!(swarm.ledger(&least).height() >= plan.height + 10);
    assert!(peers.iter().all(|peer| told(&swarm, peer, differs) == 0), "nobody knows yet");
    swarm.cut_off.clear();
    swarm.run(s(30));
    for peer in &peers {
        assert_eq!(told(&swarm, peer, differs), 1, "{peer:?} is told");
        let expected = if *peer == least { plan.new_chain() } else { swarm.ledger(peer).ledger() };
        assert_eq!(chain(&swarm, peer), expected);
        assert!(swarm.peers[peer].node.as_ref().is_some_and(|node| node.other_ledger().is_some()));
    }
    // Nor does anybody follow by command what does not continue its own chain.
    let other = *peers.iter().find(|peer| **peer != least).expect("three others");
    let before = chain(&swarm, &other);
    recover(&mut swarm, other, &recovery);
    assert_eq!(chain(&swarm, &other), before);
}

#[test]
fn two_recoveries_of_one_ledger_are_two_ledgers() {
    let (mut swarm, _, [first, second, third]) = waiting(24);
    let mut plans = Vec::new();
    for peer in [first, third] {
        let plan = swarm.ledger(&peer).recovery_plan(&[peer]).unwrap();
        let recovery = consented(&swarm, &plan, &[peer]);
        recover(&mut swarm, peer, &recovery);
        plans.push(plan);
    }
    swarm.run(s(60));
    let chains = [chain(&swarm, &first), chain(&swarm, &third)];
    assert_eq!(chains, [plans[0].new_chain(), plans[1].new_chain()]);
    assert!(told(&swarm, &first, differs) == 1 && told(&swarm, &third, differs) == 1);
    // Whose owner has said nothing sees both, and waits.
    let node = swarm.peers[&second].node.as_ref().expect("it runs");
    assert_eq!((node.recovery_offers().len(), chain(&swarm, &second)), (2, swarm.ledger(&second).ledger()));
    let height = swarm.ledger(&second).height();
    let chosen = consented(&swarm, &plans[1], &[third]);
    recover(&mut swarm, second, &chosen);
    swarm.run(s(20));
    assert!(chain(&swarm, &second) == chains[1] && swarm.ledger(&second).height() > height + 20);
    assert_eq!(told(&swarm, &second, differs), 1, "the other one is another ledger now");
}

/// A stranger says that it is on a chain of its own, and how it came there.
fn claim(swarm: &mut Swarm, to: PeerId, stranger: u8, recovery: Option<Recovery>) {
    let (chain, ledger) = (chain(swarm, &to), swarm.ledger(&to).ledger());
    let identity = Identity::from_secret([stranger; 32]);
    let (network, seq) = (NetworkId::from_name("trust"), swarm.now.as_unix_ms());
    let seal = |message: &Message| identity.seal(network, seq, swarm.now + Duration::from_s(5), message);
    let status = LedgerStatus { ledger, height: 400, alone: false, chain: Hash::of(&[stranger]) };
    let gossip = Input::Gossip { message: 1, bytes: seal(&Message::LedgerStatus(status)) };
    let reply = Message::RecoveryReply(Box::new(RecoveryReply { chain, recovery }));
    let frame = Input::Frame { from: identity.peer_id(), bytes: seal(&reply) };
    // Said before anybody asked, it is not heard.
    swarm.input(to, frame.clone());
    swarm.input(to, gossip);
    swarm.input(to, frame);
}

#[test]
fn what_strangers_make_up_is_refused_and_offers_are_few() {
    let (mut swarm, gone, left) = waiting(25);
    let (me, before) = (left[0], chain(&swarm, &left[0]));
    let offers = |swarm: &Swarm| swarm.peers[&me].node.as_ref().expect("it runs").recovery_offers().to_vec();
    let plan = |swarm: &Swarm, members: &[PeerId]| swarm.ledger(&me).recovery_plan(members).unwrap();

    let stranger = Identity::from_secret([1; 32]);
    let others = plan(&swarm, &[left[1]]);
    let own = Plan { committee: Committee::new(vec![(stranger.peer_id(), 1)]).unwrap(), ..others.clone() };
    let forged = Seal { author: left[1], ..others.consent(&stranger) };
    let with_me = plan(&swarm, &[me, left[1]]);
    let made_up = [
        (Recovery::new(own.clone(), vec![own.consent(&stranger)]), "has no key in this ledger"),
        (Recovery::new(others.clone(), vec![forged]), "does not fit"),
        (Recovery::new(others.clone(), Vec::new()), "has not consented"),
        (consented(&swarm, &with_me, &[left[1]]), "has not consented"),
        (consented(&swarm, &Plan { chain: Hash::of(b"x"), ..others.clone() }, &[left[1]]), "another chain"),
    ];
    for (number, (recovery, why)) in (1..).zip(made_up) {
        claim(&mut swarm, me, number, Some(recovery));
        let refused = |event: &Event| matches!(event, Event::Refused { why: found } if found.contains(why));
        assert!(told(&swarm, &me, refused) > 0, "{why}");
    }
    assert!(offers(&swarm).is_empty());

    // Old members may sign what they like: what is kept is bounded, the best backed first.
    let all = [gone[0], gone[1], left[1], left[2]];
    for subset in 1..16u8 {
        let members: Vec<_> = (0..4).filter(|member| subset & (1 << member) != 0).map(|member| all[member]).collect();
        let recovery = consented(&swarm, &plan(&swarm, &members), &members);
        claim(&mut swarm, me, 100 + subset, Some(recovery));
    }
    let kept = offers(&swarm);
    assert_eq!((kept.len(), kept[0].plan.committee.weights().len()), (8, 4));
    claim(&mut swarm, me, 200, None);
    swarm.run(s(5));
    assert_eq!((chain(&swarm, &me), offers(&swarm)), (before, kept), "nothing follows from any of it");
}
