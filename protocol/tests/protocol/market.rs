//! The market: the order book, the trainer's side of a reservation, the user's
//! side of an order.

use crate::bench::{Bench, events, published, sent};
use crate::samples::{NOW, demand, identity, listing, network, peer, reserve, spec};
use manta_protocol::effect::Verdict;
use manta_protocol::input::{Command, Wish};
use manta_protocol::market::book::{Change, OrderBook};
use manta_protocol::market::demand::Share;
use manta_protocol::market::listing::{Listing, Withdrawal};
use manta_protocol::market::matching::{self, Mismatch};
use manta_protocol::market::reservation::{Answer, RESERVATION_MAX, Release, Reserve, ReserveReply};
use manta_protocol::wire::Message;
use manta_protocol::wire::limits::{CLOCK_SKEW_MAX, DEMANDS_MAX, DEMANDS_PER_AUTHOR_MAX, LISTINGS_MAX, ORDERS_MAX};
use manta_protocol::{Duration, Effect, Event, Hash, Input, OrderId, PeerId};

const ORDER: OrderId = OrderId(1);

// ---- the order book ----

fn numbered(number: u64) -> PeerId {
    PeerId(*Hash::of(&number.to_le_bytes()).as_bytes())
}

#[test]
fn the_latest_listing_wins_and_a_withdrawal_takes_it_back() {
    let mut book = OrderBook::new(peer(1));
    let later = NOW + Duration::from_s(180);
    let at = |ms| NOW + Duration::from_ms(ms);
    let steps = [
        ("the first", 1_000, true, at(0), Change::New),
        ("the same again", 1_000, true, at(500), Change::Stale),
        ("an older one", 999, true, at(500), Change::Stale),
        ("too soon by both clocks", 1_050, true, at(50), Change::TooSoon),
        ("bunched up on the way, but said later", 1_400, true, at(60), Change::New),
        ("its clock was set back, but time has passed", 1_401, true, at(200), Change::New),
        ("a withdrawal at any time", 1_402, false, at(201), Change::New),
        ("an older listing after it", 1_300, true, at(900), Change::Stale),
    ];
    for (why, seq, offers, now, expected) in steps {
        assert_eq!(book.list(peer(2), seq, later, offers.then(listing), now), expected, "{why}");
    }
    assert_eq!(book.listings().count(), 0);
}

#[test]
fn what_expired_cannot_be_replayed_within_the_skew() {
    let mut book = OrderBook::new(peer(1));
    let expires_at = NOW + Duration::from_s(10);
    assert_eq!(book.list(peer(2), 5, expires_at, Some(listing()), NOW), Change::New);
    assert_eq!(book.demand(peer(2), 5, expires_at, demand(), NOW), Change::New);
    book.expire(expires_at);
    assert_eq!(book.listings().count(), 0, "an expired listing serves nobody");
    assert_eq!(book.list(peer(2), 5, expires_at, Some(listing()), expires_at), Change::Stale);
    assert_eq!(book.demand(peer(2), 5, expires_at, demand(), expires_at), Change::Stale);
    book.expire(expires_at + CLOCK_SKEW_MAX);
    assert_eq!(book.demands().count(), 0, "forgotten once no clock takes it for valid");
}

/// Names are free: a flood of new ones fills what is empty, and then neither
/// the own listing nor one that is said again each minute yields to it.
#[test]
fn a_flood_fills_the_tables_to_their_bounds_and_pushes_out_nobody_who_is_there() {
    let mut book = OrderBook::new(peer(1));
    let at = |seconds| NOW + Duration::from_s(seconds);
    let flood = LISTINGS_MAX as u64 + 200;
    let list = |book: &mut OrderBook, who: PeerId, seq: u64, seconds: u64| {
        // What a flood says lives as long as may be, which must not help it.
        let lives_s = if who == peer(2) { 180 } else { 600 };
        book.list(who, seq, at(seconds + lives_s), Some(listing()), at(seconds))
    };
    assert_eq!(list(&mut book, peer(2), 1, 0), Change::New);
    let taken = (0..flood).filter(|number| list(&mut book, numbered(*number), 1, 1) == Change::New).count();
    assert_eq!((taken, book.listings().count()), (LISTINGS_MAX - 1, LISTINGS_MAX));
    assert_eq!(list(&mut book, peer(2), 2_000, 2), Change::New, "who is there may go on");
    assert_eq!(list(&mut book, peer(1), 1, 3), Change::New, "the own listing always finds a place");
    assert_eq!(book.listings().count(), LISTINGS_MAX);
    for minute in 1..=5 {
        assert_eq!(list(&mut book, peer(2), 60_000 * minute, 60 * minute), Change::New, "said again in time");
        for number in 0..100 {
            list(&mut book, numbered(flood * minute + number), 1, 60 * minute + 59);
        }
        assert!(book.listing(&peer(1)).is_some() && book.listing(&peer(2)).is_some(), "minute {minute}");
    }
    assert!(book.listing(&numbered(flood)).is_some(), "who was not said again for 90 s has yielded");
    assert_eq!(book.listings().count(), LISTINGS_MAX);
}

