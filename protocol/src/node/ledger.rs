//! The node's part in the swarm's ledger.

use super::Node;
use crate::consensus::Progress;
use crate::effect::{Event, Verdict};
use crate::ids::{Hash, PeerId};
use crate::ledger::{State, Transaction};
use crate::outbox::Outbox;
use crate::time::Time;
use crate::trust::{LedgerOptions, Trust};
use crate::wire::Message;

impl Node {
    /// The ledger as it is here, once there is one.
    pub fn ledger(&self) -> Option<&State> {
        self.trust.as_ref().and_then(Trust::state)
    }

    /// Where the next block stands, and who is missing for it.
    pub fn ledger_progress(&self) -> Option<Progress> {
        self.trust.as_ref().and_then(Trust::progress)
    }

    /// Transactions of this node that wait for a block.
    pub fn ledger_waiting(&self) -> Vec<Transaction> {
        self.trust.as_ref().map(Trust::waiting).unwrap_or_default()
    }

    /// Another ledger of this swarm, kept by others, that cannot become one with
    /// ours: people have to agree on one.
    pub fn ledger_split(&self, now: Time) -> Option<Hash> {
        self.trust.as_ref().and_then(|trust| trust.split(now))
    }

    pub(super) fn keep_ledger(&mut self, options: LedgerOptions, now: Time) {
        if let Err(why) = options.parameters.validate() {
            return self.out.notify(Event::Refused { why: format!("rules of a ledger: {why}") });
        }
        let (identity, network) = (self.out.identity().clone(), self.out.network());
        self.trust = Some(Trust::new(identity, network, options, now, &mut self.out));
    }

    pub(super) fn transfer(&mut self, to: PeerId, amount: u64, now: Time) {
        let Some(trust) = &mut self.trust else {
            return self.out.notify(Event::Refused { why: "this peer keeps no ledger".into() });
        };
        if let Err(why) = trust.transfer(to, amount, now, &mut self.out) {
            self.out.notify(Event::Refused { why });
        }
    }

    pub(super) fn ledger_gossip(&mut self, author: PeerId, message: Message, now: Time) -> Verdict {
        match &mut self.trust {
            Some(trust) => trust.gossip(author, message, now, &mut self.out),
            // Of no use here, and worth passing on: others may keep the ledger.
            None => Verdict::Accept,
        }
    }

    pub(super) fn with_trust(&mut self, act: impl FnOnce(&mut Trust, &mut Outbox)) {
        if let Some(trust) = &mut self.trust {
            act(trust, &mut self.out);
        }
    }
}
