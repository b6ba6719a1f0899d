//! Leases: consenting, as a trainer, that the user of a run reports on one's part
//! in it, and reporting, as the user, how the others' parts ended.
//!
//! A consent is said again while the run goes on, for messages get lost and users
//! restart. The user keeps those of its members, and makes a report of each when
//! its run is over: kept, if the machine was there to the end, or at least as long as it
//! was asked for. A run that ends by the user's own fault is reported by nobody, and
//! who hears nobody at all blames no one: then the fault is its own.

use super::Trust;
use super::words::LeaseConsent;
use crate::ids::{PeerId, RunId};
use crate::ledger::limits::LEASE_RENEWAL_BLOCKS;
use crate::ledger::{Action, LeaseReport, State};
use crate::outbox::Outbox;
use crate::run::ends::{End, Over};
use crate::run::report::AbortReason;
use crate::time::{Duration, Time};
use crate::wire::Identity;
use crate::wire::limits::LEASES_HELD_MAX;
use std::collections::BTreeMap;

/// A consent is said again after so long.
const SAY_AGAIN: Duration = Duration::from_s(5);
/// How many blocks a trainer may be ahead of its user.
const AHEAD_BLOCKS_MAX: u64 = 8;

/// Our own consent for the run that goes on.
#[derive(Debug)]
struct Given {
    consent: LeaseConsent,
    due: Time,
}

/// A machine that takes part in our run.
#[derive(Debug)]
struct Held {
    consent: LeaseConsent,
    since: Time,
    /// When it was seen to have left, unless it is there.
    left: Option<Time>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    given: Option<Given>,
    /// The own run that `held` is about.
    run: Option<RunId>,
    held: BTreeMap<PeerId, Held>,
}

/// What a run's user knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Here,
    /// Not in the run (any more), and why it left, if that was just now.
    Gone(Option<AbortReason>),
}

impl Leases {
    /// What to tell the `user` of a run that we take part in, if it is time.
    pub(crate) fn consent(
        &mut self,
        identity: &Identity,
        (run, user): (RunId, PeerId),
        state: &State,
        now: Time,
    ) -> Option<LeaseConsent> {
        let (ledger, height) = (state.ledger(), state.height());
        let stands = |given: &Given| {
            let LeaseConsent { run: of, ledger: on, height: from, .. } = given.consent;
            (of, on) == (run, ledger) && height < from.saturating_add(LEASE_RENEWAL_BLOCKS)
        };
        let given = self.given.take().filter(stands).unwrap_or_else(|| {
            let signature = LeaseReport::consent(identity, &ledger, &user, &run, height);
            Given { consent: LeaseConsent { run, ledger, height, signature }, due: now }
        });
        let is_due = given.due <= now;
        let Given { consent, due } = *self.given.insert(given);
        self.given = Some(Given { consent, due: if is_due { now + SAY_AGAIN } else { due } });
        is_due.then_some(consent)
    }

    /// A member of our own run consents. If that renews what it said long ago, the
    /// time until now is reported.
    pub(crate) fn heard(
        &mut self,
        me: &PeerId,
        trainer: PeerId,
        consent: &LeaseConsent,
        state: &State,
        now: Time,
    ) -> Option<LeaseReport> {
        if self.run != Some(consent.run) {
            self.held.clear();
            self.run = Some(consent.run);
        }
        let before = self.held.get(&trainer).filter(|held| held.consent.ledger == consent.ledger);
        let renews = |held: &Held| consent.height >= held.consent.height.saturating_add(LEASE_RENEWAL_BLOCKS);
        if before.is_some_and(|held| !renews(held)) {
            return None;
        }
        let is_timely = consent.ledger == state.ledger() && consent.height <= state.height() + AHEAD_BLOCKS_MAX;
        let has_room = before.is_some() || self.held.len() < LEASES_HELD_MAX;
        if !is_timely || !has_room || !report(trainer, consent, true).is_consented(&consent.ledger, me) {
            return None;
        }
        let since = before.map_or(now, |held| held.since);
        let until_now = before.map(|held| report(trainer, &held.consent, true));
        self.held.insert(trainer, Held { consent: *consent, since, left: None });
        until_now
    }

    /// Sees who is in our own run and who is not.
    pub(crate) fn watch(&mut self, presence: impl Fn(&PeerId) -> Presence, now: Time) {
        self.held.retain(|trainer, held| match presence(trainer) {
            Presence::Here => {
                held.left = None;
                true
            }
            // Its permission has ended: it left because it had to.
            Presence::Gone(Some(AbortReason::NotAllowed)) if held.left.is_none() => false,
            Presence::Gone(_) => {
                held.left.get_or_insert(now);
                true
            }
        });
    }

    /// Our own run is over: what to report. Machines were wanted for `wanted`.
    pub(crate) fn over(&mut self, over: &Over, wanted: Duration, hears_others: bool) -> Vec<LeaseReport> {
        let held = std::mem::take(&mut self.held);
        let by_user = |reason, culprit| reason == AbortReason::Stopped && culprit == over.me;
        let is_fair = match over.end {
            End::Well { .. } => true,
            End::Early { reason, culprit, .. } => by_user(reason, culprit),
        };
        if self.run.take() != Some(over.run) || !is_fair {
            return Vec::new();
        }
        let told = held.into_iter().filter_map(|(trainer, Held { consent, since, left })| {
            let kept = left.is_none_or(|left| left >= since + wanted);
            (kept || hears_others).then(|| report(trainer, &consent, kept))
        });
        told.collect()
    }
}

fn report(trainer: PeerId, consent: &LeaseConsent, kept: bool) -> LeaseReport {
    LeaseReport { trainer, run: consent.run, height: consent.height, consent: consent.signature, kept }
}

impl Trust {
    /// Whether this peer hears anybody at all.
    pub(crate) fn hears_others(&self) -> bool {
        !self.connected.is_empty()
    }

    /// Reports a lease, if that counts.
    pub(crate) fn report_lease(&mut self, report: LeaseReport, now: Time, out: &mut Outbox) {
        let me = self.identity.peer_id();
        if self.state().is_some_and(|state| state.lease_mass(&me, &report).is_ok()) {
            self.submit(Action::Lease(report), now, out);
        }
    }
}

#[cfg(test)]
mod tests;