#[test]
fn an_authors_demands_make_room_for_each_other_only() {
    let mut book = OrderBook::new(peer(1));
    let expires_at = NOW + Duration::from_s(100);
    let of_spec =
        |number: u64| manta_protocol::market::demand::Demand { spec: Hash::of(&number.to_le_bytes()), ..demand() };
    assert_eq!(book.demand(peer(2), 7, expires_at, of_spec(0), NOW), Change::New);
    let mut taken = 0;
    for number in 0..100 {
        taken += usize::from(book.demand(peer(3), number + 1, expires_at, of_spec(number), NOW) == Change::New);
    }
    assert_eq!((taken, book.demands().count()), (DEMANDS_PER_AUTHOR_MAX, DEMANDS_PER_AUTHOR_MAX + 1));
    let later = NOW + Duration::from_s(2);
    assert_eq!(book.demand(peer(3), 200, expires_at, of_spec(200), later), Change::New, "the oldest yields");
    assert_eq!(book.demands().count(), DEMANDS_PER_AUTHOR_MAX + 1);
    assert_eq!(book.demand(peer(2), 8, expires_at, of_spec(0), later), Change::New, "said again");
    assert_eq!(book.demand(peer(2), 9, expires_at, of_spec(0), later), Change::TooSoon);
    for number in 0..DEMANDS_MAX as u64 + 50 {
        assert_eq!(book.demand(numbered(number), 1, expires_at, of_spec(1), later), Change::New);
    }
    assert_eq!(book.demands().count(), DEMANDS_MAX);
}

#[test]
fn a_listing_serves_a_demand_or_says_the_first_reason_why_not() {
    let (demand, someone) = (demand(), peer(2));
    let cases = [
        (Ok(()), listing()),
        (Err(Mismatch::Busy), Listing { busy: true, arithmetic_version: 9, ..listing() }),
        (Err(Mismatch::Arithmetic), Listing { arithmetic_version: 9, ..listing() }),
        (Err(Mismatch::Memory), Listing { devices: Vec::new(), ..listing() }),
        (Err(Mismatch::Disk), Listing { disk_free_bytes: demand.disk_bytes_min - 1, ..listing() }),
        (Err(Mismatch::Duration), Listing { duration_max_s: demand.duration_s - 1, ..listing() }),
    ];
    for (expected, listing) in &cases {
        assert_eq!(matching::check(&demand, listing, true), *expected);
    }
    let reasons = matching::explain(&demand, cases.iter().map(|(_, listing)| (&someone, listing)), |_| true);
    assert_eq!(reasons.values().sum::<usize>(), 5);
    let listings = [(peer(2), of_speed(5)), (peer(3), of_speed(9)), (peer(4), of_speed(5))];
    let tie = [peer(2), peer(4)].into_iter().min();
    let ranked = matching::rank(&demand, listings.iter().map(|(peer, listing)| (peer, listing)), |_| true);
    assert_eq!((ranked[0], Some(ranked[1])), (peer(3), tie), "the fastest first, ties by id");
}

fn of_speed(speed: u64) -> Listing {
    let mut listing = listing();
    listing.devices[0].multiply_adds_per_s = speed;
    listing
}

// ---- the machine's side ----

