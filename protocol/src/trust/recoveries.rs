//! Recoveries that others follow: what this peer's owner gets to see, and which
//! of them this peer follows.
//!
//! A peer tells on which chain it is. Who hears of a chain of its own ledger
//! that it does not know asks for the recovery that leads there. It is followed
//! by the owner's command, of which a consent is one: a new member has signed
//! it. Until then it is an offer, and blocks are fetched only up to its height.
//! Whoever has gone on without it keeps what is another ledger from there on,
//! which people are told.
//!
//! What others say here is not proven but for the consents: anybody can recover
//! a ledger with a committee of its own. So offers are few, those of members
//! of the present committee come first, and nothing follows from them.

use super::chain::Chain;
use super::words::LedgerStatus;
use super::{ANSWER_MAX, SPLIT_AGAIN, Trust};
use crate::consensus::{Recovery, RecoveryAsk, RecoveryError, RecoveryReply, Sync};
use crate::effect::Event;
use crate::ids::{Hash, PeerId};
use crate::ledger::State;
use crate::outbox::{About, Outbox};
use crate::time::{Duration, Time};
use crate::wire::Message;
use std::collections::BTreeMap;

/// Offers that are kept.
pub(crate) const OFFERS_MAX: usize = 8;
/// Peers of other chains that are remembered.
const PEERS_MAX: usize = 256;
/// A peer is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_s(30);
/// What was heard of a peer of another chain counts for so long.
const STALE_AFTER: Duration = Duration::from_s(60);

/// What is known of other chains of this ledger.
#[derive(Debug, Default)]
pub(crate) struct Recoveries {
    /// Complete recoveries that this peer could follow, now or once it has caught up.
    offers: Vec<Recovery>,
    /// Whom we have asked, and when it must have answered.
    asked: Option<(PeerId, Time)>,
    /// What peers of other chains have answered lately.
    answered: BTreeMap<PeerId, (Answer, Time)>,
    /// A chain that cannot be reached from here any more, and when it was last heard of.
    apart: Option<(Hash, Time)>,
    told_at: Option<Time>,
}

/// How a peer came to its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// By the recovery of this hash, which begins at this height.
    By(Hash, u64),
    /// Not from ours.
    Apart,
}

impl Recoveries {
    /// The recoveries that others follow and this peer could.
    pub(crate) fn offers(&self) -> &[Recovery] {
        &self.offers
    }

    /// A chain of this ledger that others are on and that never meets ours again.
    pub(crate) fn apart(&self, now: Time) -> Option<Hash> {
        self.apart.filter(|(_, at)| now.since(*at) < STALE_AFTER).map(|(chain, _)| chain)
    }

    /// The peer did not answer.
    pub(super) fn undelivered(&mut self, to: &PeerId) {
        self.asked = self.asked.take().filter(|(whom, _)| whom != to);
    }

    /// Keeps the offer, if it is among the best; whether it is new.
    fn keep(&mut self, offer: &Recovery, state: &State) -> bool {
        if self.offers.contains(offer) {
            return false;
        }
        let committee = state.next_committee();
        let backing = |recovery: &Recovery| -> u64 {
            // Distinct members of one committee: at most its total.
            recovery.plan.committee.weights().iter().map(|(peer, _)| committee.weight(peer)).sum()
        };
        self.offers.push(offer.clone());
        self.offers.sort_by_key(|offer| (std::cmp::Reverse(backing(offer)), offer.plan.new_chain()));
        self.offers.truncate(OFFERS_MAX);
        self.offers.contains(offer)
    }

    /// Forgets offers that cannot be followed any more, for the ledger went on without them.
    fn prune(&mut self, chain: &Chain) {
        let state = chain.state();
        self.offers.retain(|offer| offer.plan.chain == state.chain() && offer.plan.height > state.height());
    }
}

impl Trust {
    /// Takes what a peer of this ledger says of its chain.
    pub(super) fn hear_chain(&mut self, peer: PeerId, status: &LedgerStatus, now: Time, out: &mut Outbox) {
        let Some(chain) = self.chain.as_ref().filter(|chain| chain.state().ledger() == status.ledger) else { return };
        let ours = chain.state().chain();
        if status.chain == ours {
            return;
        }
        if let Some(left) = chain.recovery_of(&status.chain) {
            // It waits where we have left, or has gone on there.
            if status.height >= left.plan.height {
                self.fall_apart(status.chain, now, out);
            }
            return;
        }
        match self.recoveries.answered.get(&peer) {
            Some((Answer::By(recovery, height), at)) if now.since(*at) < STALE_AFTER => {
                let (recovery, height) = (*recovery, *height);
                let is_offer = self.recoveries.offers.iter().any(|offer| offer.plan.new_chain() == recovery);
                if is_offer && let Some(last) = height.checked_sub(1) {
                    self.behind(peer, last.min(status.height));
                }
            }
            Some((Answer::Apart, at)) if now.since(*at) < ASK_AGAIN => self.fall_apart(status.chain, now, out),
            _ if self.recoveries.asked.is_none_or(|(_, until)| until <= now) => {
                self.recoveries.asked = Some((peer, now + ANSWER_MAX));
                out.send(peer, Message::RecoveryAsk(RecoveryAsk { chain: ours }), About::Ledger, now);
            }
            _ => {}
        }
    }

