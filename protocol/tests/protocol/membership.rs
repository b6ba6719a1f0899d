//! Membership: credentials that count and that do not, invite-only swarms, and
//! whose machines may see a user's data.

use crate::bench::{Bench, events, published, sent};
use crate::samples::{NOW, bearer, credential, identity, listing, network, peer, permitted, reserve, revocation, spec};
use manta_protocol::effect::{Exclusion, Verdict};
use manta_protocol::input::{Command, Wish};
use manta_protocol::market::demand::Share;
use manta_protocol::market::matching::Mismatch;
use manta_protocol::market::reservation::{Answer, ReserveReply};
use manta_protocol::membership::{
    Charter, Credential, Genesis, Hello, PermissionError, Presence, Revocation, Revocations, Role, SignedPermission,
};
use manta_protocol::run::report::AbortReason;
use manta_protocol::wire::limits::{MEMBERS_KNOWN_MAX, PEERS_PER_PERMISSION_MAX, STRANGERS_MAX};
use manta_protocol::wire::{Identity, Message};
use manta_protocol::{Config, Duration, Effect, Event, Hash, Input, NetworkId, Node, OrderId, PeerId, Serial, Time};
use proptest::prelude::*;

/// The founder of the invite-only swarms below; the node under test is 1.
const FOUNDER: u8 = 9;
const ORDER: OrderId = OrderId(1);

fn hello(credentials: Vec<Credential>, revocations: Vec<Revocation>) -> Message {
    Message::Hello(Hello { credentials, revocations })
}

/// Member 1 of an invite-only swarm.
fn member() -> Bench {
    let credentials = vec![credential(FOUNDER, Role::Guest, 1, 1)];
    Bench::with_charter(Charter { founder: Some(peer(FOUNDER)), credentials, ..Charter::default() })
}

fn offer(bench: &mut Bench) -> Vec<Effect> {
    bench.input(Input::Command(Command::Offer(Box::new(listing()))))
}

fn wish(members: u16, share: Share) -> Wish {
    Wish {
        members_min: members,
        members_max: members,
        memory_bytes: 1 << 28,
        disk_bytes: 1 << 20,
        duration_s: 600,
        patience_ms: 1_000,
        deadline_ms: 10_000,
        share,
    }
}

fn order(bench: &mut Bench, wish: Wish) -> Vec<Effect> {
    bench.input(Input::Command(Command::Order { order: ORDER, spec: Box::new(spec()), wish }))
}

fn shut_out(effects: &[Effect]) -> Vec<(PeerId, Exclusion)> {
    let out = effects.iter().filter_map(|effect| match effect {
        Effect::Disconnect { peer, why } => Some((*peer, *why)),
        _ => None,
    });
    out.collect()
}

fn verdict(effects: &[Effect]) -> Option<Verdict> {
    effects.iter().find_map(|effect| match effect {
        Effect::GossipVerdict { verdict, .. } => Some(*verdict),
        _ => None,
    })
}

fn asked(effects: &[Effect]) -> Vec<PeerId> {
    sent(effects).into_iter().filter(|(_, m)| matches!(m, Message::Reserve(_))).map(|(to, _)| to).collect()
}

fn confirmed(effects: &[Effect]) -> Vec<PeerId> {
    sent(effects).into_iter().filter(|(_, m)| matches!(m, Message::Confirm(_))).map(|(to, _)| to).collect()
}

fn says_yes(bench: &mut Bench, from: u8) -> Vec<Effect> {
    let request = bench.requests[&peer(from)];
    bench.frame(from, &Message::ReserveReply(ReserveReply { spec: spec().hash(), request, answer: Answer::Accepted }))
}

// ---- signatures ----

#[test]
fn a_credential_counts_for_its_holder_in_its_swarm_until_it_ends() {
    let good = credential(2, Role::Own, 3, 4);
    let end = good.permission().expires_at;
    assert_eq!(good.verify(network(), peer(4), NOW), Ok(()));
    assert_eq!(good.verify(network(), peer(4), Time(end.0 - 1)), Ok(()));
    assert_eq!(good.verify(network(), peer(4), end), Err(PermissionError::Expired(peer(2))));
    assert_eq!(good.verify(network(), peer(5), NOW), Err(PermissionError::WrongHolder(peer(5))), "stolen");
    let elsewhere = NetworkId::from_name("elsewhere");
    let wrong = PermissionError::WrongNetwork { found: network(), expected: elsewhere };
    assert_eq!(good.verify(elsewhere, peer(4), NOW), Err(wrong));
    let not_bearer = Credential::bind(permitted(2, Role::Own, 3), &bearer(4), peer(4));
    assert_eq!(not_bearer, Err(PermissionError::NotBearer), "a ticket without its secret is worth nothing");
}

