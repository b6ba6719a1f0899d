//! The log again: how an engine comes to be where another one was.
//!
//! Events are fed in their order, and the core takes the same steps. Whatever it
//! signs on the way is in the log already. Should it come to something else, as
//! another version might, the log is right, and if that leaves us less bound than
//! our own precommits say, we stand by for this height.

use super::drive::core_vote;
use super::{Engine, OneHeight, Output, Signed, Start};
use crate::consensus::vote::{NIL, Step, Vote};
use crate::consensus::wal::{Event, Record};
use crate::ids::{Hash, Signature};

impl Engine {
    /// Goes through the log of this height again.
    pub(super) fn replay(&mut self, records: Vec<Record>) {
        let mut events: Vec<_> = records.into_iter().flat_map(|record| record.events).collect();
        events.retain(|event| self.height.fits(event));
        if events.is_empty() {
            return;
        }
        for event in &events {
            if let Event::Signed { round, step, value, polka, signature } = *event {
                self.height.signed.insert((round, step), Signed { value, polka, signature });
            }
        }
        self.begin();
        for event in events {
            match event {
                Event::Signed { round, step, value, signature, .. } => {
                    self.restore_signed(round, step, value, signature);
                }
                Event::Proposed { proposal, valid } => {
                    self.height.restore_proposal(&proposal, valid);
                    self.feed(Event::Proposed { proposal, valid });
                }
                Event::Voted { vote } => {
                    self.height.hear(&vote.author, vote.round);
                    self.feed(Event::Voted { vote });
                }
                event => self.feed(event),
            }
        }
        // All of this is in the log, and was said or is said again at once.
        self.height.events.clear();
        self.height.unsaid.retain(|output| matches!(output, Output::Decided { .. }));
        self.outputs.clear();
        if self.height.is_bound_as_signed() {
            self.resume();
        } else {
            self.stand_by();
        }
    }

    /// Signs nothing more at this height: something was said that we do not know
    /// the reasons for.
    pub(super) fn stand_by(&mut self) {
        self.mute_below = self.mute_below.max(self.height.start.height + 1);
    }

    /// Our own vote of the log, should the core not have come to it by itself.
    fn restore_signed(&mut self, round: u32, step: Step, value: Hash, signature: Signature) {
        let vote = Vote { height: self.height.start.height, round, step, value, author: self.me, signature };
        if step != Step::Propose && !self.height.knows(&vote) {
            self.run(core_vote(&vote));
        }
    }

    /// What was under way when the log ended.
    fn resume(&mut self) {
        self.repeat_at_once();
        let (height, round) = (self.height.start.height, self.height.round().unwrap_or_default());
        let drawn = self.height.context.proposer(height, round) == self.me && self.may_sign();
        let unproposed =
            self.height.step() == Step::Propose && !self.height.signed.contains_key(&(round, Step::Propose));
        if drawn && unproposed {
            self.outputs.push_back(Output::BuildValue { height, round });
        }
    }
}

impl OneHeight {
    /// Whether the core is bound at least by our latest precommit for a value.
    fn is_bound_as_signed(&self) -> bool {
        let precommits =
            self.signed.iter().filter(|((_, step), signed)| *step == Step::Precommit && signed.value != NIL);
        let latest = precommits.map(|((round, _), _)| *round).max();
        self.decided || latest <= self.locked().map(|(round, _)| round)
    }

    /// Whether a logged event is of this height: one of another version's may not be.
    fn fits(&self, event: &Event) -> bool {
        let Start { height, committee, .. } = &self.start;
        match event {
            Event::Proposed { proposal, .. } => {
                let drawn = self.context.proposer(*height, proposal.round) == proposal.author;
                drawn && proposal.height == *height && proposal.polka <= proposal.round
            }
            Event::Voted { vote } => vote.height == *height && committee.contains(&vote.author),
            Event::Supported { votes } => votes.votes.iter().all(|vote| vote.height == *height),
            Event::Built { .. } | Event::Elapsed { .. } | Event::Signed { .. } => self.member,
        }
    }
}
