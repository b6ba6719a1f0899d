//! Coming into a run that goes on: as a newcomer, after a restart, or after
//! having been left behind.
//!
//! Ask to be taken in → listen: fetch the state from several members while the
//! sums of all exchanges from there on come in → follow them → full member.

use super::{Machine, Snapshot, Stage};
use crate::effect::{Effect, Entry};
use crate::ids::{Hash, PeerId};
use crate::outbox::Outbox;
use crate::run::ends::{End, Over};
use crate::run::ledger::Ledger;
use crate::run::view::{CaughtUp, Join, Role, StateOffer};
use crate::time::{Duration, Time};
use crate::wire::Message;
use crate::wire::limits::LISTEN_AHEAD_MAX;
use std::collections::BTreeMap;

/// How often a peer asks to come in.
const JOIN_INTERVAL: Duration = Duration::from_s(1);
/// How often the state is offered to those who listen.
const OFFER_INTERVAL: Duration = Duration::from_ms(500);
/// A listener that gets nowhere for so long asks to begin anew.
const LISTEN_MAX: Duration = Duration::from_s(20);
/// After a result that could not be had, others are asked again after so long.
const RETRIEVE_PAUSE: Duration = Duration::from_s(20);
/// Who is not taken in for so long gives up.
const ENTER_MAX: Duration = Duration::from_s(15 * 60);

/// How this member stands to the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It holds what the others hold.
    In,
    /// It comes for the first time, or has to fetch what it held.
    Newcomer,
    /// It holds what was on its disk.
    Restarted,
    /// The others went on without it.
    LeftBehind,
}

/// A state that a member offers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    exchange: u64,
    root: Hash,
    ledger: Ledger,
}

/// The way into the run.
#[derive(Debug)]
pub(super) struct Entering {
    standing: Standing,
    since: Time,
    asked_at: Option<Time>,
    offered_at: Time,
    /// When something last came of listening.
    progress_at: Time,
    offers: BTreeMap<PeerId, Offer>,
    fetching: Option<Offer>,
}

impl Entering {
    pub(super) fn new(entry: Entry, now: Time) -> Self {
        let standing = match entry {
            Entry::First => Standing::In,
            Entry::Late => Standing::Newcomer,
            Entry::Again { .. } => Standing::Restarted,
        };
        Self {
            standing,
            since: now,
            asked_at: None,
            offered_at: now,
            progress_at: now,
            offers: BTreeMap::new(),
            fetching: None,
        }
    }

    pub(super) fn is_in(&self) -> bool {
        self.standing == Standing::In
    }

    pub(super) fn is_restarted(&self) -> bool {
        self.standing == Standing::Restarted
    }

    /// Since when this member is back and holds what was on its disk.
    pub(super) fn restarted_at(&self) -> Option<Time> {
        self.is_restarted().then_some(self.since)
    }

    pub(super) fn is_left_behind(&self) -> bool {
        self.standing == Standing::LeftBehind
    }

    /// The state is loaded from the checkpoint, as the view wants it.
    pub(super) fn resumed(&mut self) {
        self.standing = Standing::In;
    }

    /// Whether this is news.
    pub(super) fn left_behind(&mut self, now: Time) -> bool {
        let news = self.standing == Standing::In;
        if self.standing != Standing::Restarted {
            self.standing = if news { Standing::LeftBehind } else { self.standing };
        }
        self.offers.clear();
        self.fetching = None;
        if news {
            (self.since, self.asked_at) = (now, None);
        }
        news
    }

    pub(super) fn is_hopeless(&self, now: Time) -> bool {
        now.since(self.since) > ENTER_MAX
    }
}

impl Machine {
    /// Data and model are there.
    pub(super) fn prepared(&mut self, parameter_hash: Hash, now: Time, out: &mut Outbox) {
        if self.entering.is_in() && self.start.entry != Entry::First {
            // A view has taken our checkpoint for the state already.
            self.stage = Stage::Entering;
            self.prepare_snapshot(out);
            return self.begin_exchange(now, out);
        }
        if self.entering.is_in() {
            self.stage = Stage::Gathering;
            return self.say_ready(parameter_hash, now, out);
        }
        self.stage = Stage::Entering;
        if self.entering.is_restarted() {
            out.notify(crate::Event::RunPaused { run: self.run(), why: crate::effect::Pause::Restarted });
        }
        self.ask_to_enter(now, out);
        self.agree(now, out);
    }