#[test]
fn every_field_of_a_permission_is_signed() {
    let good = credential(2, Role::Guest, 3, 4);
    let forged = Err(PermissionError::Forged(peer(2)));
    let changed = |change: &dyn Fn(&mut Credential)| {
        let mut credential = good;
        change(&mut credential);
        credential.verify(network(), peer(4), NOW)
    };
    assert_eq!(changed(&|c| c.permitted.permission.role = Role::Own), forged, "a guest is no owner");
    assert_eq!(changed(&|c| c.permitted.permission.serial.0[0] ^= 1), forged, "a revoked serial stays revoked");
    assert_eq!(changed(&|c| c.permitted.permission.bearer = bearer(9).peer_id()), forged);
    assert_eq!(changed(&|c| c.permitted.permission.expires_at.0 += 1), forged, "nobody lengthens it");
    assert_eq!(
        changed(&|c| c.permitted.permission.issuer = peer(9)),
        Err(PermissionError::Forged(peer(9))),
        "nobody invites in another's name"
    );
    let mine = SignedPermission::issue(
        &identity(4),
        network(),
        Serial([3; 16]),
        Role::Own,
        bearer(3).peer_id(),
        good.permission().expires_at,
    );
    assert_eq!(changed(&|c| c.permitted.signature = mine.signature), forged);
}

#[test]
fn a_revocation_is_its_issuers_word_on_one_permission_of_one_swarm() {
    let good = revocation(2, 3);
    assert_eq!(good.verify(network()), Ok(()));
    let forged = Err(PermissionError::Forged(peer(2)));
    assert_eq!(good.verify(NetworkId::from_name("elsewhere")), forged);
    assert_eq!(Revocation { serial: Serial([4; 16]), ..good }.verify(network()), forged);
    assert_eq!(Revocation { expires_at: Time(good.expires_at.0 - 1), ..good }.verify(network()), forged);
    let by_other = Revocation { issuer: peer(3), ..good };
    assert_eq!(by_other.verify(network()), Err(PermissionError::Forged(peer(3))));
}

#[test]
fn each_founder_and_name_is_a_swarm_of_its_own() {
    let genesis = |name: &str, founder| Genesis { name: name.into(), founder: peer(founder) };
    let id = genesis("lab", 1).network_id();
    assert_ne!(id, genesis("lab", 2).network_id());
    assert_ne!(id, genesis("Lab", 1).network_id());
    assert_ne!(id, NetworkId::from_name("lab"));
    assert!(genesis(&"x".repeat(65), 1).validate().is_err() && genesis("a\nb", 1).validate().is_err());
}

// ---- invite-only swarms ----

#[test]
fn a_member_shows_its_credential_before_its_offer() {
    let mut bench = member();
    let effects = offer(&mut bench);
    let shown = Message::Presence(Presence { credentials: vec![credential(FOUNDER, Role::Guest, 1, 1)] });
    let said = published(&effects);
    let place = |which: &dyn Fn(&Message) -> bool| said.iter().position(which).expect("it is said");
    assert!(place(&|m| *m == shown) < place(&|m| matches!(m, Message::Listing(_))), "{said:?}");
    let effects = bench.input(Input::PeerConnected { peer: peer(3) });
    let greetings: Vec<_> = sent(&effects);
    assert_eq!(greetings, [(peer(3), hello(vec![credential(FOUNDER, Role::Guest, 1, 1)], vec![]))]);
    assert!(sent(&bench.input(Input::PeerConnected { peer: peer(3) })).is_empty(), "once is enough");
    let said = published(&bench.pass(Duration::from_s(121)));
    assert!(said.iter().filter(|message| **message == shown).count() >= 2, "said again each minute");
}