    /// Tells a peer of another chain how we came to ours.
    pub(super) fn recovery_wanted(&self, by: PeerId, ask: &RecoveryAsk, now: Time, out: &mut Outbox) {
        let Some(chain) = &self.chain else { return };
        let recovery = chain.recovery_of(&ask.chain).cloned();
        let reply = RecoveryReply { chain: ask.chain, recovery };
        out.send(by, Message::RecoveryReply(Box::new(reply)), About::Ledger, now);
    }

    /// Takes the answer of a peer that we asked.
    pub(super) fn recovery_shown(&mut self, from: PeerId, reply: &RecoveryReply, now: Time, out: &mut Outbox) {
        let is_asked = self.recoveries.asked.is_some_and(|(whom, _)| whom == from);
        let Some(chain) = self.chain.as_ref().filter(|chain| is_asked && chain.state().chain() == reply.chain) else {
            return;
        };
        self.recoveries.asked = None;
        let state = chain.state().clone();
        let Some(recovery) = &reply.recovery else {
            return self.note(from, Answer::Apart, now);
        };
        let plan = &recovery.plan;
        let wanted = if plan.chain == reply.chain {
            recovery.is_wanted().map_err(|why| why.to_string())
        } else {
            Err("it is of another chain".into())
        };
        if let Err(why) = wanted {
            self.note(from, Answer::Apart, now);
            return out.notify(Event::Refused { why: format!("a recovery shown by {}: {why}", from.short()) });
        }
        let (name, height) = (plan.new_chain(), plan.height);
        let here = if height == state.height() + 1 { state.recover(recovery).map(drop) } else { Ok(()) };
        if height <= state.height() || matches!(here, Err(RecoveryError::OtherParent { .. })) {
            self.note(from, Answer::Apart, now);
            return self.fall_apart(name, now, out);
        }
        if let Err(why) = here {
            self.note(from, Answer::Apart, now);
            return out.notify(Event::Refused { why: format!("a recovery shown by {}: {why}", from.short()) });
        }
        self.note(from, Answer::By(name, height), now);
        self.behind(from, height - 1);
        if self.recoveries.keep(recovery, &state) {
            out.notify(Event::RecoveryOffered { recovery: name, height });
        }
        self.follow_own(now, out);
    }

    /// Follows a recovery as this peer's owner says.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn recover(&mut self, recovery: &Recovery, now: Time, out: &mut Outbox) -> Result<(), String> {
        let chain = self.chain.as_mut().ok_or("there is no ledger yet: wait until `manta ledger status` shows one")?;
        chain.recover(recovery, now).map_err(|error| error.to_string())?;
        self.recoveries.prune(chain);
        // Who was asked, and how far others are, was of another chain.
        (self.sync, self.looked_at) = (Sync::default(), None);
        (self.recoveries.asked, self.recoveries.apart) = (None, None);
        self.recoveries.answered.clear();
        self.carry_out(now, out);
        let (recovery, height) = (recovery.plan.new_chain(), recovery.plan.height);
        out.notify(Event::LedgerRecovered { recovery, height });
        self.status_soon(now);
        Ok(())
    }

    /// Follows the recovery that this peer has signed itself, once it is at its place.
    pub(super) fn follow_own(&mut self, now: Time, out: &mut Outbox) {
        let me = self.identity.peer_id();
        let Some(height) = self.state().map(State::height) else { return };
        let own = |offer: &&Recovery| offer.plan.height == height + 1 && offer.plan.committee.contains(&me);
        let Some(own) = self.recoveries.offers.iter().find(own).cloned() else { return };
        if let Err(why) = self.recover(&own, now, out) {
            self.recoveries.offers.retain(|offer| *offer != own);
            out.notify(Event::Refused { why: format!("a recovery that this peer has signed: {why}") });
        }
    }

    /// After a block: what was offered for an earlier height is over.
    pub(super) fn look_at_offers(&mut self, now: Time, out: &mut Outbox) {
        let Some(chain) = &self.chain else { return };
        let state = chain.state().clone();
        let missed = |offer: &&Recovery| offer.plan.chain == state.chain() && offer.plan.height <= state.height();
        let missed = self.recoveries.offers.iter().find(missed).map(|offer| offer.plan.new_chain());
        self.recoveries.prune(chain);
        if let Some(missed) = missed {
            self.fall_apart(missed, now, out);
        }
        self.follow_own(now, out);
    }

    /// A peer has blocks of our chain up to this height, though it goes on with another.
    fn behind(&mut self, peer: PeerId, last: u64) {
        if self.state().is_some_and(|state| last > state.height()) {
            self.sync.hear(peer, last);
        }
    }

    fn note(&mut self, peer: PeerId, answer: Answer, now: Time) {
        let answered = &mut self.recoveries.answered;
        answered.retain(|_, (_, at)| now.since(*at) < STALE_AFTER);
        if answered.len() < PEERS_MAX {
            answered.insert(peer, (answer, now));
        }
    }

    /// Others go on with this ledger where we cannot follow: people are told.
    fn fall_apart(&mut self, theirs: Hash, now: Time, out: &mut Outbox) {
        self.recoveries.apart = Some((theirs, now));
        if let Some(ours) = self.state().map(State::chain)
            && self.recoveries.told_at.is_none_or(|at| now.since(at) >= SPLIT_AGAIN)
        {
            self.recoveries.told_at = Some(now);
            out.notify(Event::LedgersDiffer { ours, theirs });
        }
    }
}
