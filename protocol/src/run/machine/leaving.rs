//! How the run ends for this member, and what the word of another that has left
//! is worth.
//!
//! An end is in the journal before it is told: who has left never votes again.

use super::{Machine, Stage};
use crate::effect::{Effect, RunFailure};
use crate::ids::PeerId;
use crate::outbox::Outbox;
use crate::run::ends::{End, Over};
use crate::run::report::{Abort, AbortReason};
use crate::run::view::Role;
use crate::time::Time;
use crate::wire::Message;

impl Machine {
    /// The owner's word that the run is over, or a member that cannot begin.
    pub(super) fn abort_heard(&mut self, from: PeerId, abort: &Abort, now: Time, out: &mut Outbox) -> Option<Over> {
        // The last round is agreed: there is nothing left to stop.
        if self.is_agreed() {
            return None;
        }
        // A stranger's word counts for nothing; who comes in again may know an old view only.
        let began = || self.start.members.iter().any(|member| member.peer == from);
        if self.view.member(&from).is_none() && !(self.stage == Stage::Entering && began()) {
            return None;
        }
        let owner_stops = abort.reason == AbortReason::Stopped && abort.culprit == self.start.owner;
        let undecided = abort.reason == AbortReason::NoMajority && self.stage == Stage::Comparing;
        if owner_stops || undecided {
            let failure = RunFailure { reason: abort.reason, culprit: abort.culprit, reported_by: from };
            return self.end(failure, now, out);
        }
        if self.view.member(&from).is_some() {
            self.leave_heard(from, abort, out);
            self.accuse(from, abort.reason, now, out);
        }
        None
    }

    /// This member cannot or shall not go on. Without it the others do, unless
    /// it is the owner who stops the run.
    pub(crate) fn fail(&mut self, reason: AbortReason, culprit: PeerId, now: Time, out: &mut Outbox) -> Option<Over> {
        let me = self.me();
        if culprit != me {
            // A gradient that cannot be added up: its author leaves, not we.
            self.accuse(culprit, reason, now, out);
            return None;
        }
        self.end(RunFailure { reason, culprit, reported_by: me }, now, out)
    }

    /// Ends the run here and says so. A run that is saved has ended well: only
    /// the delivery of the last report is cut short.
    pub(super) fn end(&mut self, failure: RunFailure, now: Time, out: &mut Outbox) -> Option<Over> {
        if self.over.is_some() {
            return self.close(out);
        }
        let RunFailure { reason, culprit, .. } = failure;
        let view = self.last_view();
        self.write_end(End::Early { reason, culprit, view }, now, out);
        let abort = Message::Abort(Abort { run: self.run(), reason, culprit, view });
        self.say_to_all(&abort, now, out);
        out.push(Effect::Close { run: self.run(), failure: Some(failure) });
        self.over
    }

    /// Writes down how the run ends here, before anybody is told.
    pub(super) fn write_end(&mut self, end: End, now: Time, out: &mut Outbox) {
        let over = Over { run: self.run(), owner: self.start.owner, me: self.me(), at: now, end };
        over.journal(out);
        self.over = Some(over);
    }

    /// The run has ended well, and its end is in the journal.
    pub(super) fn close(&self, out: &mut Outbox) -> Option<Over> {
        out.push(Effect::Close { run: self.run(), failure: None });
        self.over
    }

    pub(super) fn tell_end(&mut self, to: PeerId, now: Time, out: &mut Outbox) {
        if let Some(word) = self.over.and_then(|over| over.word(to)) {
            self.say(to, &word, now, out);
        }
    }

    /// Whether these may decide on the next view. In a view of two full members,
    /// where either may go on alone, one that has left has left its vote to the
    /// other: no decision without it can be made any more that it would have to
    /// share. Among more, two such quorums need not have a member in common.
    pub(super) fn is_quorum(&self, agrees: impl Fn(&PeerId) -> bool) -> bool {
        let leaver = self.leaver();
        self.view.is_quorum(|peer| agrees(peer) || leaver == Some(*peer))
    }

    pub(super) fn leaver(&self) -> Option<PeerId> {
        let of_two = self.view.is_of_two() && self.spec().solo;
        self.agreement.leavers.first().copied().filter(|_| of_two)
    }

    /// A full member says that it has left.
    fn leave_heard(&mut self, from: PeerId, abort: &Abort, out: &mut Outbox) {
        let by_itself = abort.culprit == from && abort.reason.leaves_the_vote();
        let full = self.view.role(&from) == Some(Role::Full);
        // If it has seen later views, it may have decided on the next one alone.
        if by_itself && full && abort.view <= self.view.number && self.agreement.leavers.insert(from) {
            self.journal(out);
        }
    }

    /// The last view that we have had a part in: if we have proposed one that we
    /// can decide on alone, it is as good as decided.
    fn last_view(&self) -> u32 {
        let me = self.me();
        let alone = self.is_quorum(|peer| *peer == me);
        let accepted = self.agreement.accepted.as_ref().filter(|of| alone && of.ballot.proposer == me);
        accepted.map_or(self.view.number, |accepted| accepted.view.number.max(self.view.number))
    }
}
