//! The node's part in membership: it shows its credentials, judges those of
//! others, and shuts out who has none.

use super::market::{ANSWER_INTERVAL_MIN, CONNECTION_SETTLES};
use super::{LISTING_INTERVAL, LISTING_LIFETIME, Node};
use crate::effect::{Effect, Event, Exclusion, Verdict};
use crate::ids::{PeerId, RunId, Serial};
use crate::market::demand::Share;
use crate::membership::{
    Credential, Hello, Members, Permission, PermissionError, Presence, Revocation, Revocations, Shown,
};
use crate::outbox::{About, Outbox};
use crate::run::machine::Machine;
use crate::run::report::AbortReason;
use crate::time::{Duration, Time};
use crate::wire::Message;
use crate::wire::limits::{ANSWERED_MAX, REVOCATIONS_PER_MESSAGE_MAX, STRANGERS_MAX};
use std::collections::BTreeMap;

/// How long a connected peer may take to show its credentials.
const GRACE: Duration = Duration::from_s(10);
/// After a greeting the same peer is greeted again at the earliest.
const GREETING_PAUSE: Duration = Duration::from_s(10);

/// What a node keeps about members.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) members: Members,
    /// Connected peers that have shown nothing that counts, and until when they may.
    strangers: BTreeMap<PeerId, Time>,
    /// Whom we have greeted, and when.
    greeted: BTreeMap<PeerId, Time>,
    presence_at: Option<Time>,
    presence_due: Option<Time>,
    /// Whose machines may see the data of the own runs.
    shares: BTreeMap<RunId, Share>,
}

impl Membership {
    pub(super) fn new(members: Members, now: Time) -> Self {
        let presence_due = members.founder().map(|_| now);
        Self {
            members,
            strangers: BTreeMap::new(),
            greeted: BTreeMap::new(),
            presence_at: None,
            presence_due,
            shares: BTreeMap::new(),
        }
    }

    /// When something is due.
    pub(super) fn timeout(&self) -> Option<Time> {
        self.strangers.values().copied().chain(self.presence_due).min()
    }

    fn presence_soon(&mut self, now: Time) {
        if let Some(planned) = self.presence_due {
            let earliest = self.presence_at.map_or(now, |at| at + ANSWER_INTERVAL_MIN).max(now);
            self.presence_due = Some(planned.min(earliest));
        }
    }

    /// Gossips what this peer shows, in a swarm where everybody asks for it.
    pub(super) fn say_presence(&mut self, now: Time, out: &mut Outbox) {
        let Some(founder) = self.members.founder() else { return };
        let credentials = self.members.own(now);
        if !credentials.is_empty() {
            out.publish(&Message::Presence(Presence { credentials }), LISTING_LIFETIME, now);
        }
        if founder == out.me() {
            for revocations in self.members.revocations().chunks(REVOCATIONS_PER_MESSAGE_MAX) {
                let revocations = revocations.to_vec();
                out.publish(&Message::Revocations(Revocations { revocations }), LISTING_LIFETIME, now);
            }
        }
        self.presence_at = Some(now);
        self.presence_due = Some(now + LISTING_INTERVAL);
    }

    /// Shows our credentials to one peer, and passes on what the founder has revoked.
    fn say_hello(&self, to: PeerId, now: Time, out: &mut Outbox) {
        let revocations = self.members.revocations();
        let mut parts = revocations.chunks(REVOCATIONS_PER_MESSAGE_MAX).map(<[Revocation]>::to_vec);
        let first = Hello { credentials: self.members.own(now), revocations: parts.next().unwrap_or_default() };
        let others = parts.map(|revocations| Hello { credentials: Vec::new(), revocations });
        let has_words = |hello: &Hello| !hello.credentials.is_empty() || !hello.revocations.is_empty();
        for hello in std::iter::once(first).chain(others).filter(has_words) {
            out.send(to, Message::Hello(hello), About::Nothing, now);
        }
    }