#[test]
fn strangers_are_not_heard_and_shut_out_after_a_grace() {
    let mut bench = member();
    offer(&mut bench);
    bench.pass(Duration::from_s(1));
    bench.input(Input::PeerConnected { peer: peer(2) });
    let effects = bench.gossip(2, &Message::Listing(listing()));
    assert_eq!(verdict(&effects), Some(Verdict::Ignore));
    assert_eq!(bench.node.listings().count(), 1, "only the own offer");
    assert!(sent(&bench.frame(2, &Message::Reserve(reserve()))).is_empty(), "not even refused");
    let effects = bench.pass(Duration::from_ms(9_999));
    assert!(shut_out(&effects).is_empty());
    let effects = bench.pass(Duration::from_ms(1));
    assert_eq!(shut_out(&effects), [(peer(2), Exclusion::NotInvited)]);
}

#[test]
fn an_invited_peer_is_heard_and_stays() {
    let mut bench = member();
    offer(&mut bench);
    bench.pass(Duration::from_s(1));
    bench.input(Input::PeerConnected { peer: peer(2) });
    let effects = bench.frame(2, &hello(vec![credential(FOUNDER, Role::Guest, 2, 2)], vec![]));
    assert!(events(&effects).iter().any(|event| matches!(event, Event::Admitted { peer: who, .. } if *who == peer(2))));
    assert_eq!(verdict(&bench.gossip(2, &Message::Listing(listing()))), Some(Verdict::Accept));
    assert_eq!(sent(&bench.frame(2, &Message::Reserve(reserve()))).len(), 1, "its request is answered");
    bench.input(Input::PeerConnected { peer: peer(FOUNDER) });
    assert_eq!(shut_out(&bench.pass(Duration::from_s(30))), [], "the founder needs no credential");
    assert_eq!(verdict(&bench.gossip(FOUNDER, &Message::Listing(listing()))), Some(Verdict::Accept));
}

#[test]
fn presence_is_passed_on_if_it_admits_and_makes_us_speak_again() {
    let mut bench = member();
    offer(&mut bench);
    bench.pass(Duration::from_s(3));
    let bad = Presence { credentials: vec![credential(8, Role::Own, 2, 2)] };
    assert_eq!(verdict(&bench.gossip(2, &Message::Presence(bad))), Some(Verdict::Ignore), "not of the founder");
    let stolen = Presence { credentials: vec![credential(FOUNDER, Role::Guest, 2, 3)] };
    assert_eq!(verdict(&bench.gossip(2, &Message::Presence(stolen))), Some(Verdict::Ignore));
    let good = Message::Presence(Presence { credentials: vec![credential(FOUNDER, Role::Guest, 2, 2)] });
    let mut effects = bench.gossip(2, &good);
    assert_eq!(verdict(&effects), Some(Verdict::Accept));
    effects.extend(bench.pass(Duration::from_s(1)));
    assert!(
        published(&effects).iter().any(|message| matches!(message, Message::Listing(_))),
        "2 may have ignored ours"
    );
    let bytes = bench.seal(2, &good);
    let again = |bench: &mut Bench| verdict(&bench.input(Input::Gossip { message: 1, bytes: bytes.clone() }));
    assert_eq!(again(&mut bench), Some(Verdict::Accept));
    assert_eq!(again(&mut bench), Some(Verdict::Ignore), "a replay goes nowhere");
    let mut open = Bench::new();
    assert_eq!(verdict(&open.gossip(2, &good)), Some(Verdict::Ignore), "an open swarm asks for no credentials");
}