fn answer(effects: &[Effect]) -> Option<(PeerId, Answer)> {
    sent(effects).into_iter().find_map(|(to, message)| match message {
        Message::ReserveReply(reply) => Some((to, reply.answer)),
        _ => None,
    })
}

#[test]
fn a_machine_is_held_by_one_user_until_released_or_expired() {
    let mut bench = Bench::offering(listing());
    let ask = |from: u8, bench: &mut Bench, request: Reserve| {
        let (to, answer) = answer(&bench.frame(from, &Message::Reserve(request))).expect("an answer");
        assert_eq!(to, peer(from));
        answer
    };
    let other_spec = Hash::of(b"another spec");

    let request = reserve();
    assert_eq!(ask(2, &mut bench, request.clone()), Answer::Accepted);
    assert_eq!(ask(2, &mut bench, request.clone()), Answer::Accepted, "said twice");
    assert_eq!(ask(3, &mut bench, request.clone()), Answer::Busy);
    assert_eq!(ask(2, &mut bench, Reserve { spec: other_spec, ..request.clone() }), Answer::Busy, "one hold at a time");
    bench.frame(3, &Message::Release(Release { spec: request.spec }));
    bench.frame(2, &Message::Release(Release { spec: other_spec }));
    assert_eq!(ask(3, &mut bench, request.clone()), Answer::Busy, "strangers and other specs release nothing");
    bench.frame(2, &Message::Release(Release { spec: request.spec }));
    assert_eq!(ask(3, &mut bench, request), Answer::Accepted, "released");

    bench.pass(Duration::from_s(20));
    assert_eq!(ask(2, &mut bench, reserve()), Answer::Accepted, "expired");
}

/// A hold is counted by the machine's own clock: it must not matter how far the
/// user's is off, as long as envelopes pass.
#[test]
fn users_whose_clocks_differ_as_far_as_envelopes_allow_can_hold_a_machine() {
    for ahead in [true, false] {
        let mut bench = Bench::offering(listing());
        let off = CLOCK_SKEW_MAX - Duration::from_s(1);
        let theirs = if ahead { bench.now + off } else { bench.now - off };
        let seal = |message: &Message| {
            identity(2).seal(network(), theirs.as_unix_ms(), theirs + Duration::from_s(60), message)
        };
        let effects = bench.input(Input::Frame { from: peer(2), bytes: seal(&Message::Reserve(reserve())) });
        assert_eq!(answer(&effects), Some((peer(2), Answer::Accepted)), "ahead: {ahead}");
        bench.pass(Duration::from_ms(19_999));
        let confirm = Message::Confirm(crate::samples::confirm(&[1, 2]));
        assert!(begins(&bench.input(Input::Frame { from: peer(2), bytes: seal(&confirm) })), "ahead: {ahead}");
    }
}

#[test]
fn requests_beyond_the_terms_are_refused_with_the_reason() {
    let request = reserve();
    let longest_ms = u32::try_from(RESERVATION_MAX.as_ms()).unwrap();
    let cases = [
        (Reserve { memory_bytes: u64::MAX, ..request.clone() }, Answer::BeyondTerms),
        (Reserve { duration_s: 86_401, ..request.clone() }, Answer::BeyondTerms),
        (Reserve { hold_ms: 0, ..request.clone() }, Answer::BadHold),
        (Reserve { hold_ms: longest_ms + 1, ..request.clone() }, Answer::BadHold),
        (Reserve { hold_ms: u32::MAX, ..request.clone() }, Answer::BadHold),
        (Reserve { hold_ms: longest_ms, ..request.clone() }, Answer::Accepted),
    ];
    for (request, expected) in cases {
        let effects = Bench::offering(listing()).frame(2, &Message::Reserve(request.clone()));
        assert_eq!(answer(&effects), Some((peer(2), expected)), "{request:?}");
    }
    let effects = Bench::new().frame(2, &Message::Reserve(request));
    assert_eq!(answer(&effects), Some((peer(2), Answer::NotOffered)));
}