    /// As [`Self::say_hello`], to those for whom it matters and not too often.
    pub(super) fn greet(&mut self, peer: PeerId, now: Time, out: &mut Outbox) {
        self.greeted.retain(|_, at| now.since(*at) < GREETING_PAUSE);
        let matters = self.members.founder().is_some() || self.members.is_our_issuer(&peer);
        if matters && self.greeted.len() < ANSWERED_MAX && !self.greeted.contains_key(&peer) {
            self.greeted.insert(peer, now);
            self.say_hello(peer, now, out);
        }
    }

    /// An own run begins with data that is shared like this.
    pub(super) fn run_matched(&mut self, run: RunId, share: Share) {
        self.shares.insert(run, share);
    }

    /// Only the run that goes on is remembered.
    pub(super) fn forget_runs_but(&mut self, run: Option<RunId>) {
        self.shares.retain(|of, _| Some(*of) == run);
    }
}

impl Node {
    /// Whether `peer` may see data of this peer that is shared like this.
    pub fn may_see(&self, share: Share, peer: &PeerId, now: Time) -> bool {
        self.membership.members.may_see(share, peer, now)
    }

    /// The permissions that other peers have shown and that count here: of the
    /// swarm's founder and of this peer. In order of peers.
    pub fn permissions(&self) -> impl Iterator<Item = (&PeerId, &Permission)> {
        self.membership.members.permissions()
    }

    /// Whether this peer itself may take part in its swarm.
    pub fn is_member(&self, now: Time) -> bool {
        let (members, me) = (&self.membership.members, self.out.me());
        members.founder().is_none_or(|founder| {
            founder == me || members.own(now).iter().any(|own| own.permission().issuer == founder)
        })
    }

    pub(super) fn met(&mut self, peer: PeerId, now: Time) {
        self.membership.greet(peer, now, &mut self.out);
        if self.membership.members.admits(&peer, now) {
            return self.announce_for(peer, now + CONNECTION_SETTLES, now);
        }
        let strangers = &mut self.membership.strangers;
        if strangers.len() >= STRANGERS_MAX && !strangers.contains_key(&peer) {
            return self.out.push(Effect::Disconnect { peer, why: Exclusion::NotInvited });
        }
        strangers.entry(peer).or_insert(now + GRACE);
    }

    pub(super) fn parted(&mut self, peer: &PeerId) {
        self.membership.strangers.remove(peer);
        self.membership.greeted.remove(peer);
    }

    /// Credentials as gossip: of use only where everybody must show some.
    pub(super) fn presence_heard(&mut self, author: PeerId, seq: u64, presence: Presence, now: Time) -> Verdict {
        if self.membership.members.founder().is_none() {
            return Verdict::Ignore;
        }
        self.shown(author, seq, presence.credentials, now);
        let admitted = self.membership.members.admits(&author, now);
        let passed_on = admitted && self.membership.members.pass_on(&author, seq, now);
        if passed_on { Verdict::Accept } else { Verdict::Ignore }
    }

    pub(super) fn revocations_heard(&mut self, author: PeerId, told: Revocations, now: Time) -> Verdict {
        if self.membership.members.founder() != Some(author) {
            return Verdict::Ignore;
        }
        self.take_revocations(author, told.revocations, now);
        Verdict::Accept
    }

    pub(super) fn hello_heard(&mut self, from: PeerId, seq: u64, hello: Hello, now: Time) {
        if !hello.credentials.is_empty() {
            self.shown(from, seq, hello.credentials, now);
        }
        self.take_revocations(from, hello.revocations, now);
    }

    fn shown(&mut self, peer: PeerId, seq: u64, credentials: Vec<Credential>, now: Time) {
        let known_before = self.membership.members.admits(&peer, now);
        match self.membership.members.show(peer, seq, credentials, now) {
            Shown::New(permissions) => {
                for permission in permissions {
                    self.out.notify(Event::Admitted { peer, permission });
                }
                if self.membership.members.admits(&peer, now) && !known_before {
                    self.membership.strangers.remove(&peer);
                    // What we said before, it has ignored if it did not know us either.
                    self.announce_for(peer, now, now);
                    self.membership.presence_soon(now);
                }
            }
            Shown::Known => {}
            Shown::Full => {
                let why = "credentials that count, but too many peers show such already";
                self.out.notify(Event::Refused { why: why.into() });
            }
            Shown::Nothing(problem) => {
                if let Some(problem) = problem {
                    self.out.notify(Event::Refused { why: format!("credentials of {}: {problem}", peer.short()) });
                }
                self.judge_again(&[peer], now);
            }
        }
    }