#[test]
fn a_revoked_member_loses_its_place_at_once_and_does_not_come_back() {
    let mut bench = member();
    offer(&mut bench);
    bench.frame(2, &hello(vec![credential(FOUNDER, Role::Guest, 2, 2)], vec![]));
    bench.gossip(2, &Message::Listing(listing()));
    bench.frame(2, &Message::Reserve(reserve()));
    assert_eq!(bench.node.listings().count(), 2);
    let word = Message::Revocations(Revocations { revocations: vec![revocation(FOUNDER, 2)] });
    assert_eq!(verdict(&bench.gossip(3, &word)), Some(Verdict::Ignore), "gossip is the founder's own");
    let effects = bench.gossip(FOUNDER, &word);
    assert_eq!(verdict(&effects), Some(Verdict::Accept));
    assert_eq!(shut_out(&effects), [(peer(2), Exclusion::Dismissed)]);
    assert!(events(&effects).contains(&&Event::Revoked(Box::new(revocation(FOUNDER, 2)))), "to be kept");
    assert_eq!(bench.node.listings().count(), 1, "its offer is gone");
    let effects = bench.frame(2, &hello(vec![credential(FOUNDER, Role::Guest, 2, 2)], vec![]));
    assert_eq!(shut_out(&effects), [(peer(2), Exclusion::Dismissed)]);
    assert_eq!(verdict(&bench.gossip(2, &Message::Listing(listing()))), Some(Verdict::Ignore));
    // What it held is free for others.
    bench.frame(3, &hello(vec![credential(FOUNDER, Role::Guest, 3, 3)], vec![]));
    let effects = bench.frame(3, &Message::Reserve(reserve()));
    let answers: Vec<_> = sent(&effects).into_iter().map(|(_, message)| message).collect();
    assert!(matches!(&answers[..], [Message::ReserveReply(reply)] if reply.answer == Answer::Accepted), "{answers:?}");
    // Newcomers hear of it from whom they meet, and a restart does not forget it.
    let effects = bench.input(Input::PeerConnected { peer: peer(4) });
    assert!(
        matches!(&sent(&effects)[..], [(_, Message::Hello(hello))] if hello.revocations == [revocation(FOUNDER, 2)])
    );
    let charter =
        Charter { founder: Some(peer(FOUNDER)), credentials: Vec::new(), revocations: vec![revocation(FOUNDER, 2)] };
    let mut restarted = Bench::with_charter(charter);
    restarted.frame(2, &hello(vec![credential(FOUNDER, Role::Guest, 2, 2)], vec![]));
    assert_eq!(verdict(&restarted.gossip(2, &Message::Listing(listing()))), Some(Verdict::Ignore));
}

#[test]
fn a_forged_revocation_dismisses_nobody_and_is_blamed() {
    let mut bench = member();
    bench.frame(2, &hello(vec![credential(FOUNDER, Role::Guest, 2, 2)], vec![]));
    let forged = Revocation { issuer: peer(FOUNDER), ..revocation(3, 2) };
    let effects = bench.frame(3, &hello(vec![], vec![forged]));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Misbehaviour { peer: who, .. } if *who == peer(3))));
    let effects = bench.frame(3, &hello(vec![], vec![revocation(3, 2)]));
    assert_eq!(effects, [], "3 may revoke what 3 has issued, which is nothing to us");
    assert_eq!(verdict(&bench.gossip(2, &Message::Listing(listing()))), Some(Verdict::Accept));
}

#[test]
fn one_who_is_dismissed_itself_is_told() {
    let mut bench = member();
    assert!(bench.node.is_member(bench.now));
    let effects = bench.frame(5, &hello(vec![], vec![revocation(FOUNDER, 1)]));
    assert!(events(&effects).contains(&&Event::Dismissed));
    assert!(!bench.node.is_member(bench.now));
}

#[test]
fn a_credential_that_ends_is_as_good_as_none() {
    let mut bench = member();
    bench.frame(2, &hello(vec![credential(FOUNDER, Role::Guest, 2, 2)], vec![]));
    bench.now = NOW + Duration::from_s(10 * 86_400);
    assert_eq!(verdict(&bench.gossip(2, &Message::Listing(listing()))), Some(Verdict::Ignore));
    let effects = bench.pass(Duration::from_s(60));
    let mut all = shut_out(&effects);
    all.dedup();
    assert!(all.is_empty() || all == [(peer(2), Exclusion::Dismissed)], "{all:?}");
    assert!(!bench.node.is_member(bench.now));
    assert_eq!(bench.node.permissions().count(), 0);
}

#[test]
fn the_founder_revokes_and_says_so_again_and_again() {
    let charter = Charter { founder: Some(peer(1)), ..Charter::default() };
    let mut bench = Bench::with_charter(charter);
    bench.frame(2, &hello(vec![credential(1, Role::Guest, 2, 2)], vec![]));
    let expires_at = revocation(1, 2).expires_at;
    let effects = bench.input(Input::Command(Command::Revoke { serial: Serial([2; 16]), expires_at }));
    let word = Message::Revocations(Revocations { revocations: vec![revocation(1, 2)] });
    assert_eq!(published(&effects), std::slice::from_ref(&word));
    assert_eq!(shut_out(&effects), [(peer(2), Exclusion::Dismissed)]);
    let said = published(&bench.pass(Duration::from_s(180)));
    assert!(said.iter().filter(|message| **message == word).count() >= 2, "{said:?}");
}

