//! Consents that are given and held, and what becomes of them.

use super::*;
use crate::ids::{Hash, NetworkId};
use crate::ledger::{Founder, Genesis, Parameters};
use crate::power::MicroPower;

const NOW: Time = Time(1_790_000_000_000_000_000);
const RUN: RunId = RunId([7; 32]);
const WANTED: Duration = Duration::from_s(60);

fn identity(number: u8) -> Identity {
    Identity::from_secret([number; 32])
}

fn user() -> PeerId {
    identity(1).peer_id()
}

fn state() -> State {
    let founder = identity(1);
    let founder =
        Founder { peer: founder.peer_id(), vrf: founder.vrf().public(), class: 0, power: MicroPower(1_000_000) };
    let (network, name) = (NetworkId::from_name("leases"), "leases".into());
    let genesis = Genesis { network, name, time_ms: 0, founders: vec![founder], parameters: Parameters::demo() };
    State::genesis(genesis).unwrap()
}

fn consent(trainer: u8, height: u64, state: &State) -> LeaseConsent {
    let ledger = state.ledger();
    let signature = LeaseReport::consent(&identity(trainer), &ledger, &user(), &RUN, height);
    LeaseConsent { run: RUN, ledger, height, signature }
}

/// The user of a run, with consents of these trainers.
fn holding(trainers: &[u8]) -> Leases {
    let (mut leases, state) = (Leases::default(), state());
    for trainer in trainers {
        let heard = leases.heard(&user(), identity(*trainer).peer_id(), &consent(*trainer, 0, &state), &state, NOW);
        assert_eq!(heard, None);
    }
    assert_eq!(leases.held.len(), trainers.len());
    leases
}

fn over(end: End) -> Over {
    Over { run: RUN, owner: user(), me: user(), at: NOW, end }
}

fn well() -> Over {
    over(End::Well { root: Hash::of(b"model"), kept: true })
}

fn early(reason: AbortReason, culprit: u8) -> Over {
    over(End::Early { reason, culprit: identity(culprit).peer_id(), view: 0 })
}

/// Who is reported, and how.
fn outcomes(reports: &[LeaseReport]) -> BTreeMap<PeerId, bool> {
    reports.iter().map(|report| (report.trainer, report.kept)).collect()
}

fn expected(outcomes: &[(u8, bool)]) -> BTreeMap<PeerId, bool> {
    outcomes.iter().map(|(trainer, kept)| (identity(*trainer).peer_id(), *kept)).collect()
}

fn gone(leases: &mut Leases, trainer: u8, reason: Option<AbortReason>, now: Time) {
    let lost = identity(trainer).peer_id();
    let presence = |peer: &PeerId| if *peer == lost { Presence::Gone(reason) } else { Presence::Here };
    leases.watch(presence, now);
}

#[test]
fn a_trainer_says_the_same_again_until_the_run_or_the_ledger_is_another() {
    let (mut leases, state) = (Leases::default(), state());
    let mut said = |run, now| leases.consent(&identity(2), (run, user()), &state, now);
    let first = said(RUN, NOW).expect("at once");
    assert_eq!(first, consent(2, 0, &state));
    assert_eq!(said(RUN, NOW + Duration::from_ms(4_999)), None);
    assert_eq!(said(RUN, NOW + SAY_AGAIN), Some(first));
    let other = RunId([8; 32]);
    assert_eq!(said(other, NOW + SAY_AGAIN).map(|consent| consent.run), Some(other));
}

#[test]
fn a_long_lease_is_renewed_and_reported_in_between() {
    let (mut trainer, mut leases) = (Leases::default(), Leases::default());
    let mut said = |state: &State, now: Time| {
        let consent = trainer.consent(&identity(2), (RUN, user()), state, now).expect("it is due");
        (consent, leases.heard(&user(), identity(2).peer_id(), &consent, state, now))
    };
    let (first, told) = said(&state(), NOW);
    assert_eq!((first.height, told), (0, None));
    let later = NOW + SAY_AGAIN;
    assert_eq!(said(&state().at(LEASE_RENEWAL_BLOCKS - 1), later), (first, None), "not yet");
    let (second, told) = said(&state().at(LEASE_RENEWAL_BLOCKS), later + SAY_AGAIN);
    assert_eq!(second.height, LEASE_RENEWAL_BLOCKS);
    assert_eq!(told, Some(report(identity(2).peer_id(), &first, true)));
    // The end is told of the latest; for how long it was wanted counts from the beginning.
    gone(&mut leases, 2, None, NOW + WANTED);
    assert_eq!(leases.over(&well(), WANTED, true), [report(identity(2).peer_id(), &second, true)]);
}