#[test]
fn a_held_machine_says_that_it_is_busy_and_then_that_it_is_free() {
    let mut bench = Bench::offering(listing());
    bench.pass(Duration::from_s(1));
    let busy = |effects: &[Effect]| -> Vec<bool> {
        let listings = published(effects).into_iter().filter_map(|message| match message {
            Message::Listing(listing) => Some(listing.busy),
            _ => None,
        });
        listings.collect()
    };
    let request = Reserve { hold_ms: 5_000, ..reserve() };
    assert_eq!(busy(&bench.frame(2, &Message::Reserve(request))), [true]);
    assert_eq!(busy(&bench.pass(Duration::from_s(6))), [false]);
}

// ---- the user's side ----

fn wish(members_min: u16, members_max: u16) -> Wish {
    Wish {
        members_min,
        members_max,
        memory_bytes: 1 << 28,
        disk_bytes: 1 << 20,
        duration_s: 600,
        patience_ms: 5_000,
        deadline_ms: 30_000,
        share: Share::Open,
    }
}

/// A node that offers itself and has heard the others: 2 is the fastest.
fn user(others: &[u8]) -> Bench {
    let mut bench = Bench::offering(listing());
    for other in others {
        let effects = bench.gossip(*other, &Message::Listing(of_speed(1_000 - u64::from(*other))));
        assert!(effects.contains(&Effect::GossipVerdict { message: 1, verdict: Verdict::Accept }));
    }
    bench
}

fn order(bench: &mut Bench, wish: Wish) -> Vec<Effect> {
    bench.input(Input::Command(Command::Order { order: ORDER, spec: Box::new(spec()), wish }))
}

fn asked(effects: &[Effect]) -> Vec<PeerId> {
    to_whom(effects, |message| matches!(message, Message::Reserve(_)))
}

fn released(effects: &[Effect]) -> Vec<PeerId> {
    to_whom(effects, |message| matches!(message, Message::Release(_)))
}

fn confirmed(effects: &[Effect]) -> Vec<PeerId> {
    to_whom(effects, |message| matches!(message, Message::Confirm(_)))
}

fn to_whom(effects: &[Effect], which: impl Fn(&Message) -> bool) -> Vec<PeerId> {
    sent(effects).into_iter().filter(|(_, message)| which(message)).map(|(to, _)| to).collect()
}

/// Lets `from` answer the latest request for the order.
fn answers(bench: &mut Bench, from: u8, answer: Answer) -> Vec<Effect> {
    let request = bench.requests.get(&peer(from)).copied().unwrap_or(0);
    bench.frame(from, &Message::ReserveReply(ReserveReply { spec: spec().hash(), request, answer }))
}

fn begins(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Prepare(_)))
}

#[test]
fn an_order_reserves_the_best_and_starts_when_all_have_said_yes() {
    let mut bench = user(&[2, 3, 4]);
    let effects = order(&mut bench, wish(3, 3));
    assert_eq!(asked(&effects), [peer(2), peer(3)], "the own machine is the third, asked without a network");
    assert!(confirmed(&answers(&mut bench, 2, Answer::Accepted)).is_empty());
    assert!(confirmed(&answers(&mut bench, 4, Answer::Accepted)).is_empty(), "nobody asked 4");
    let effects = answers(&mut bench, 3, Answer::Accepted);
    let mut members = vec![peer(2), peer(3)];
    members.sort();
    assert_eq!(confirmed(&effects), members);
    assert!(begins(&effects), "the own machine takes part");
    assert!(events(&effects).iter().any(|event| matches!(event, Event::OrderMatched { order: ORDER, .. })));
}

#[test]
fn a_refusal_or_a_failed_frame_lets_the_next_be_asked() {
    for failed in [false, true] {
        let mut bench = user(&[2, 3]);
        let effects = order(&mut bench, wish(2, 2));
        assert_eq!(asked(&effects), [peer(2)]);
        let reserve = effects.iter().find_map(|effect| match effect {
            Effect::SendFrame { id, .. } => Some(*id),
            _ => None,
        });
        let effects = match reserve.filter(|_| failed) {
            Some(id) => bench.input(Input::FrameFailed { id }),
            None => answers(&mut bench, 2, Answer::Busy),
        };
        assert_eq!(asked(&effects), [peer(3)]);
        assert_eq!(confirmed(&answers(&mut bench, 3, Answer::Accepted)), [peer(3)]);
    }
}

