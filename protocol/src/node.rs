//! The node: routes each input to its room and collects the effects.

mod leases;
mod ledger;
mod market;
mod membership;
mod runs;

use crate::effect::{Effect, Event, Verdict};
use crate::ids::{NetworkId, OrderId, PeerId};
use crate::input::{Command, Input};
use crate::market::book::{Change, HeardDemand, OrderBook};
use crate::market::listing::{Listing, Withdrawal};
use crate::market::order::Order;
use crate::market::reservation::{Hold, WordOrder};
use crate::membership::{Charter, Members};
use crate::outbox::Outbox;
use crate::run::ends::Ends;
use crate::run::machine::{ChunkArrived, Machine, Market};
use crate::run::report::{Abort, AbortReason, Heartbeat, Ready, RoundReport};
use crate::run::view::{CaughtUp, Finished, Join, StateOffer, Suspect, ViewAccept, ViewAsk};
use crate::time::{Duration, Time};
use crate::trust::Trust;
use crate::trust::leases::Leases;
use crate::wire::limits::{CLOCK_SKEW_MAX, FRAME_LIFETIME_MAX, GOSSIP_LIFETIME_MAX};
use crate::wire::{Envelope, EnvelopeError, Identity, Message};
use membership::Membership;
use std::collections::BTreeMap;

/// How long a listing stands without being said again.
const LISTING_LIFETIME: Duration = Duration::from_s(180);
/// How often a listing is said again.
const LISTING_INTERVAL: Duration = Duration::from_s(60);

/// What a node is told at its birth.
#[derive(Clone, Debug)]
pub struct Config {
    /// The swarm it belongs to.
    pub network: NetworkId,
    /// Its secret key.
    pub identity: Identity,
}

/// A peer's whole mind. See the [crate] documentation for how to drive it.
#[derive(Debug)]
pub struct Node {
    out: Outbox,
    book: OrderBook,
    membership: Membership,
    offer: Option<Listing>,
    /// Whether others hear of the offer.
    offer_public: bool,
    announced_at: Option<Time>,
    announced_busy: Option<bool>,
    announce_due: Option<Time>,
    /// For whom the offer was or will be said again, and when.
    answered: BTreeMap<PeerId, Time>,
    hold: Hold,
    words: WordOrder,
    orders: BTreeMap<OrderId, Order>,
    run: Option<Machine>,
    /// How runs ended here, for members that missed it.
    ends: Ends,
    /// The part in the swarm's ledger, if this peer takes any.
    trust: Option<Trust>,
    leases: Leases,
    expire_at: Time,
}

impl Node {
    /// A node of an open swarm that knows nobody and offers nothing yet.
    pub fn new(config: Config, now: Time) -> Self {
        Self::with_charter(config, Charter::default(), now)
    }

    /// A node that knows by whom its swarm was founded, if anybody, and who has
    /// invited it; else as [`Self::new`].
    pub fn with_charter(config: Config, charter: Charter, now: Time) -> Self {
        let me = config.identity.peer_id();
        let members = Members::new(me, config.network, charter, now);
        Self {
            membership: Membership::new(members, now),
            out: Outbox::new(config.identity, config.network),
            book: OrderBook::new(me),
            offer: None,
            offer_public: false,
            announced_at: None,
            announced_busy: None,
            announce_due: None,
            answered: BTreeMap::new(),
            hold: Hold::Free,
            words: WordOrder::default(),
            orders: BTreeMap::new(),
            run: None,
            ends: Ends::default(),
            trust: None,
            leases: Leases::default(),
            expire_at: now + LISTING_INTERVAL,
        }
    }

