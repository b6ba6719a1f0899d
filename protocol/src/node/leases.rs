//! The node's part in leases: its word as a trainer, and its reports as a user.

use super::Node;
use crate::ids::PeerId;
use crate::outbox::About;
use crate::run::ends::Over;
use crate::run::machine::Machine;
use crate::time::Time;
use crate::trust::leases::Presence;
use crate::trust::words::LeaseConsent;
use crate::wire::Message;

impl Node {
    /// Tells the user of the run that we are in that it may report on us, and, in a
    /// run of our own, sees who is there.
    pub(super) fn settle_leases(&mut self, now: Time) {
        let Some(machine) = &self.run else { return };
        let me = self.out.me();
        if machine.is_owner() {
            return self.leases.watch(|peer| presence(machine, peer), now);
        }
        let Some(state) = self.trust.as_ref().and_then(|trust| trust.state()) else { return };
        if machine.is_member(&me) {
            let (run, user) = (machine.run(), machine.owner());
            if let Some(consent) = self.leases.consent(self.out.identity(), (run, user), state, now) {
                self.out.send(user, Message::LeaseConsent(consent), About::Nothing, now);
            }
        }
    }

    /// A trainer consents. Only members of our own run have anything to consent to.
    pub(super) fn lease_heard(&mut self, from: PeerId, consent: &LeaseConsent, now: Time) {
        let ours = self.run.as_ref().filter(|machine| machine.is_owner() && machine.run() == consent.run);
        let is_member = ours.is_some_and(|machine| machine.is_member(&from)) && from != self.out.me();
        let Some(trust) = self.trust.as_mut().filter(|_| is_member) else { return };
        let Some(state) = trust.state() else { return };
        if let Some(report) = self.leases.heard(&self.out.me(), from, consent, state, now) {
            trust.report_lease(report, now, &mut self.out);
        }
    }

    /// A run of our own is over: its members have kept their leases, or not.
    pub(super) fn leases_over(&mut self, machine: &Machine, over: &Over, now: Time) {
        let Some(trust) = self.trust.as_mut().filter(|_| machine.is_owner()) else { return };
        self.leases.watch(|peer| presence(machine, peer), now);
        for report in self.leases.over(over, machine.duration(), trust.hears_others()) {
            trust.report_lease(report, now, &mut self.out);
        }
    }
}

fn presence(machine: &Machine, peer: &PeerId) -> Presence {
    if machine.is_member(peer) { Presence::Here } else { Presence::Gone(machine.departure(peer)) }
}