#[test]
fn a_silent_peer_is_released_and_the_next_is_asked() {
    let mut bench = user(&[2, 3]);
    assert_eq!(asked(&order(&mut bench, wish(2, 2))), [peer(2)]);
    let effects = bench.pass(Duration::from_s(4));
    assert_eq!((released(&effects), asked(&effects)), (vec![peer(2)], vec![peer(3)]));
    assert!(confirmed(&answers(&mut bench, 2, Answer::Accepted)).is_empty(), "too late: it was released");
    assert_eq!(confirmed(&answers(&mut bench, 3, Answer::Accepted)), [peer(3)]);
}

#[test]
fn with_patience_over_fewer_members_are_enough() {
    let mut bench = user(&[2]);
    assert_eq!(asked(&order(&mut bench, wish(2, 4))), [] as [PeerId; 0], "it waits for four");
    assert_eq!(asked(&bench.pass(Duration::from_ms(4_999))), [] as [PeerId; 0]);
    assert_eq!(asked(&bench.pass(Duration::from_ms(1))), [peer(2)], "to the millisecond");
    assert_eq!(confirmed(&answers(&mut bench, 2, Answer::Accepted)), [peer(2)]);
}

#[test]
fn a_hold_near_its_end_is_given_up_rather_than_confirmed() {
    let mut bench = user(&[2, 3]);
    assert_eq!(asked(&order(&mut bench, wish(3, 3))).len(), 2);
    answers(&mut bench, 2, Answer::Accepted);
    let effects = bench.pass(Duration::from_s(17));
    assert!(released(&effects).contains(&peer(2)), "20 s are held, the last 4 are not relied on");
    assert!(!begins(&answers(&mut bench, 3, Answer::Accepted)));
}

/// The user's own machine is lost between the match and the start: its user
/// and the other members must hear of it.
#[test]
fn a_run_that_cannot_begin_on_the_users_machine_is_told_to_everyone() {
    let mut bench = user(&[2]);
    order(&mut bench, wish(2, 2));
    let release = Message::Release(Release { spec: spec().hash() });
    let seq = bench.now.as_unix_ms() + 1_000;
    let bytes = identity(1).seal(network(), seq, bench.now + Duration::from_s(30), &release);
    bench.input(Input::Frame { from: peer(1), bytes });
    let effects = answers(&mut bench, 2, Answer::Accepted);
    let told = events(&effects).into_iter().find_map(|event| match event {
        Event::RunNotBegun { run, why } => Some((*run, why.clone())),
        _ => None,
    });
    let (run, why) = told.expect("the user is told");
    assert!(!begins(&effects) && why.contains("not held"), "{why}");
    assert!(events(&effects).contains(&&Event::OrderMatched { order: ORDER, run }));
    let aborted = to_whom(&effects, |message| matches!(message, Message::Abort(abort) if abort.run == run));
    assert_eq!(aborted, [peer(2)], "2 would wait for us");
}

#[test]
fn an_order_out_of_time_explains_itself_and_frees_what_it_holds() {
    let mut bench = user(&[2, 3]);
    let busy = Listing { busy: true, ..listing() };
    bench.gossip(4, &Message::Listing(busy));
    order(&mut bench, wish(3, 3));
    bench.pass(Duration::from_s(15));
    answers(&mut bench, 2, Answer::Busy);
    let mut effects = Vec::new();
    let deadline = NOW + Duration::from_s(30);
    while bench.now < deadline {
        // 3 says yes whenever it is asked, 2 never answers.
        let step = bench.pass(Duration::from_ms(500));
        if asked(&step).contains(&peer(3)) {
            effects.extend(answers(&mut bench, 3, Answer::Accepted));
        }
        effects.extend(step);
    }
    let failed = events(&effects).into_iter().find_map(|event| match event {
        Event::OrderFailed { needed, listings, mismatches, refused, .. } => {
            Some((*needed, *listings, mismatches.clone(), *refused))
        }
        _ => None,
    });
    let (needed, listings, mismatches, refused) = failed.expect("the order fails at its deadline");
    assert_eq!((needed, listings), (3, 4));
    assert!(mismatches.get(&Mismatch::Busy).is_some_and(|count| *count >= 1), "{mismatches:?}");
    assert!(refused >= 2, "{refused} refusals and silences");
    assert!(released(&effects).contains(&peer(3)));
    assert!(!begins(&bench.pass(Duration::from_s(60))));
}

