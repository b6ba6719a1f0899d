//! The node: routes each input to its room and collects the effects.

mod membership;

use crate::effect::{Effect, Entry, Event, RunStart, Verdict};
use crate::ids::{EffectId, NetworkId, OrderId, PeerId, RunId};
use crate::input::{Command, Input};
use crate::market::book::{Change, HeardDemand, OrderBook};
use crate::market::demand::Demand;
use crate::market::listing::{Contact, Listing, Withdrawal};
use crate::market::matching;
use crate::market::order::{Order, Outcome};
use crate::market::reservation::{Confirm, Hold, Reserve, ReserveReply, Terms, WordOrder};
use crate::membership::{Charter, Members};
use crate::outbox::{About, InFlight, Outbox};
use crate::run::machine::{Beginning, ChunkArrived, Ended, Machine, Market, donors};
use crate::run::record::Record;
use crate::run::report::{Abort, AbortReason, Heartbeat, Ready, RoundReport};
use crate::run::view::{CaughtUp, Finished, Join, StateOffer, Suspect, ViewAccept, ViewAsk};
use crate::time::{Duration, Time};
use crate::wire::limits::{
    ANSWERED_MAX, CLOCK_SKEW_MAX, FRAME_LIFETIME_MAX, GOSSIP_LIFETIME_MAX, ORDERS_MAX, RUNS_OVER_MAX,
};
use crate::wire::message::Body as _;
use crate::wire::{Envelope, EnvelopeError, Identity, Message};
use membership::Membership;
use std::collections::BTreeMap;