/// The holder of the leaked ticket `ticket` whose name is made of `number` says hello.
fn comes(bench: &mut Bench, ticket: u8, number: u64) -> bool {
    let holder = Identity::from_secret(*Hash::of(&(u64::from(ticket) << 32 | number).to_le_bytes()).as_bytes());
    let permitted = permitted(FOUNDER, Role::Guest, ticket);
    let credential = Credential::bind(permitted, &bearer(ticket), holder.peer_id()).expect("the bearer");
    let greeting = hello(vec![credential], vec![]);
    let seq = bench.now.as_unix_ms();
    let bytes = holder.seal(network(), seq, bench.now + Duration::from_s(30), &greeting);
    let effects = bench.input(Input::Frame { from: holder.peer_id(), bytes });
    events(&effects).iter().any(|event| matches!(event, Event::Admitted { .. }))
}

/// Tickets that leaked, and a flood of connections, fill nothing beyond its
/// bound, and push out nobody who shows itself in time.
#[test]
fn tables_are_bounded() {
    let mut bench = Bench::with_charter(Charter { founder: Some(peer(FOUNDER)), ..Charter::default() });
    let per_ticket = PEERS_PER_PERMISSION_MAX as u64;
    let tickets = u8::try_from(MEMBERS_KNOWN_MAX / PEERS_PER_PERMISSION_MAX).expect("few");
    for ticket in 0..tickets {
        assert!((0..per_ticket).all(|number| comes(&mut bench, ticket, number)), "ticket {ticket}");
        assert!(!comes(&mut bench, ticket, per_ticket), "one too many of ticket {ticket}");
    }
    assert_eq!(bench.node.permissions().count(), MEMBERS_KNOWN_MAX);
    assert!(!comes(&mut bench, tickets, 0), "the table is full");
    bench.pass(Duration::from_s(601));
    assert!(comes(&mut bench, tickets, 0), "who shows nothing for 10 min yields");
    assert_eq!(bench.node.permissions().count(), MEMBERS_KNOWN_MAX);
    let mut refused = 0;
    for number in 0..STRANGERS_MAX as u64 + 5 {
        let stranger = PeerId(*Hash::of(&number.to_le_bytes()).as_bytes());
        refused += shut_out(&bench.input(Input::PeerConnected { peer: stranger })).len();
    }
    assert_eq!(refused, 5, "beyond the bound there is no grace");
}

// ---- whose machines may see the data ----

/// A user in an open swarm that has heard offers of 2 (its own), 3 (its guest)
/// and 4 (a stranger).
fn user() -> Bench {
    let mut bench = Bench::new();
    offer(&mut bench);
    bench.frame(2, &hello(vec![credential(1, Role::Own, 2, 2)], vec![]));
    bench.frame(3, &hello(vec![credential(1, Role::Guest, 3, 3)], vec![]));
    bench.frame(4, &hello(vec![credential(4, Role::Own, 4, 4)], vec![]));
    for other in [2, 3, 4] {
        assert_eq!(verdict(&bench.gossip(other, &Message::Listing(listing()))), Some(Verdict::Accept));
    }
    bench
}

#[test]
fn data_goes_no_further_than_its_user_says() {
    let cases: [(Share, &[u8]); 3] = [(Share::Own, &[2]), (Share::Invited, &[2, 3]), (Share::Open, &[2, 3, 4])];
    for (share, allowed) in cases {
        let mut bench = user();
        for other in [2, 3, 4] {
            assert_eq!(bench.node.may_see(share, &peer(other), NOW), allowed.contains(&other), "{share:?} {other}");
        }
        let mut effects = order(&mut bench, wish(4, share));
        effects.extend(bench.pass(Duration::from_s(2)));
        let mut expected: Vec<_> = allowed.iter().map(|number| peer(*number)).collect();
        expected.sort();
        let mut found = asked(&effects);
        found.sort();
        found.dedup();
        assert_eq!(found, expected, "{share:?}");
    }
}

