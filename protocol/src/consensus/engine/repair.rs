//! What is said again when a height takes long: gossip loses messages.
//!
//! Who hears nothing new for a while says its words of this round again. A
//! member that is seen in an earlier round gets the votes that lead out of it; a
//! proposal that rests on an earlier quorum comes with that quorum, and who is
//! bound by one that a proposer did not know tells it; a value that others voted
//! for and we miss is asked for. So whatever one honest
//! member acted on reaches all of them in the end, which is all that the proof
//! of liveness asks of gossip. Members of a decided height follow by
//! certificate instead.

use super::context::{Context, step_of, value_of};
use super::drive::{ROUNDS_KEPT, number};
use super::{Engine, OneHeight, Output};
use crate::consensus::VOTES_PER_MESSAGE_MAX;
use crate::consensus::vote::{NIL, ProposalAsk, Step, Vote, Votes};
use crate::ids::Hash;
use crate::time::{Duration, Time};
use arc_malachitebft_core_types::{NilOrVal, PolkaSignature, Round, RoundSignature, VoteType};
use std::collections::{BTreeMap, BTreeSet};

/// The wait grows by half each time, up to this many times the first.
const REPEAT_GROWTH_MAX: u64 = 8;

/// When and to whom things are said again.
#[derive(Default)]
pub(super) struct Repeat {
    pub(super) due_at: Time,
    interval_ms: u64,
    /// Where we were the last time.
    place: Option<(u32, Step)>,
    /// Someone speaks in an earlier round than ours.
    lagging: bool,
    /// Someone else told of the quorum that binds us.
    support_heard: bool,
}

impl Engine {
    /// Starts to count the silence.
    pub(super) fn repeat_from_now(&mut self) {
        let first_ms = self.config.timeouts.repeat_ms;
        self.height.repeat.interval_ms = first_ms;
        // Members do not all speak at the same moment.
        let spread = u64::from(self.me.0[0]) * first_ms / 512;
        self.height.repeat.due_at = self.now + Duration::from_ms(first_ms + spread);
    }

    pub(super) fn repeat_at_once(&mut self) {
        self.height.repeat.interval_ms = self.config.timeouts.repeat_ms;
        self.height.repeat.due_at = self.now;
    }

    /// Someone is back who may have missed everything.
    pub(super) fn repeat_soon(&mut self) {
        let soon = self.now + Duration::from_ms(self.config.timeouts.repeat_ms);
        if self.height.begun && soon < self.height.repeat.due_at {
            self.height.repeat.due_at = soon;
            self.height.repeat.interval_ms = self.config.timeouts.repeat_ms;
        }
    }

    pub(super) fn repeat_if_due(&mut self) {
        if !self.height.begun || self.height.decided || self.now < self.height.repeat.due_at {
            return;
        }
        let height = &mut self.height;
        let (round, place) = (height.round().unwrap_or(0), (height.round().unwrap_or(0), height.step()));
        let first_ms = self.config.timeouts.repeat_ms.max(1);
        let repeat = &mut height.repeat;
        let stuck = repeat.place.replace(place) == Some(place);
        let grown_ms = (repeat.interval_ms.saturating_mul(3) / 2).min(first_ms.saturating_mul(REPEAT_GROWTH_MAX));
        repeat.interval_ms = if stuck { grown_ms } else { first_ms };
        repeat.due_at = self.now + Duration::from_ms(repeat.interval_ms);
        let lagging = std::mem::take(&mut repeat.lagging);

        self.say_again(round);
        let support = self.height.support_to_tell(round);
        self.height.unsaid.extend(support.map(Output::GossipVotes));
        if lagging && let Some(votes) = self.height.way_out_of_earlier_rounds() {
            self.height.unsaid.push(Output::GossipVotes(votes));
        }
        self.ask_for_values();
    }

    /// Our own words of the round.
    fn say_again(&mut self, round: u32) {
        let (me, height) = (self.me, &mut self.height);
        if let Some(signed) = height.signed.get(&(round, Step::Propose)).copied() {
            let mine = height.proposals.get(&round).into_iter().flatten();
            let mine = mine.filter(|kept| kept.author == me && kept.value == signed.value).cloned();
            height.unsaid.extend(mine.map(|proposal| Output::GossipProposal(Box::new(proposal))));
            let support = height.support.as_ref().filter(|support| Some(support.round) == signed.polka.checked_sub(1));
            height.unsaid.extend(support.map(|support| Output::GossipVotes(support.votes.clone())));
        }
        let vote = |step| {
            let signed = height.signed.get(&(round, step))?;
            let (value, signature) = (signed.value, signed.signature);
            Some(Vote { height: height.start.height, round, step, value, author: me, signature })
        };
        let votes: Vec<_> = [Step::Prevote, Step::Precommit].into_iter().filter_map(vote).collect();
        if !votes.is_empty() {
            height.unsaid.push(Output::GossipVotes(Votes { votes }));
        }
    }

    /// Asks for proposals that somebody honest voted for and we never saw.
    fn ask_for_values(&mut self) {
        let wanted = self.height.values_missed();
        self.outputs.extend(wanted);
    }
}