/// Neither an order on a machine that offers nothing nor one for which nobody
/// is there may leave a timer in the past (`Bench` asserts that).
#[test]
fn an_order_for_which_nobody_is_there_waits_and_fails() {
    for mut bench in [Bench::new(), Bench::offering(listing())] {
        order(&mut bench, wish(2, 2));
        let effects = bench.pass(Duration::from_s(31));
        assert!(events(&effects).iter().any(|event| matches!(event, Event::OrderFailed { order: ORDER, .. })));
        let demands = published(&effects).into_iter().filter(|message| matches!(message, Message::Demand(_)));
        assert!((10..=16).contains(&demands.count()), "a demand each two seconds");
    }
}

#[test]
fn a_cancelled_order_frees_what_it_holds() {
    let mut bench = user(&[2, 3]);
    order(&mut bench, wish(3, 3));
    answers(&mut bench, 2, Answer::Accepted);
    let mut free = released(&bench.input(Input::Command(Command::CancelOrder { order: ORDER })));
    free.sort();
    let mut expected = [peer(2), peer(3)];
    expected.sort();
    assert_eq!(free, expected);
    assert!(!begins(&answers(&mut bench, 3, Answer::Accepted)));
}

#[test]
fn more_orders_than_the_maximum_fail_at_once() {
    let mut bench = Bench::new();
    for number in 0..=ORDERS_MAX as u64 {
        let mut spec = spec();
        spec.rounds += number as u32;
        let command = Command::Order { order: OrderId(number), spec: Box::new(spec), wish: wish(1, 1) };
        let effects = bench.input(Input::Command(command));
        let failed = events(&effects).iter().any(|event| matches!(event, Event::OrderFailed { .. }));
        assert_eq!(failed, number == ORDERS_MAX as u64);
    }
}

#[test]
fn what_others_would_reject_is_not_ordered_or_offered() {
    let broken = {
        let mut spec = spec();
        spec.rounds = 0;
        spec
    };
    let too_many = Wish { members_max: 17, ..wish(1, 2) };
    for (spec, wish) in [(broken, wish(1, 2)), (spec(), too_many), (spec(), wish(0, 2)), (spec(), wish(3, 2))] {
        let mut bench = Bench::offering(listing());
        let effects = bench.input(Input::Command(Command::Order { order: ORDER, spec: Box::new(spec), wish }));
        assert!(matches!(events(&effects)[..], [Event::Refused { .. }, Event::OrderFailed { .. }]), "{effects:?}");
    }
    let mut bench = Bench::offering(Listing { devices: Vec::new(), ..listing() });
    assert_eq!(bench.node.listings().count(), 0);
    order(&mut bench, wish(2, 2));
    let command = Command::Order { order: OrderId(2), spec: Box::new(spec()), wish: wish(2, 2) };
    let effects = bench.input(Input::Command(command));
    assert!(matches!(events(&effects)[..], [Event::Refused { .. }, Event::OrderFailed { order: OrderId(2), .. }]));
}

#[test]
fn an_offer_to_oneself_serves_own_orders_and_nobody_else() {
    let mut bench = Bench::new();
    let effects = bench.input(Input::Command(Command::OfferToSelf(Box::new(listing()))));
    assert!(published(&effects).is_empty());
    let effects = bench.frame(2, &Message::Reserve(reserve()));
    assert_eq!(answer(&effects), Some((peer(2), Answer::NotOffered)));
    assert!(begins(&order(&mut bench, wish(1, 1))));
}

#[test]
fn a_withdrawn_offer_is_said_again_after_a_pause_that_nobody_drops() {
    let mut bench = Bench::offering(listing());
    bench.pass(Duration::from_s(1));
    let effects = bench.input(Input::Command(Command::Withdraw));
    assert_eq!(published(&effects), [Message::Withdrawal(Withdrawal {})]);
    assert_eq!(bench.node.listings().count(), 0);
    let effects = bench.input(Input::Command(Command::Offer(Box::new(listing()))));
    assert!(published(&effects).is_empty(), "others would drop it as too soon");
    assert_eq!(published(&bench.pass(Duration::from_ms(400))).len(), 1);
}