#[test]
fn whoever_is_left_out_is_counted_when_an_order_fails_and_when_it_does_not() {
    let mut bench = user();
    order(&mut bench, wish(4, Share::Own));
    let effects = bench.pass(Duration::from_s(11));
    let mismatches = events(&effects).into_iter().find_map(|event| match event {
        Event::OrderFailed { mismatches, .. } => Some(mismatches.clone()),
        _ => None,
    });
    assert_eq!(mismatches.and_then(|counts| counts.get(&Mismatch::NotOwn).copied()), Some(2));
    let mut bench = user();
    let effects = order(&mut bench, wish(1, Share::Invited));
    let left_out = Event::LeftOut { order: ORDER, peers: 1, share: Share::Invited };
    assert!(events(&effects).contains(&&left_out), "{effects:?}");
}

#[test]
fn a_permission_revoked_between_yes_and_confirm_keeps_the_data_here() {
    let mut bench = user();
    let effects = order(&mut bench, wish(3, Share::Invited));
    assert_eq!(asked(&effects).len(), 2);
    says_yes(&mut bench, 2);
    let expires_at = revocation(1, 2).expires_at;
    let revoke = Command::Revoke { serial: Serial([2; 16]), expires_at };
    let effects = bench.input(Input::Command(revoke));
    let released = sent(&effects).into_iter().any(|(to, m)| to == peer(2) && matches!(m, Message::Release(_)));
    assert!(released && shut_out(&effects).is_empty(), "an open swarm shuts nobody out: {effects:?}");
    assert!(confirmed(&says_yes(&mut bench, 3)).is_empty(), "one member is missing now");
}

#[test]
fn a_member_whose_permission_is_revoked_is_lost_to_the_run() {
    let mut bench = user();
    order(&mut bench, wish(2, Share::Own));
    let effects = says_yes(&mut bench, 2);
    assert_eq!(confirmed(&effects), [peer(2)]);
    let expires_at = revocation(1, 2).expires_at;
    let effects = bench.input(Input::Command(Command::Revoke { serial: Serial([2; 16]), expires_at }));
    let said = sent(&effects);
    let accused = |message: &Message| matches!(message, Message::Suspect(suspect) if suspect.peer == peer(2) && suspect.reason == AbortReason::NotAllowed);
    assert!(said.iter().any(|(_, message)| accused(message)), "it is to leave: {said:?}");
    assert!(said.iter().any(|(_, message)| matches!(message, Message::ViewAsk(_))), "a view without it: {said:?}");
}

#[test]
fn a_machine_answers_demands_whose_data_it_may_see() {
    let said = |share, charter: Charter| {
        let mut bench = Bench::with_charter(charter);
        offer(&mut bench);
        bench.pass(Duration::from_s(5));
        let demand = manta_protocol::market::demand::Demand { share, ..crate::samples::demand() };
        let effects = bench.gossip(2, &Message::Demand(demand));
        let greeted = sent(&effects).into_iter().any(|(to, m)| to == peer(2) && matches!(m, Message::Hello(_)));
        let announced = published(&effects).iter().any(|message| matches!(message, Message::Listing(_)));
        (announced, greeted)
    };
    let own = Charter { credentials: vec![credential(2, Role::Own, 5, 1)], ..Charter::default() };
    let guest = Charter { credentials: vec![credential(2, Role::Guest, 5, 1)], ..Charter::default() };
    assert_eq!(said(Share::Own, own.clone()), (true, true), "its user may not know us yet");
    assert_eq!(said(Share::Own, guest.clone()), (false, false));
    assert_eq!(said(Share::Invited, guest), (true, true));
    assert_eq!(said(Share::Own, Charter::default()), (false, false));
    assert_eq!(said(Share::Open, Charter::default()), (true, false));
}

// ---- several nodes ----

/// Nodes that hear each other at once.
struct Room {
    nodes: Vec<(PeerId, Node)>,
    now: Time,
    out: Vec<(PeerId, PeerId)>,
}

