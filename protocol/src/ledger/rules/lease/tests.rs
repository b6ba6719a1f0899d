//! What takes weeks to come about: old consents, full tables, long leases.

use super::*;
use crate::ids::{NetworkId, RunId};
use crate::ledger::limits::LEASE_USERS_MAX;
use crate::ledger::{Founder, Genesis, Parameters};
use crate::power::MicroPower;
use crate::wire::Identity;

fn identity(number: u8) -> Identity {
    Identity::from_secret([number; 32])
}

/// A ledger of so many founders, the first with three times the power of each other.
fn state(founders: u8) -> State {
    let founder = |number| {
        let identity = identity(number);
        let power = MicroPower(if number == 1 { 30_000_000 } else { 10_000_000 });
        Founder { peer: identity.peer_id(), vrf: identity.vrf().public(), class: 0, power }
    };
    let mut founders: Vec<_> = (1..=founders).map(founder).collect();
    founders.sort_unstable_by_key(|founder| founder.peer);
    let parameters = Parameters { probe_interval_ms: 100_000, epoch_ms: 1_000, ..Parameters::demo() };
    let network = NetworkId::from_name("leases");
    State::genesis(Genesis { network, name: "leases".into(), time_ms: 0, founders, parameters }).unwrap()
}

impl State {
    /// The state as it would be at this height with the weights of now.
    pub(crate) fn at(mut self, height: u64) -> Self {
        let epoch = self.epoch().clone();
        self.height = height;
        for height in [height.saturating_sub(2), height] {
            self.epochs.insert(height, epoch.clone());
        }
        self
    }
}

fn report(user: u8, trainer: u8, state: &State, height: u64) -> LeaseReport {
    let run = RunId([user; 32]);
    let (trainer, user) = (identity(trainer), identity(user).peer_id());
    let consent = LeaseReport::consent(&trainer, &state.ledger, &user, &run, height);
    LeaseReport { trainer: trainer.peer_id(), run, height, consent, kept: true }
}

#[test]
fn a_consent_is_good_for_a_while() {
    let state = state(3).at(LEASE_BLOCKS_MAX + 10);
    let judged = |height| judge(&state, &identity(1).peer_id(), &report(1, 2, &state, height), state.height);
    assert!(judged(10).is_ok());
    assert_eq!(judged(9), Err(Refusal::NoLease(9)));
    assert_eq!(judged(u64::MAX), Err(Refusal::NoLease(u64::MAX)));
}

#[test]
fn a_lease_counts_as_the_authors_share_of_the_probes_in_its_time() {
    let state = state(3).at(20_000);
    let mass = |user, height| {
        judge(&state, &identity(user).peer_id(), &report(user, 3, &state, height), state.height).unwrap()
    };
    // A peer is asked once in 100 blocks by one of the two others and itself: three
    // seats in 100 blocks, each for one of two. The first weighs three of five.
    let probes = |blocks: u64| blocks as f64 / 100.0 * 1.5;
    let close = |found: u64, probes: f64| (found as f64 / PROBE_MASS as f64 - probes).abs() < 1e-6;
    assert!(close(mass(1, 19_000), 0.6 * probes(1_000)), "{}", mass(1, 19_000));
    assert!(close(mass(2, 19_000), 0.2 * probes(1_000)));
    // What is older than 64 probes would not be remembered either.
    assert!(close(mass(1, 10_000), 0.6 * 64.0));
    assert_eq!(mass(1, 10_000), mass(1, 1));
}

#[test]
fn users_of_one_machine_are_bounded_and_the_oldest_makes_room() {
    let users = LEASE_USERS_MAX as u8 + 2;
    let mut state = state(users + 1).at(1_000);
    let trainer = users + 1;
    let tell = |state: &mut State, user: u8, height: u64| {
        let report = report(user, trainer, state, height);
        lease(state, &identity(user).peer_id(), &report)
    };
    for user in 1..=users {
        state = state.at(1_000 + u64::from(user) * 100);
        let now = state.height;
        assert_eq!(tell(&mut state, user, now - 100), Ok(()));
    }
    let leases = state.leases.get(&identity(trainer).peer_id()).unwrap();
    assert_eq!((leases.latest.len(), leases.since), (LEASE_USERS_MAX, 1_200), "two have made room");
    state = state.at(10_000);
    // Who has made room can report neither the same again nor anything of that time.
    assert_eq!(tell(&mut state, 2, 1_100), Err(Refusal::NoLease(1_100)));
    assert_eq!(tell(&mut state, 1, 1_199), Err(Refusal::NoLease(1_199)));
    assert_eq!(tell(&mut state, 1, 1_200), Ok(()));
    // What is older than any consent can be is dropped, and bars nobody.
    state = state.at(10_001 + LEASE_BLOCKS_MAX);
    assert_eq!(tell(&mut state, 3, 10_001), Ok(()));
    let leases = state.leases.get(&identity(trainer).peer_id()).unwrap();
    assert_eq!((leases.latest.len(), leases.since), (1, 1_300));
    let one = state.reliability.get(&identity(trainer).peer_id()).unwrap();
    assert_eq!((one.leases_ever, one.leases_kept_ever), (u64::from(users) + 2, u64::from(users) + 2));
}

#[test]
fn a_consent_counts_once_whatever_else_is_said_of_it() {
    let mut state = state(3).at(1_000);
    let user = identity(1).peer_id();
    let told = report(1, 2, &state, 900);
    assert_eq!(lease(&mut state, &user, &told), Ok(()));
    state = state.at(1_100);
    for again in [told, LeaseReport { kept: false, ..told }, report(1, 2, &state, 899)] {
        assert_eq!(lease(&mut state, &user, &again), Err(Refusal::NoLease(again.height)));
    }
}