/// How long a listing stands without being said again.
const LISTING_LIFETIME: Duration = Duration::from_s(180);
/// How often a listing is said again.
const LISTING_INTERVAL: Duration = Duration::from_s(60);
/// Shortest time between two announcements of our own.
const ANNOUNCE_INTERVAL_MIN: Duration = Duration::from_ms(400);
/// The same if others cause it, who may be many and mean ill.
const ANSWER_INTERVAL_MIN: Duration = Duration::from_s(1);
/// A new connection carries no gossip at once: what is to be heard on it waits so long.
const CONNECTION_SETTLES: Duration = Duration::from_ms(300);
/// After an announcement for one peer, the next one that it causes comes so much later.
const ANSWER_PAUSE: Duration = Duration::from_s(10);

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
    over: BTreeMap<RunId, Ended>,
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
            over: BTreeMap::new(),
            expire_at: now + LISTING_INTERVAL,
        }
    }

    /// Takes one input. Drain [`Self::poll_effect`] afterwards.
    pub fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Command(command) => self.command(command, now),
            Input::PeerConnected { peer } => {
                self.met(peer, now);
            }
            Input::PeerDisconnected { peer } => {
                self.parted(&peer);
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
            Input::Trainer { run, done } => self.with_run(run, |machine, out| machine.trainer_done(done, now, out)),
            Input::TrainerFailed { run, culprit } => self.with_run(run, |machine, out| match culprit {
                Some(culprit) => machine.fail(AbortReason::BadGradient, culprit, now, out),
                None => machine.fail(AbortReason::CannotCompute, out.me(), now, out),
            }),
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
        let waits = [Some(self.expire_at), announce, orders, run, self.hold.timeout(), self.membership.timeout()];
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
            Command::CancelOrder { order } => {
                if let Some(mut order) = self.orders.remove(&order) {
                    order.cancel(now, &mut self.out);
                }
            }
            Command::Resume { record } => self.resume(&record, now),
            Command::Revoke { serial, expires_at } => self.revoke(serial, expires_at, now),
            Command::StopRun { run, reason } => {
                self.with_run(run, |machine, out| machine.fail(reason, out.me(), now, out));
            }
        }
    }

    /// Answers are told apart by the spec, so each may be ordered once at a time.
    fn may_order(&self, new: &Order) -> Result<(), String> {
        new.validate()?;
        if self.orders.len() >= ORDERS_MAX {
            return Err(format!("{ORDERS_MAX} orders are open already: wait for one to end, or cancel one"));
        }
        match self.orders.values().find(|order| order.spec_hash() == new.spec_hash()) {
            Some(_) => Err("a run of this spec is ordered already: wait for it, or cancel it".into()),
            None => Ok(()),
        }
    }

    /// What others would reject, and blame on us, is not announced.
    fn set_offer(&mut self, listing: Listing, public: bool, now: Time) {
        if let Err(problem) = listing.validate() {
            return self.out.notify(Event::Refused { why: format!("the own offer: {problem}") });
        }
        self.offer = Some(listing);
        if std::mem::replace(&mut self.offer_public, public) && !public && self.announced_at.is_some() {
            // Others still hold the public offer: they must not ask in vain.
            self.out.publish(&Message::Withdrawal(Withdrawal {}), LISTING_LIFETIME, now);
            self.announced_at = Some(now);
        }
        self.announce_soon(now);
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
            _ => return Verdict::Reject,
        };
        if change == Change::New { Verdict::Accept } else { Verdict::Ignore }
    }

    fn demand_heard(&mut self, author: PeerId, seq: u64, expires_at: Time, demand: Demand, now: Time) -> Change {
        let may_see = self.membership.members.we_may_see(demand.share, &author, now);
        let fits = self.offer.as_ref().is_some_and(|offer| matching::check(&demand, offer, may_see).is_ok());
        let change = self.book.demand(author, seq, expires_at, demand, now);
        if change == Change::New {
            self.out.notify(Event::DemandHeard { peer: author });
            if fits {
                self.membership.greet(author, now, &mut self.out);
                self.announce_for(author, now, now);
            }
        }
        change
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
            Message::Listing(_) | Message::Withdrawal(_) | Message::Demand(_) => {}
            Message::Presence(_) | Message::Revocations(_) | Message::Hello(_) => {}
        }
    }

    fn reserve_asked(&mut self, user: PeerId, seq: u64, request: &Reserve, now: Time) {
        let ours = user == self.out.me();
        let terms = self
            .offer
            .as_ref()
            .filter(|_| self.offer_public || ours)
            .map(|offer| Terms { memory_bytes: offer.memory_bytes(), duration_max_s: offer.duration_max_s });
        let answer = self.hold.reserve(user, request, terms, now);
        let reply = Message::ReserveReply(ReserveReply { spec: request.spec, request: seq, answer });
        self.out.send(user, reply, About::Nothing, now);
    }

    /// A run begins, or takes us in, if whoever says so holds this machine for it.
    fn confirmed(&mut self, from: PeerId, confirm: &Confirm, now: Time) {
        let run = confirm.run_id();
        if self.run.as_ref().is_some_and(|machine| machine.run() == run) {
            return;
        }
        match self.begin(run, from, confirm, now) {
            Ok(machine) => {
                self.run = Some(machine);
                self.hold = Hold::Running(run);
            }
            Err(why) => self.not_begun(run, from, confirm, why, now),
        }
    }

    fn begin(&mut self, run: RunId, from: PeerId, confirm: &Confirm, now: Time) -> Result<Machine, &'static str> {
        let me = self.out.me();
        let is_member = |peer: PeerId| confirm.members.binary_search_by_key(&peer, |member| member.peer).is_ok();
        if confirm.spec.hash() != confirm.demand.spec {
            return Err("its demand is for another spec");
        }
        if self.run.is_some() {
            return Err("another run goes on here");
        }
        if confirm.late {
            if is_member(me) || !is_member(from) {
                return Err("whoever takes this machine in is not a member, or it is one already");
            }
        } else if !is_member(me) {
            return Err("this machine is not among the members");
        } else if from != confirm.owner || !is_member(from) {
            // The owner serves the data: without it among the members nobody could start.
            return Err("its user is not among the members");
        }
        if !self.hold.is_for(from, confirm.spec.hash(), now) {
            return Err("this machine is not held for it any more");
        }
        let mut donors = donors(confirm.owner, &confirm.members, me);
        if confirm.late {
            // Whoever takes us in lets us read its data already.
            donors.sort_by_key(|peer| *peer != from);
        }
        let start = RunStart {
            run,
            spec: confirm.spec.clone(),
            owner: confirm.owner,
            me,
            members: confirm.members.clone(),
            donors,
            entry: if confirm.late { Entry::Late } else { Entry::First },
        };
        let (demand, issued_at_ms) = (confirm.demand.clone(), confirm.issued_at_ms);
        let beginning = Beginning { start, demand, issued_at_ms, contact: self.contact() };
        Machine::new(beginning, now, &mut self.out).ok_or("its vector cannot be cut for so many members")
    }

    /// Where we can be reached, as far as it was ever offered.
    fn contact(&self) -> Contact {
        let offer = self.offer.as_ref();
        Contact {
            peer: self.out.me(),
            bulk_port: offer.map_or(0, |offer| offer.bulk_port),
            addresses: offer.map_or_else(Vec::new, |offer| offer.addresses.clone()),
        }
    }

    /// Goes on with a run after a restart.
    fn resume(&mut self, record: &[u8], now: Time) {
        let machine = match Record::decode(record) {
            Err(problem) => Err(format!("the journal's record of a run: {problem}")),
            Ok(record) if record.contact.peer != self.out.me() => {
                Err(format!("the journal's record of a run is of another peer, {}", record.contact.peer))
            }
            Ok(_) if self.run.is_some() => Err("another run goes on here".into()),
            // After a restart we may be elsewhere.
            Ok(record) => Machine::again(
                Record { contact: self.offer.as_ref().map_or(record.contact.clone(), |_| self.contact()), ..record },
                now,
                &mut self.out,
            )
            .ok_or_else(|| "the vector of the journal's run cannot be cut for so many members".into()),
        };
        match machine {
            Ok(machine) => {
                if machine.is_owner() {
                    self.membership.run_matched(machine.run(), machine.share());
                }
                self.hold = Hold::Running(machine.run());
                self.run = Some(machine);
            }
            Err(why) => self.out.notify(Event::Refused { why }),
        }
    }

    /// Tells whoever wanted it; if that is us, the people here and the members,
    /// who would wait for us.
    fn not_begun(&mut self, run: RunId, from: PeerId, confirm: &Confirm, why: &str, now: Time) {
        let me = self.out.me();
        let abort = Message::Abort(Abort { run, reason: AbortReason::NotReady, culprit: me });
        if from != me {
            self.out.send(from, abort, About::Nothing, now);
            return;
        }
        for member in confirm.members.iter().filter(|member| member.peer != me) {
            self.out.send(member.peer, abort.clone(), About::Nothing, now);
        }
        self.out.notify(Event::RunNotBegun { run, why: why.into() });
    }

    fn run_message(&mut self, run: RunId, from: PeerId, message: &Message, now: Time) {
        if self.run.as_ref().is_some_and(|machine| machine.run() == run) {
            return self.with_run(run, |machine, out| machine.message(from, message, now, out));
        }
        // Who still asks about a run that is over here has missed its end.
        let asks =
            matches!(message, Message::Join(_) | Message::ViewAsk(_) | Message::Suspect(_) | Message::Heartbeat(_));
        if let Some(word) = self.over.get(&run).filter(|_| asks).map(|over| over.word(run)) {
            self.out.send(from, word, About::Nothing, now);
        }
    }

    fn with_run(&mut self, run: RunId, act: impl FnOnce(&mut Machine, &mut Outbox) -> Option<Ended>) {
        if let Some(machine) = self.run.as_mut().filter(|machine| machine.run() == run) {
            let ended = act(machine, &mut self.out);
            self.run_ended(ended);
        }
    }

    fn run_ended(&mut self, ended: Option<Ended>) {
        let Some(ended) = ended else { return };
        if let Some(machine) = self.run.take() {
            self.over.insert(machine.run(), ended);
            if self.over.len() > RUNS_OVER_MAX {
                self.over.pop_first();
            }
        }
        self.hold = Hold::Free;
    }

    fn frame_landed(&mut self, id: EffectId, delivered: bool, now: Time) {
        let Some(InFlight { to, kind, about }) = self.out.landed(id) else { return };
        match about {
            About::Run(run) => self.with_run(run, |machine, out| {
                if delivered { machine.delivered(id, to, now, out) } else { machine.undelivered(to, kind, now, out) }
            }),
            About::Order(order) if !delivered => {
                if let Some(order) = self.orders.get_mut(&order) {
                    order.unreachable(to, now, &mut self.out);
                }
            }
            About::Order(_) | About::Nothing => {}
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
            self.run_ended(ended);
        }
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

    fn advance_orders(&mut self, now: Time) {
        let (book, membership, out) = (&self.book, &mut self.membership, &mut self.out);
        self.orders.retain(|_, order| match order.advance(book, &membership.members, now, out) {
            None => true,
            Some(Outcome::Matched(run)) => {
                membership.run_matched(run, order.share());
                false
            }
            Some(Outcome::Failed) => false,
        });
    }

    fn announce_soon(&mut self, now: Time) {
        self.announce_after(ANNOUNCE_INTERVAL_MIN, now);
    }

    /// Says the offer again at `wanted` for `peer`, who may be new here and not have heard it: at most once in a
    /// while, or a few could make all peers gossip. What comes too soon is put off and not left out, for a peer that has
    /// restarted has forgotten what it heard a moment ago.
    fn announce_for(&mut self, peer: PeerId, wanted: Time, now: Time) {
        if !self.offer_public {
            return;
        }
        self.answered.retain(|_, at| now.since(*at) < ANSWER_PAUSE);
        let due = match self.answered.get(&peer) {
            Some(planned) if *planned > now => return,
            Some(heard) => self.announce_after(ANSWER_INTERVAL_MIN, wanted.max(*heard + ANSWER_PAUSE)),
            None if self.answered.len() < ANSWERED_MAX => self.announce_after(ANSWER_INTERVAL_MIN, wanted),
            None => {
                self.announce_after(ANSWER_PAUSE, wanted);
                return;
            }
        };
        self.answered.insert(peer, due);
    }

    /// Plans an announcement at `wanted`, but at least `interval` after the last one; gives the time of it.
    fn announce_after(&mut self, interval: Duration, wanted: Time) -> Time {
        let due = self.announced_at.map_or(wanted, |at| wanted.max(at + interval));
        self.announce_due = Some(self.announce_due.map_or(due, |planned| planned.min(due)));
        due
    }

    fn announce_if_due(&mut self, now: Time) {
        let Some(offer) = &self.offer else { return };
        if self.announce_due.is_none_or(|due| due > now) {
            return;
        }
        let busy = self.hold != Hold::Free;
        let listing = Listing { busy, ..offer.clone() };
        let (seq, expires_at) = if self.offer_public {
            // Whoever does not know us yet would ignore the offer.
            self.membership.say_presence(now, &mut self.out);
            let sent = self.out.publish(&Message::Listing(listing.clone()), LISTING_LIFETIME, now);
            (sent.seq, sent.expires_at)
        } else {
            (self.out.next_seq(now), now + LISTING_LIFETIME)
        };
        self.book.list(self.out.me(), seq, expires_at, Some(listing), now);
        self.announced_at = Some(now);
        self.announced_busy = Some(busy);
        self.announce_due = Some(now + LISTING_INTERVAL);
        // Those for whom it was to be said later hear it now.
        self.answered.values_mut().for_each(|at| *at = (*at).min(now));
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