impl Room {
    fn act(&mut self, who: usize, input: Input) {
        let mut waiting = vec![(who, input)];
        while let Some((who, input)) = waiting.pop() {
            let (me, node) = &mut self.nodes[who];
            let me = *me;
            node.handle(input, self.now);
            let effects: Vec<_> = std::iter::from_fn(|| node.poll_effect()).collect();
            for effect in effects {
                match effect {
                    Effect::Publish { bytes } => {
                        let others = (0..self.nodes.len()).filter(|other| *other != who);
                        waiting.extend(others.map(|to| (to, Input::Gossip { message: 1, bytes: bytes.clone() })));
                    }
                    Effect::SendFrame { to, bytes, .. } => {
                        let to = self.nodes.iter().position(|(peer, _)| *peer == to);
                        waiting.extend(to.map(|to| (to, Input::Frame { from: me, bytes })));
                    }
                    Effect::Disconnect { peer, .. } => self.out.push((me, peer)),
                    _ => {}
                }
            }
        }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + Duration::from_s(1);
            (0..self.nodes.len()).for_each(|who| self.act(who, Input::Tick));
        }
    }

    fn offers_at(&self, who: usize) -> usize {
        self.nodes[who].1.listings().count()
    }
}

/// 9 founds a swarm; 1 and 2 were invited, 3 was not but knows the swarm's id.
#[test]
fn a_founder_two_guests_and_an_intruder() {
    let charter = |credentials| Charter { founder: Some(peer(FOUNDER)), credentials, ..Charter::default() };
    let node = |number: u8, credentials| {
        let config = Config { network: network(), identity: identity(number) };
        (peer(number), Node::with_charter(config, charter(credentials), NOW))
    };
    let guest = |number| node(number, vec![credential(FOUNDER, Role::Guest, number, number)]);
    let nodes = vec![node(FOUNDER, vec![]), guest(1), guest(2), node(3, vec![])];
    let mut room = Room { nodes, now: NOW, out: Vec::new() };
    for who in 0..4 {
        let me = room.nodes[who].0;
        for other in [FOUNDER, 1, 2, 3].into_iter().filter(|other| peer(*other) != me) {
            room.act(who, Input::PeerConnected { peer: peer(other) });
        }
        room.act(who, Input::Command(Command::Offer(Box::new(listing()))));
    }
    room.pass(15);
    assert_eq!([0, 1, 2].map(|who| room.offers_at(who)), [3, 3, 3], "the three members know each other");
    let of_intruder = room.out.iter().filter(|(who, out)| *out == peer(3) && *who != peer(3)).count();
    assert_eq!(of_intruder, 3, "all three shut it out");
    room.out.clear();
    let expires_at = revocation(FOUNDER, 2).expires_at;
    room.act(0, Input::Command(Command::Revoke { serial: Serial([2; 16]), expires_at }));
    room.pass(1);
    assert!(room.out.contains(&(peer(FOUNDER), peer(2))) && room.out.contains(&(peer(1), peer(2))));
    assert_eq!([0, 1].map(|who| room.offers_at(who)), [2, 2]);
    assert!(!room.nodes[2].1.is_member(room.now) && room.nodes[1].1.is_member(room.now));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever credentials are shown by whomever, only those admit that the
    /// founder has issued, for this swarm, to whoever has the ticket.
    #[test]
    fn only_the_founders_credentials_admit(
        issuer in 2u8..12, serial in 1u8..5, holder in 1u8..6, shower in 2u8..6, revoked in 1u8..5,
        late_s in 0u64..20 * 86_400, other_swarm in any::<bool>(), role in prop::sample::select(vec![Role::Own, Role::Guest]),
    ) {
        let swarm = if other_swarm { NetworkId::from_name("elsewhere") } else { network() };
        let expires_at = NOW + Duration::from_s(10 * 86_400);
        let permitted = SignedPermission::issue(
            &identity(issuer), swarm, Serial([serial; 16]), role, bearer(serial).peer_id(), expires_at,
        );
        let shown = Credential::bind(permitted, &bearer(serial), peer(holder)).expect("the bearer");
        let charter = Charter {
            founder: Some(peer(FOUNDER)),
            credentials: vec![],
            revocations: vec![revocation(FOUNDER, revoked)],
        };
        let mut bench = Bench::with_charter(charter);
        bench.now = NOW + Duration::from_s(late_s);
        bench.frame(shower, &hello(vec![shown], vec![]));
        let heard = verdict(&bench.gossip(shower, &Message::Listing(listing()))) == Some(Verdict::Accept);
        let counts = issuer == FOUNDER && !other_swarm && holder == shower && serial != revoked && bench.now < expires_at;
        prop_assert_eq!(heard, counts);
        prop_assert_eq!(bench.node.permissions().count(), usize::from(counts));
    }
}