    /// What was on the disk is not whole.
    pub(super) fn checkpoint_lost(&mut self, now: Time, out: &mut Outbox) {
        self.checkpoint = None;
        self.journal(out);
        if self.entering.is_in() && self.stage == Stage::Preparing {
            self.left_behind(now, out);
        }
    }

    /// Whether this member is a listener that waits for the state.
    pub(super) fn is_listening(&self) -> bool {
        self.stage == Stage::Entering
            && self.entering.standing == Standing::Newcomer
            && self.view.role(&self.me()) == Some(Role::Listener)
    }

    /// A view has made us a listener.
    pub(super) fn listen(&mut self, now: Time) {
        self.stage = Stage::Entering;
        self.entering = Entering { standing: Standing::Newcomer, ..Entering::new(Entry::Late, now) };
    }

    pub(super) fn ask_to_enter(&mut self, now: Time, out: &mut Outbox) {
        let (run, view) = (self.run(), self.view.number);
        let listens = self.is_listening() && now.since(self.entering.progress_at) < LISTEN_MAX;
        if listens || self.entering.asked_at.is_some_and(|at| now.since(at) < JOIN_INTERVAL) {
            return;
        }
        if self.is_listening() {
            self.left_behind(now, out);
        }
        self.entering.asked_at = Some(now);
        let join = Message::Join(Join { run, contact: self.contact.clone(), view });
        let members = self.view.members.iter().map(|member| member.contact.peer);
        let mut asked: Vec<_> = members.chain(self.start.members.iter().map(|member| member.peer)).collect();
        asked.sort_unstable();
        asked.dedup();
        asked.retain(|peer| *peer != self.me());
        self.say_to(asked, &join, now, out);
    }

    /// A member has the state for us. What more than half of the full members
    /// offer alike is fetched; a later one instead of one that is gone.
    pub(super) fn state_offered(&mut self, from: PeerId, offer: &StateOffer, out: &mut Outbox) {
        let fits = offer.exchange >= self.number && offer.exchange <= self.number + LISTEN_AHEAD_MAX;
        if !self.is_listening() || self.view.role(&from) != Some(Role::Full) || !fits {
            return;
        }
        let StateOffer { exchange, root, ledger, .. } = offer.clone();
        let offer = Offer { exchange, root, ledger };
        self.entering.offers.insert(from, offer.clone());
        let full = self.view.full().count();
        let donors = self.entering.offers.iter().filter(|(_, other)| **other == offer).map(|(peer, _)| *peer);
        let donors: Vec<_> = donors.collect();
        if self.entering.fetching.is_some() || 2 * donors.len() <= full {
            return;
        }
        self.entering.fetching = Some(offer);
        out.push(Effect::FetchState { run: self.run(), exchange, root, donors });
    }

    pub(super) fn state_loaded(&mut self, exchange: u64, now: Time, out: &mut Outbox) {
        let Some(offer) = self.entering.fetching.take_if(|offer| offer.exchange == exchange) else { return };
        if !self.is_listening() {
            return;
        }
        // A state that was made after ours was asked for spares us the exchanges between.
        self.ahead.retain(|number, _| *number >= exchange);
        if exchange > self.number {
            (self.number, self.ledger, self.previous) = (exchange, offer.ledger, None);
            self.current = self.ahead.remove(&exchange).unwrap_or_else(|| self.fresh_exchange(exchange));
        }
        self.entering.standing = Standing::In;
        self.entering.progress_at = now;
        self.begin_exchange(now, out);
    }

    pub(super) fn state_not_loaded(&mut self, exchange: u64, now: Time, out: &mut Outbox) {
        if self.entering.fetching.take_if(|offer| offer.exchange == exchange).is_some() {
            self.entering.offers.clear();
            self.entering.progress_at = now;
            self.ask_to_enter(now, out);
        }
    }

    /// Something has come of listening.
    pub(super) fn entering_progress(&mut self, now: Time) {
        self.entering.progress_at = now;
    }

    /// Whether the sums that we follow have stopped coming.
    pub(super) fn is_stuck(&self, now: Time) -> bool {
        self.stage == Stage::Following && now.since(self.entering.progress_at) > LISTEN_MAX
    }