#[test]
fn an_offer_that_becomes_private_is_taken_back_from_others() {
    let mut bench = Bench::offering(listing());
    bench.pass(Duration::from_s(1));
    let effects = bench.input(Input::Command(Command::OfferToSelf(Box::new(listing()))));
    assert_eq!(published(&effects), [Message::Withdrawal(Withdrawal {})]);
    assert_eq!(published(&bench.pass(Duration::from_s(200))), [], "and not said again");
    let effects = bench.input(Input::Command(Command::OfferToSelf(Box::new(listing()))));
    assert_eq!(published(&effects), [], "nobody hears of it");
    assert!(begins(&order(&mut bench, wish(1, 1))), "own orders are still served");
}

/// Whatever strangers say, a machine must not gossip much more than they do.
#[test]
fn demands_and_connections_cause_few_announcements() {
    let mut bench = Bench::offering(listing());
    bench.pass(Duration::from_s(5));
    assert_eq!(published(&bench.gossip(2, &Message::Demand(demand()))).len(), 1, "the author may be new here");
    let mut repeated = 0;
    for _ in 0..9 {
        bench.pass(Duration::from_s(1));
        repeated += published(&bench.gossip(2, &Message::Demand(demand()))).len();
        repeated += published(&bench.input(Input::PeerConnected { peer: peer(2) })).len();
    }
    assert_eq!(repeated, 0, "it has heard us");
    assert_eq!(published(&bench.pass(Duration::from_s(1))).len(), 1, "it may have restarted since: late, but told");
    assert_eq!(published(&bench.pass(Duration::from_s(30))).len(), 0, "once for all that it asked");
    let mut flood = 0;
    for number in 0..200u8 {
        flood += published(&bench.pass(Duration::from_ms(50))).len();
        flood += published(&bench.gossip(3 + number, &Message::Demand(demand()))).len();
        let peer = numbered(u64::from(number));
        flood += published(&bench.input(Input::PeerConnected { peer })).len();
    }
    assert!((9..=11).contains(&flood), "{flood} announcements in 10 s for 200 authors and 200 connections");
}

#[test]
fn words_that_were_overtaken_change_nothing() {
    let seal = |seq: u64, message: &Message| {
        let bytes = identity(2).seal(network(), NOW.as_unix_ms() + seq, NOW + Duration::from_s(30), message);
        Input::Frame { from: peer(2), bytes }
    };
    let reserve = Message::Reserve(reserve());
    let release = Message::Release(Release { spec: spec().hash() });
    let confirm = Message::Confirm(crate::samples::confirm(&[1, 2]));
    let mut bench = Bench::offering(listing());
    bench.input(seal(3, &reserve));
    bench.input(seal(2, &release));
    let busy = bench.frame(3, &reserve);
    assert_eq!(answer(&busy), Some((peer(3), Answer::Busy)), "an old release frees no newer hold");
    bench.input(seal(5, &release));
    assert_eq!(bench.input(seal(4, &reserve)), [], "a request that was given up since holds nothing");
    bench.input(seal(7, &reserve));
    assert!(!begins(&bench.input(seal(6, &confirm))), "a run of an earlier hold");
    assert!(begins(&bench.input(seal(8, &confirm))));
}

#[test]
fn an_answer_to_an_earlier_request_does_not_count() {
    let mut bench = user(&[2, 3]);
    order(&mut bench, wish(3, 3));
    let first = bench.requests[&peer(2)];
    let mut again = Vec::new();
    while asked(&again).is_empty() {
        again = bench.pass(Duration::from_ms(500));
    }
    assert!(
        asked(&again).contains(&peer(2)) && bench.requests[&peer(2)] > first,
        "2 did not answer and is asked again"
    );
    let late = ReserveReply { spec: spec().hash(), request: first, answer: Answer::Accepted };
    let effects = bench.frame(2, &Message::ReserveReply(late));
    assert!(events(&effects).is_empty(), "{effects:?}");
    assert_eq!(events(&answers(&mut bench, 2, Answer::Accepted)).len(), 1);
}