/// A value's quorum of prevotes, kept apart from the core's count.
pub(super) struct Support {
    pub(super) round: u32,
    pub(super) value: Hash,
    pub(super) votes: Votes,
}

impl OneHeight {
    /// Notes it if this member speaks in a round that is over for us.
    pub(super) fn note_lag(&mut self, vote: &Vote) {
        let latest = self.heard.get(&vote.author).copied().unwrap_or(0).max(vote.round);
        self.repeat.lagging |= self.round().is_some_and(|round| latest < round);
    }

    /// Keeps the latest quorum of prevotes for a value, whoever told us of it:
    /// who is bound to it accepts nothing earlier.
    pub(super) fn keep_support(&mut self) {
        let kept = self.support.as_ref().map(|support| support.round);
        let latest = self.driver.polka_certificates().iter().max_by_key(|polka| polka.round);
        let Some(polka) = latest.filter(|polka| polka.round.as_u32() > kept) else { return };
        let (round, value) = (number(polka.round), polka.value_id);
        let vote = |signed: &PolkaSignature<Context>| Vote {
            height: self.start.height,
            round,
            step: Step::Prevote,
            value,
            author: signed.address,
            signature: signed.signature,
        };
        let votes = polka.polka_signatures.iter().map(vote).collect();
        self.support = Some(Support { round, value, votes: Votes { votes } });
    }

    /// Whether this message carries the quorum that we hold.
    pub(super) fn note_support(&mut self, votes: &Votes) {
        let held = self.support.as_ref().map(|support| (support.round, support.value));
        let first = votes.votes.first().filter(|_| votes.votes.len() > 1);
        self.repeat.support_heard |= first.is_some_and(|vote| Some((vote.round, vote.value)) == held);
    }

    /// The quorum that binds us, if we voted against this round's proposal for it
    /// and nobody else has told it lately: its author did not know.
    fn support_to_tell(&mut self, round: u32) -> Option<Votes> {
        let heard = std::mem::take(&mut self.repeat.support_heard);
        let refused = self.signed.get(&(round, Step::Prevote)).is_some_and(|signed| signed.value == NIL);
        let support = self.support.as_ref().filter(|support| refused && !heard && support.round < round)?;
        Some(support.votes.clone())
    }

    /// Lets go of rounds long over, except for the value that we are bound to.
    pub(super) fn forget_before(&mut self, round: Round) {
        let current = number(round);
        self.timers.retain(|(round, _), _| *round >= current);
        let oldest = current.saturating_sub(ROUNDS_KEPT);
        let locked = self.locked().map(|(_, value)| value);
        let supported = self.support.as_ref().map(|support| support.value);
        let bound: BTreeSet<_> = locked.into_iter().chain(supported).collect();
        self.driver.prune_votes_and_certificates(Round::new(oldest));
        self.proposals.retain(|round, kept| {
            if *round < oldest {
                kept.retain(|proposal| bound.contains(&proposal.value));
            }
            !kept.is_empty()
        });
    }

    /// The votes that made us leave earlier rounds.
    fn way_out_of_earlier_rounds(&self) -> Option<Votes> {
        let certificate = &self.driver.round_certificate()?.certificate;
        let vote = |signature: &RoundSignature<Context>| Vote {
            height: self.start.height,
            round: number(certificate.round),
            step: step_of(signature.vote_type),
            value: value_of(&signature.value_id),
            author: signature.address,
            signature: signature.signature,
        };
        let votes: Vec<_> = certificate.round_signatures.iter().take(VOTES_PER_MESSAGE_MAX).map(vote).collect();
        (!votes.is_empty()).then_some(Votes { votes })
    }

    fn values_missed(&self) -> Vec<Output> {
        let (chain, height) = (self.start.chain, self.start.height);
        let mut wanted = Vec::new();
        for (round, votes) in self.driver.votes().all_rounds() {
            let mut voters: BTreeMap<Hash, BTreeSet<_>> = BTreeMap::new();
            for vote in votes.received_votes() {
                if let NilOrVal::Val(value) = vote.value {
                    voters.entry(value).or_default().insert(vote.author);
                }
            }
            let round = number(*round);
            // Past rounds can still decide by precommits, and bind by prevotes.
            let matters = |value: &Hash| {
                let past = Some(round) < self.round();
                let precommits = votes.votes().get_weight(VoteType::Precommit, &NilOrVal::Val(*value));
                let decided = past && self.start.committee.is_quorum(precommits);
                let binding =
                    self.support.as_ref().is_some_and(|support| (support.round, support.value) == (round, *value));
                decided || binding || (!past && self.wants_value(round, value))
            };
            let seen = |value: &Hash| self.proposals.get(&round).into_iter().flatten().any(|kept| kept.value == *value);
            for (value, holders) in voters {
                if value != NIL && !seen(&value) && matters(&value) {
                    let holders = holders.into_iter().collect();
                    let ask = ProposalAsk { chain, height, round, value };
                    wanted.push(Output::WantProposal { ask, holders });
                }
            }
        }
        wanted
    }
}