    /// Tells the full members that we could be one.
    pub(super) fn say_caught_up(&mut self, now: Time, out: &mut Outbox) {
        let me = self.me();
        let Some(member) = self.view.member(&me).filter(|member| member.role == Role::Listener) else { return };
        if self.stage != Stage::Following {
            return;
        }
        let caught_up = CaughtUp { run: self.run(), since: member.since, exchange: self.number };
        let full: Vec<_> = self.view.full().map(|member| member.contact.peer).collect();
        self.say_to(full, &Message::CaughtUp(caught_up), now, out);
    }

    // ---- as a member that others fetch from ----

    /// Keeps the state for newcomers when the exchange has come before which they need it.
    pub(super) fn snapshot_if_due(&mut self, out: &mut Outbox) {
        let here = !matches!(self.stage, Stage::Applying | Stage::Entering | Stage::Preparing);
        let due = |snapshot: &&mut Snapshot| snapshot.exchange == self.number && !snapshot.begun;
        if let Some(snapshot) = self.snapshot.as_mut().filter(due).filter(|_| here) {
            snapshot.begun = true;
            snapshot.ledger = self.ledger.clone();
            out.push(Effect::Snapshot { run: self.run(), exchange: self.number });
        }
    }

    pub(super) fn snapshot_taken(&mut self, exchange: u64, root: Hash, now: Time, out: &mut Outbox) {
        if let Some(snapshot) = self.snapshot.as_mut().filter(|snapshot| snapshot.exchange == exchange) {
            snapshot.root = Some(root);
            self.entering.offered_at = Time(0);
            self.offer_state(now, out);
        }
    }

    /// Says (again) to those who listen where the state is.
    pub(super) fn offer_state(&mut self, now: Time, out: &mut Outbox) {
        let Some(Snapshot { exchange, ledger, root: Some(root), .. }) = self.snapshot.clone() else { return };
        if now.since(self.entering.offered_at) < OFFER_INTERVAL {
            return;
        }
        let listeners = self.view.members.iter().filter(|member| member.role == Role::Listener);
        let listeners: Vec<_> = listeners.map(|member| member.contact.peer).collect();
        if listeners.is_empty() {
            self.snapshot = None;
            return out.push(Effect::DropSnapshot { run: self.run() });
        }
        self.entering.offered_at = now;
        let offer = Message::StateOffer(StateOffer { run: self.run(), exchange, root, ledger });
        self.say_to(listeners, &offer, now, out);
    }

    // ---- a run that ended meanwhile ----

    /// A member tells that the run is over.
    pub(super) fn finished_elsewhere(&mut self, from: PeerId, root: Hash, now: Time, out: &mut Outbox) -> Option<Over> {
        let run = self.run();
        let member = self.others.contains_key(&from) || self.start.members.iter().any(|member| member.peer == from);
        if member && self.stage == Stage::Comparing && self.ledger.left() == 0 {
            // A last report will never come, but it came to another: all is agreed.
            self.begin_exchange(now, out);
        }
        // Who looks in vain for a next view may be cut off from those who found it, and the end, without it.
        let waits =
            matches!(self.stage, Stage::Preparing | Stage::Entering) || (self.agreement.is_open() && !self.is_agreed());
        if !member || !waits {
            return None;
        }
        if self.is_owner() {
            // Until the result is here, the run goes on in the journal, so that a restart looks for it again.
            self.stage = Stage::Retrieving { root, from, prepared: self.stage != Stage::Preparing };
            out.push(Effect::FetchResult { run, root, from });
            return None;
        }
        // The run ended well, only not here.
        self.write_end(End::Well { root, kept: false }, now, out);
        self.close(out)
    }

    /// The own run is over elsewhere, but its result could not be had: somebody
    /// else may have it, or the same one later.
    pub(super) fn not_retrieved(&mut self, prepared: bool, now: Time, out: &mut Outbox) {
        self.stage = if prepared { Stage::Entering } else { Stage::Preparing };
        if self.entering.is_in() {
            self.left_behind(now, out);
        }
        (self.entering.since, self.entering.asked_at) = (now, Some(now + RETRIEVE_PAUSE));
    }
}
