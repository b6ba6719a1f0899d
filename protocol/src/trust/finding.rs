//! Finding the swarm's ledger, founding one, and keeping up with it.

use super::chain::Chain;
use super::drills::Driller;
use super::founding::{Move, Own};
use super::probes::Prober;
use super::recoveries::Recoveries;
use super::words::{GenesisAsk, LedgerStatus};
use super::{ANSWER_MAX, Asked, SPLIT_AGAIN, STATUS_MAX, STATUS_MIN, Trust, WORD_LIFETIME, class_for};
use crate::consensus::{Blocks, Sync};
use crate::effect::{Effect, Event};
use crate::ids::{Hash, PeerId};
use crate::ledger::{Founder, Genesis, State};
use crate::outbox::{About, Outbox};
use crate::time::{Duration, Time};
use crate::wire::{Message, codec};

impl Trust {
    pub(super) fn own(&self) -> Option<Own> {
        let chain = self.chain.as_ref()?;
        Some(Own { ledger: chain.state().ledger(), alone: chain.is_alone() })
    }

    /// Finds a ledger, or a better one.
    pub(super) fn follow_rumours(&mut self, now: Time, out: &mut Outbox) {
        if let Some(asked) = self.asked.filter(|asked| asked.until <= now) {
            self.asked = None;
            if asked.is_reached {
                self.rumours.doubt(asked.whom, now);
            } else {
                self.rumours.pass_over(asked.whom, now);
            }
        }
        match self.rumours.decide(self.own(), now) {
            Move::Follow(ledger, whom) if self.asked.is_none() => {
                self.asked = Some(Asked { ledger, whom, until: now + ANSWER_MAX, is_reached: true });
                out.send(whom, Message::GenesisAsk(GenesisAsk { ledger }), About::Ledger, now);
            }
            Move::Split(theirs, _) if self.told_of_split.is_none_or(|at| now.since(at) >= SPLIT_AGAIN) => {
                self.told_of_split = Some(now);
                if let Some(ours) = self.own() {
                    out.notify(Event::LedgersDiffer { ours: ours.ledger, theirs });
                }
            }
            Move::Stay if self.chain.is_none() && self.asked.is_none() && now >= self.found_at => self.found(now, out),
            _ => {}
        }
    }

    /// Founds a ledger, if this peer takes part in any.
    fn found(&mut self, now: Time, out: &mut Outbox) {
        if !self.options.takes_part {
            self.found_at = now + STATUS_MAX;
            return;
        }
        let me = self.identity.peer_id();
        let parameters = self.options.parameters.clone();
        let class = class_for(&parameters, self.options.operations_per_s);
        let power = parameters.founder_power();
        let founder = Founder { peer: me, vrf: self.identity.vrf().public(), class, power };
        let (network, name) = (self.network, self.options.name.clone());
        let genesis = Genesis { network, name, time_ms: now.as_unix_ms(), founders: vec![founder], parameters };
        match self.begin(genesis, now, out) {
            Ok(ledger) => out.notify(Event::LedgerFounded { ledger }),
            Err(why) => {
                self.found_at = now + STATUS_MAX;
                out.notify(Event::Refused { why: format!("no ledger could be founded: {why}") });
            }
        }
    }

    pub(super) fn genesis_shown(&mut self, from: PeerId, genesis: &Genesis, now: Time, out: &mut Outbox) {
        let wanted = self.asked.filter(|asked| asked.whom == from && asked.ledger == genesis.ledger());
        if wanted.is_none() {
            return;
        }
        self.asked = None;
        if genesis.network != self.network {
            return self.rumours.doubt(from, now);
        }
        match self.begin(genesis.clone(), now, out) {
            Ok(ledger) => out.notify(Event::LedgerJoined { ledger }),
            Err(why) => {
                self.rumours.doubt(from, now);
                out.notify(Event::Refused { why: format!("the ledger of {}: {why}", from.short()) });
            }
        }
    }

    /// Keeps this ledger from here on, in place of any other.
    fn begin(&mut self, genesis: Genesis, now: Time, out: &mut Outbox) -> Result<Hash, String> {
        let ledger = genesis.ledger();
        let bytes = codec::encode(&genesis);
        let state = State::genesis(genesis).map_err(|error| error.to_string())?;
        let chain = Chain::new(self.identity.clone(), state, Vec::new(), &[], now)?;
        self.driller = Driller::new(&self.identity);
        self.prober = Prober::new(&self.identity);
        self.sync = Sync::default();
        self.recoveries = Recoveries::default();
        self.spoke.clear();
        self.looked_at = None;
        self.told_height = 0;
        self.chain = Some(chain);
        out.push(Effect::LedgerBegin { genesis: bytes });
        self.status_soon(now);
        Ok(ledger)
    }

    pub(super) fn hear_height(&mut self, peer: PeerId, status: &LedgerStatus) {
        // Who is one behind decides by itself in a moment, or hears votes of the next height.
        if self.state().is_some_and(|state| state.chain() == status.chain && status.height > state.height() + 1) {
            self.sync.hear(peer, status.height);
        }
    }

    /// Asks for blocks while others are ahead.
    pub(super) fn catch_up(&mut self, now: Time, out: &mut Outbox) {
        let Some((chain, height)) = self.state().map(|state| (state.chain(), state.height())) else { return };
        if let Some((whom, ask)) = self.sync.ask(chain, height, now) {
            out.send(whom, Message::BlocksAsk(ask), About::Ledger, now);
        }
    }

    pub(super) fn blocks_shown(&mut self, from: PeerId, blocks: &Blocks, now: Time, out: &mut Outbox) {
        if !self.sync.answered(&from, blocks, now) {
            return;
        }
        let Some(chain) = self.chain.as_mut() else { return };
        for decision in &blocks.blocks {
            if let Err(why) = chain.follow(decision, now) {
                self.sync.refused(&from, now);
                out.notify(Event::Refused { why: format!("a block of {}: {why}", from.short()) });
                return;
            }
        }
        self.status_soon(now);
    }

    pub(super) fn status_soon(&mut self, now: Time) {
        let earliest = self.said_status_at.map_or(now, |at| at + STATUS_MIN).max(now);
        self.status_due = self.status_due.min(earliest).max(now);
    }

    pub(super) fn say_status(&mut self, now: Time, out: &mut Outbox) {
        let Some(chain) = &self.chain else {
            self.status_due = now + STATUS_MAX;
            return;
        };
        let state = chain.state();
        let (ledger, height, alone) = (state.ledger(), state.height(), chain.is_alone());
        let status = LedgerStatus { ledger, height, alone, chain: state.chain() };
        out.publish(&Message::LedgerStatus(status), WORD_LIFETIME, now);
        self.said_status_at = Some(now);
        self.status_due = now + status_interval(chain.state());
    }
}

/// How often a peer says how far it is, at least.
pub(super) fn status_interval(state: &State) -> Duration {
    Duration::from_ms(state.parameters().epoch_ms).times(2).max(STATUS_MIN).min(STATUS_MAX)
}