    /// Takes one input. Drain [`Self::poll_effect`] afterwards.
    pub fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Command(command) => self.command(command, now),
            Input::PeerConnected { peer } => {
                self.met(peer, now);
                self.ends.met(peer, now);
                self.with_trust(|trust, _| trust.connected(peer, now));
            }
            Input::PeerDisconnected { peer } => {
                self.parted(&peer);
                self.with_trust(|trust, _| trust.disconnected(&peer, now));
                if let Some(run) = &mut self.run {
                    run.disconnected(peer, now, &mut self.out);
                }
            }
            Input::Gossip { message, bytes } => {
                let verdict = self.gossip(&bytes, now);
                self.out.push(Effect::GossipVerdict { message, verdict });
            }
            Input::Frame { from, bytes } => self.frame(from, &bytes, now),
            Input::FrameDelivered { id } => self.frame_landed(id, true, now),
            Input::FrameFailed { id } => self.frame_landed(id, false, now),
            Input::ChunkArrived { transfer, from, run, view, exchange, phase, chunk, elements } => {
                let arrived = ChunkArrived { transfer, from, view, exchange, phase, chunk, elements };
                match self.run.as_mut().filter(|machine| machine.run() == run) {
                    Some(machine) => machine.chunk(arrived, now, &mut self.out),
                    None => self.out.push(Effect::ChunkVerdict { transfer, keep: false }),
                }
            }
            Input::BulkFailed { run, peer, exchange, phase, chunk } => {
                if let Some(machine) = self.run.as_mut().filter(|machine| machine.run() == run) {
                    machine.unsent(peer, exchange, phase, chunk, now, &mut self.out);
                }
            }
            Input::Trainer { run, done } => {
                self.with_run(run, now, |machine, out| machine.trainer_done(done, now, out))
            }
            Input::TrainerFailed { run, culprit } => self.with_run(run, now, |machine, out| match culprit {
                Some(culprit) => machine.fail(AbortReason::BadGradient, culprit, now, out),
                None => machine.fail(AbortReason::CannotCompute, out.me(), now, out),
            }),
            Input::BlocksRead { to, from, blocks } => {
                self.with_trust(|trust, out| trust.blocks_read(to, from, &blocks, now, out));
            }
            Input::Drilled { task, result } => self.with_trust(|trust, out| trust.drilled(task, result, now, out)),
            Input::Tick => {}
        }
        self.settle(now);
    }

    /// The next thing that the driver should do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.out.poll_effect()
    }

    /// When to call [`Self::handle`] with [`Input::Tick`] if nothing else happens.
    pub fn poll_timeout(&self) -> Time {
        let orders = self.orders.values().map(Order::timeout).min();
        let run = self.run.as_ref().map(Machine::timeout);
        let announce = self.offer.as_ref().and(self.announce_due);
        let (hold, membership, ends) = (self.hold.timeout(), self.membership.timeout(), self.ends.timeout());
        let trust = self.trust.as_ref().map(Trust::timeout);
        let waits = [Some(self.expire_at), announce, orders, run, hold, membership, ends, trust];
        waits.into_iter().flatten().min().unwrap_or(self.expire_at)
    }

    /// Who this node is.
    pub fn peer_id(&self) -> PeerId {
        self.out.me()
    }

    /// The listings that it has heard, its own among them.
    pub fn listings(&self) -> impl Iterator<Item = (&PeerId, &Listing)> {
        self.book.listings()
    }

    /// The demands that it has heard.
    pub fn demands(&self) -> impl Iterator<Item = &HeardDemand> {
        self.book.demands()
    }

    fn command(&mut self, command: Command, now: Time) {
        match command {
            Command::Offer(listing) => self.set_offer(*listing, true, now),
            Command::OfferToSelf(listing) => self.set_offer(*listing, false, now),
            Command::Withdraw => {
                if self.offer.take().is_some() {
                    let withdrawal = Message::Withdrawal(Withdrawal {});
                    // Said even if nobody was to hear of the offer: an earlier one may have been public.
                    let sent = self.out.publish(&withdrawal, LISTING_LIFETIME, now);
                    self.book.list(self.out.me(), sent.seq, sent.expires_at, None, now);
                    self.announced_at = Some(now);
                }
            }
            Command::Order { order, spec, wish } => {
                let new = Order::new(order, *spec, &wish, now);
                if let Err(why) = self.may_order(&new) {
                    self.out.notify(Event::Refused { why });
                    self.out.notify(Event::OrderFailed {
                        order,
                        found: 0,
                        needed: usize::from(wish.members_min),
                        listings: 0,
                        mismatches: BTreeMap::new(),
                        refused: 0,
                    });
                } else {
                    self.orders.insert(order, new);
                }
            }
            Command::KeepLedger(options) => self.keep_ledger(*options, now),
            Command::Transfer { to, amount } => self.transfer(to, amount, now),
            Command::Recover(recovery) => self.recover(&recovery, now),
            Command::StandBy => self.with_trust(|trust, out| trust.stand_by(now, out)),
            Command::CancelOrder { order } => {
                if let Some(mut order) = self.orders.remove(&order) {
                    order.cancel(now, &mut self.out);
                }
            }
            Command::Resume { record } => self.resume(&record, now),
            Command::ForgetResult { run } => self.ends.let_go(run, &mut self.out),
            Command::Revoke { serial, expires_at } => self.revoke(serial, expires_at, now),
            Command::StopRun { run, reason } => {
                self.with_run(run, now, |machine, out| machine.fail(reason, out.me(), now, out));
            }
        }
    }

    fn gossip(&mut self, bytes: &[u8], now: Time) -> Verdict {
        let envelope = match Envelope::open(bytes, self.out.network()) {
            Ok(envelope) if envelope.message.kind().is_gossip() => envelope,
            Ok(envelope) => return self.refuse(format!("{:?} came as gossip", envelope.message.kind())),
            Err(error) => return self.refuse(error.to_string()),
        };
        if !in_time(&envelope, GOSSIP_LIFETIME_MAX, now) || envelope.author == self.out.me() {
            return Verdict::Ignore;
        }
        let Envelope { author, seq, expires_at, message, .. } = envelope;
        let admitted = self.membership.members.admits(&author, now);
        let change = match message {
            Message::Presence(presence) => return self.presence_heard(author, seq, presence, now),
            Message::Revocations(revocations) => return self.revocations_heard(author, revocations, now),
            // Nobody's fault: whoever passed it on may know the author better.
            _ if !admitted => return Verdict::Ignore,
            Message::Listing(listing) => {
                let change = self.book.list(author, seq, expires_at, Some(listing), now);
                if change == Change::New {
                    self.out.notify(Event::ListingHeard { peer: author });
                }
                change
            }
            Message::Withdrawal(_) => self.book.list(author, seq, expires_at, None, now),
            Message::Demand(demand) => self.demand_heard(author, seq, expires_at, demand, now),
            Message::Transaction(_) | Message::Votes(_) | Message::Proposal(_) | Message::LedgerStatus(_) => {
                return self.ledger_gossip(author, message, now);
            }
            _ => return Verdict::Reject,
        };
        if change == Change::New { Verdict::Accept } else { Verdict::Ignore }
    }

    fn frame(&mut self, from: PeerId, bytes: &[u8], now: Time) {
        let envelope = match Envelope::open(bytes, self.out.network()) {
            Ok(envelope) => envelope,
            Err(error) => return self.blame(from, &error),
        };
        if envelope.author != from || envelope.message.kind().is_gossip() {
            self.refuse("a direct message of another author or kind".into());
            return self
                .out
                .push(Effect::Misbehaviour { peer: from, what: "a direct message of another author or kind".into() });
        }
        if !in_time(&envelope, FRAME_LIFETIME_MAX, now) {
            return;
        }
        match envelope.message {
            Message::Hello(hello) => self.hello_heard(from, envelope.seq, hello, now),
            message if self.membership.members.admits(&from, now) => self.message(from, envelope.seq, message, now),
            // It may be early: its credential may still be on its way.
            _ => {}
        }
    }

    fn message(&mut self, from: PeerId, seq: u64, message: Message, now: Time) {
        let about_hold = match &message {
            Message::Reserve(reserve) => Some(reserve.spec),
            Message::Confirm(confirm) => Some(confirm.spec.hash()),
            Message::Release(release) => Some(release.spec),
            _ => None,
        };
        // A release that was overtaken must not free what was held after it. Our
        // own words come in order.
        let in_order = |spec| from == self.out.me() || self.words.is_latest(from, spec, seq, now);
        if !about_hold.is_none_or(in_order) {
            return;
        }
        match &message {
            Message::Reserve(request) => self.reserve_asked(from, seq, request, now),
            Message::ReserveReply(reply) => {
                if let Some(order) = self.orders.values_mut().find(|order| order.spec_hash() == reply.spec) {
                    order.answered(from, reply, now, &mut self.out);
                }
                if let Some(machine) = self.run.as_mut().filter(|machine| machine.spec_hash() == reply.spec) {
                    machine.recruit_answered(from, reply, now, &mut self.out);
                }
            }
            Message::Confirm(confirm) => self.confirmed(from, confirm, now),
            Message::Release(release) => self.hold.release(from, release.spec),
            Message::Ready(Ready { run, .. })
            | Message::RoundReport(RoundReport { run, .. })
            | Message::Abort(Abort { run, .. })
            | Message::Heartbeat(Heartbeat { run, .. })
            | Message::Join(Join { run, .. })
            | Message::Suspect(Suspect { run, .. })
            | Message::ViewAsk(ViewAsk { run, .. })
            | Message::ViewAccept(ViewAccept { run, .. })
            | Message::StateOffer(StateOffer { run, .. })
            | Message::CaughtUp(CaughtUp { run, .. })
            | Message::Finished(Finished { run, .. }) => self.run_message(*run, from, &message, now),
            Message::ViewState(state) => self.run_message(state.run, from, &message, now),
            Message::ViewPropose(propose) => self.run_message(propose.run, from, &message, now),
            Message::ViewInstall(install) => self.run_message(install.run, from, &message, now),
            Message::LeaseConsent(consent) => self.lease_heard(from, consent, now),
            Message::BlocksAsk(_)
            | Message::Blocks(_)
            | Message::GenesisAsk(_)
            | Message::GenesisReply(_)
            | Message::Probe(_)
            | Message::ProbeReply(_)
            | Message::ProposalAsk(_)
            | Message::ProposalReply(_)
            | Message::RecoveryAsk(_)
            | Message::RecoveryReply(_) => self.with_trust(|trust, out| trust.frame(from, &message, now, out)),
            Message::Transaction(_) | Message::Votes(_) | Message::Proposal(_) | Message::LedgerStatus(_) => {}
            Message::Listing(_) | Message::Withdrawal(_) | Message::Demand(_) => {}
            Message::Presence(_) | Message::Revocations(_) | Message::Hello(_) => {}
        }
    }

    /// What follows from the new state and the time, until nothing follows any more.
    fn settle(&mut self, now: Time) {
        self.hold.expire(now);
        if now >= self.expire_at {
            self.expire_at = now + LISTING_INTERVAL;
            self.book.expire(now);
            self.words.expire(now);
            self.expire_membership(now);
        }
        self.settle_membership(now);
        if let Some(machine) = &mut self.run {
            let members = &self.membership.members;
            let market = Market { book: &self.book, may_see: &|share, peer| members.may_see(share, peer, now) };
            let ended = machine.tick(&market, now, &mut self.out);
            self.run_ended(ended, now);
        }
        self.ends.tell(now, &mut self.out);
        self.with_trust(|trust, out| trust.settle(now, out));
        self.settle_leases(now);
        loop {
            if self.offer.is_some() && self.announced_busy.is_some_and(|busy| busy != (self.hold != Hold::Free)) {
                self.announce_soon(now);
            }
            self.announce_if_due(now);
            self.advance_orders(now);
            match self.out.poll_to_self() {
                Some((seq, message)) => self.message(self.out.me(), seq, message, now),
                None => break,
            }
        }
        self.membership.forget_runs_but(self.run.as_ref().map(Machine::run));
    }

    fn refuse(&mut self, why: String) -> Verdict {
        self.out.notify(Event::Refused { why });
        Verdict::Reject
    }

    fn blame(&mut self, peer: PeerId, error: &EnvelopeError) {
        self.refuse(error.to_string());
        self.out.push(Effect::Misbehaviour { peer, what: error.to_string() });
    }
}

/// Whether the envelope has not expired and does not claim to live too long or
/// to come from the future.
fn in_time(envelope: &Envelope, lifetime_max: Duration, now: Time) -> bool {
    let not_expired = envelope.expires_at + CLOCK_SKEW_MAX > now;
    let not_forever = envelope.expires_at <= now + lifetime_max + CLOCK_SKEW_MAX;
    let not_ahead = envelope.seq <= (now + CLOCK_SKEW_MAX).as_unix_ms();
    not_expired && not_forever && not_ahead
}