#[test]
fn whoever_was_there_has_kept_its_lease_and_whoever_was_lost_has_not() {
    let mut leases = holding(&[2, 3, 4]);
    gone(&mut leases, 3, Some(AbortReason::MemberLost), NOW + Duration::from_s(5));
    assert_eq!(outcomes(&leases.over(&well(), WANTED, true)), expected(&[(2, true), (3, false), (4, true)]));
    assert!(leases.over(&well(), WANTED, true).is_empty(), "once");
}

#[test]
fn who_comes_back_or_has_stayed_as_long_as_it_was_wanted_has_kept_its_lease() {
    let mut leases = holding(&[2, 3, 4]);
    gone(&mut leases, 2, Some(AbortReason::MemberLost), NOW + Duration::from_s(5));
    leases.watch(|_| Presence::Here, NOW + Duration::from_s(10));
    gone(&mut leases, 3, None, NOW + WANTED);
    assert_eq!(outcomes(&leases.over(&well(), WANTED, true)), expected(&[(2, true), (3, true), (4, true)]));
}

#[test]
fn who_had_to_leave_is_not_reported() {
    let mut leases = holding(&[2, 3]);
    gone(&mut leases, 3, Some(AbortReason::NotAllowed), NOW);
    assert_eq!(outcomes(&leases.over(&well(), WANTED, true)), expected(&[(2, true)]));
}

#[test]
fn a_user_that_stops_its_run_reports_and_one_that_fails_blames_nobody() {
    let ended = |over: Over, hears_others: bool| {
        let mut leases = holding(&[2, 3]);
        gone(&mut leases, 3, Some(AbortReason::MemberLost), NOW);
        outcomes(&leases.over(&over, WANTED, hears_others))
    };
    assert_eq!(ended(early(AbortReason::Stopped, 1), true), expected(&[(2, true), (3, false)]));
    assert_eq!(ended(well(), false), expected(&[(2, true)]), "who hears nobody blames no one");
    for over in [
        early(AbortReason::MemberLost, 1),
        early(AbortReason::CannotCompute, 1),
        early(AbortReason::NoMajority, 2),
        early(AbortReason::Stopped, 2),
        Over { run: RunId([8; 32]), ..well() },
    ] {
        assert!(ended(over, true).is_empty(), "{over:?}");
    }
}

#[test]
fn forged_strange_and_early_consents_are_not_held() {
    let (mut leases, state) = (Leases::default(), state());
    let trainer = identity(2).peer_id();
    let good = consent(2, 0, &state);
    for bad in [
        consent(3, 0, &state),
        consent(2, AHEAD_BLOCKS_MAX + 1, &state),
        LeaseConsent { ledger: Hash([1; 32]), ..good },
        LeaseConsent { height: 1, ..good },
        LeaseConsent { run: RunId([8; 32]), ..good },
    ] {
        leases.heard(&user(), trainer, &bad, &state, NOW);
        assert!(leases.held.is_empty(), "{bad:?}");
    }
    assert_eq!(leases.heard(&identity(9).peer_id(), trainer, &good, &state, NOW), None);
    assert!(leases.held.is_empty(), "to another user");
    leases.heard(&user(), trainer, &good, &state, NOW);
    assert_eq!(leases.held.len(), 1);
}

#[test]
fn consents_are_bounded() {
    let (mut leases, state) = (Leases::default(), state());
    for trainer in 2..=LEASES_HELD_MAX as u8 + 5 {
        leases.heard(&user(), identity(trainer).peer_id(), &consent(trainer, 0, &state), &state, NOW);
    }
    assert_eq!(leases.held.len(), LEASES_HELD_MAX);
    // Another run of ours begins with none.
    let other = RunId([8; 32]);
    let signature = LeaseReport::consent(&identity(2), &state.ledger(), &user(), &other, 0);
    let consent = LeaseConsent { run: other, ledger: state.ledger(), height: 0, signature };
    leases.heard(&user(), identity(2).peer_id(), &consent, &state, NOW);
    assert_eq!(leases.held.len(), 1);
}