    fn take_revocations(&mut self, from: PeerId, revocations: Vec<Revocation>, now: Time) {
        // One forgery is enough: each costs a signature to find out.
        let forged = revocations.into_iter().find_map(|revocation| self.take_revocation(revocation, now).err());
        if let Some(error) = forged {
            self.out.notify(Event::Refused { why: error.to_string() });
            self.out.push(Effect::Misbehaviour { peer: from, what: error.to_string() });
        }
    }

    fn take_revocation(&mut self, revocation: Revocation, now: Time) -> Result<(), PermissionError> {
        let was_member = self.is_member(now);
        if let Some(losers) = self.membership.members.revoke(revocation, now)? {
            self.out.notify(Event::Revoked(Box::new(revocation)));
            if was_member && !self.is_member(now) {
                self.out.notify(Event::Dismissed);
            }
            self.judge_again(&losers, now);
        }
        Ok(())
    }

    /// Takes back a permission of our own.
    pub(super) fn revoke(&mut self, serial: Serial, expires_at: Time, now: Time) {
        if !self.membership.members.can_revoke(&self.out.me()) {
            let why = "too many revocations stand already; found another swarm, or wait for the oldest to expire";
            return self.out.notify(Event::Refused { why: why.into() });
        }
        let revocation = self.out.sign_revocation(serial, expires_at);
        if self.membership.members.founder() == Some(self.out.me()) {
            // Before the connections to the revoked are closed, so that they hear it, too.
            let revocations = vec![revocation];
            self.out.publish(&Message::Revocations(Revocations { revocations }), LISTING_LIFETIME, now);
        }
        if let Err(error) = self.take_revocation(revocation, now) {
            self.out.notify(Event::Refused { why: error.to_string() });
        }
    }

    /// Those who have lost a permission lose what it was for: their place in the
    /// swarm, and in runs whose data they must not see any more.
    fn judge_again(&mut self, peers: &[PeerId], now: Time) {
        for peer in peers {
            let members = &self.membership.members;
            let admitted = members.admits(peer, now);
            let run = self.run.as_ref().filter(|machine| machine.is_member(peer)).map(Machine::run);
            let share = run.and_then(|run| self.membership.shares.get(&run));
            let may_take_part = admitted && share.is_none_or(|share| members.may_see(*share, peer, now));
            if let Some(run) = run.filter(|_| !may_take_part) {
                self.with_run(run, now, |machine, out| machine.exclude(*peer, AbortReason::NotAllowed, now, out));
            }
            if !admitted {
                self.book.forget(peer);
                self.hold.dismiss(peer);
                self.membership.strangers.remove(peer);
                self.out.push(Effect::Disconnect { peer: *peer, why: Exclusion::Dismissed });
            }
        }
    }

    /// What is due by now.
    pub(super) fn settle_membership(&mut self, now: Time) {
        if self.membership.presence_due.is_some_and(|due| due <= now) {
            self.membership.say_presence(now, &mut self.out);
        }
        let overdue = |(peer, until): (&PeerId, &Time)| (*until <= now).then_some(*peer);
        let overdue: Vec<_> = self.membership.strangers.iter().filter_map(overdue).collect();
        for peer in overdue {
            self.membership.strangers.remove(&peer);
            self.out.push(Effect::Disconnect { peer, why: Exclusion::NotInvited });
        }
    }

    /// Forgets what has ended, and whom it was for.
    pub(super) fn expire_membership(&mut self, now: Time) {
        let was_member = self.is_member(now - LISTING_INTERVAL);
        let losers = self.membership.members.expire(now);
        if was_member && !self.is_member(now) {
            self.out.notify(Event::Dismissed);
        }
        self.judge_again(&losers, now);
    }
}
