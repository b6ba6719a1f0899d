//! What is taken from strangers, and how much of it.
//!
//! Cheap checks come before signatures, and whatever is kept is counted by its
//! author: a member can fill its own places and nobody else's, and who is no
//! member has none.

use super::drive::{ROUNDS_KEPT, wire_vote};
use super::{Engine, OneHeight, Output, Refusal, Worth};
use crate::consensus::evidence::Evidence;
use crate::consensus::vote::{NIL, Proposal, Statement, Step, Vote, Votes};
use crate::consensus::wal::Event;
use crate::ids::{Hash, PeerId, Signature};
use arc_malachitebft_core_types::{NilOrVal, Round, VoteType};
use std::collections::{BTreeMap, BTreeSet};

/// Rounds to come of which an author's votes are kept, the latest of them.
const ROUNDS_AHEAD_MAX: usize = 4;
/// Rounds to come of which proposals are kept: later ones are said again.
const PROPOSAL_ROUNDS_AHEAD_MAX: u32 = 2;
/// Votes of one author for the next height that are kept.
const LATER_VOTES_MAX: usize = 4;
/// Proposals for the next height that are kept.
const LATER_PROPOSALS_MAX: usize = 16;

/// Messages for the next height, of this height's members.
#[derive(Default)]
pub(super) struct Later {
    votes: BTreeMap<PeerId, Vec<Vote>>,
    proposals: BTreeMap<PeerId, Proposal>,
}

impl Engine {
    pub(super) fn accept_votes(&mut self, votes: &Votes) -> Result<Worth, Refusal> {
        let mut worth = Worth::Elsewhere;
        for vote in &votes.votes {
            match self.accept_vote(vote)? {
                Worth::New => worth = Worth::New,
                Worth::Known if worth == Worth::Elsewhere => worth = Worth::Known,
                Worth::Known | Worth::Elsewhere => {}
            }
        }
        self.height.note_support(votes);
        // The votes that the core can use come first: mostly they are the quorum.
        self.absorb();
        if self.accept_quorum(votes)? { Ok(Worth::New) } else { Ok(worth) }
    }

    /// Takes a quorum of prevotes as one, for some of its authors may have told
    /// us something else: their votes count once in each of two such quorums,
    /// and without this a liar could keep us from what the others support.
    fn accept_quorum(&mut self, votes: &Votes) -> Result<bool, Refusal> {
        let height = &self.height;
        let Some(Vote { round, value, .. }) = votes.votes.first().copied().filter(|_| votes.votes.len() > 1) else {
            return Ok(false);
        };
        let place = (height.start.height, round, Step::Prevote, value);
        let same = votes.votes.iter().all(|vote| (vote.height, vote.round, vote.step, vote.value) == place);
        let usable = height.begun && !height.decided && height.round() >= Some(round) && height.wants_votes_of(round);
        if !same || !usable || value == NIL || height.has_quorum(round, &value) {
            return Ok(false);
        }
        let authors: BTreeSet<_> = votes.votes.iter().map(|vote| vote.author).collect();
        let weight: u64 = authors.iter().map(|author| height.start.committee.weight(author)).sum();
        if authors.len() != votes.votes.len() || !height.start.committee.is_quorum(weight) {
            return Ok(false);
        }
        // Those that we counted were verified, if it is the same signature.
        let counted = |vote: &Vote| height.vote_of(&vote.author, round, Step::Prevote) == Some(*vote);
        let bad = votes.votes.iter().find(|vote| !counted(vote) && !vote.is_signed(&height.start.chain));
        if let Some(vote) = bad {
            return Err(Refusal::BadSignature(vote.author));
        }
        self.feed(Event::Supported { votes: votes.clone() });
        Ok(true)
    }

    fn accept_vote(&mut self, vote: &Vote) -> Result<Worth, Refusal> {
        let Self { height, me, .. } = self;
        if vote.height != height.start.height {
            return self.keep_vote(vote);
        }
        if !height.start.committee.contains(&vote.author) {
            return Err(Refusal::NotMember(vote.author));
        }
        let known = height.vote_of(&vote.author, vote.round, vote.step);
        // Who is convicted makes us verify no more contradictions.
        let convicted = known.is_some() && height.accused.contains(&vote.author);
        if height.decided || convicted || known.is_some_and(|known| known.value == vote.value) {
            height.note_lag(vote);
            return Ok(Worth::Known);
        }
        if known.is_none() && !height.wants_votes_of(vote.round) {
            return Ok(Worth::Elsewhere);
        }
        if !vote.is_signed(&height.start.chain) {
            return Err(Refusal::BadSignature(vote.author));
        }
        if let Some(known) = known {
            let chain = height.start.chain;
            let pair = [(known.statement(&chain), known.signature), (vote.statement(&chain), vote.signature)];
            return Ok(self.accuse(vote.author, pair));
        }
        if vote.author == *me {
            // Said by us and not in our log, which was lost or is another machine's:
            // what bound us then is unknown.
            self.stand_by();
        }
        let height = &mut self.height;
        height.note_lag(vote);
        height.keep_ahead(*vote);
        self.hear(vote.author, vote.round);
        Ok(Worth::New)
    }

    pub(super) fn accept_proposal(&mut self, proposal: Proposal) -> Result<Worth, Refusal> {
        let Self { height, config, .. } = self;
        let Proposal { round, value, author, .. } = proposal;
        if proposal.height != height.start.height {
            return self.keep_proposal(proposal);
        }
        if !height.start.committee.contains(&author) {
            return Err(Refusal::NotMember(author));
        }
        let kept = height.proposals.get(&round).map_or(&[][..], Vec::as_slice);
        let convicted = !kept.is_empty() && height.accused.contains(&author) && !height.wants_value(round, &value);
        let known = kept.iter().any(|kept| (kept.value, kept.polka) == (value, proposal.polka));
        if height.decided || convicted || known {
            return Ok(Worth::Known);
        }
        let current = height.round().unwrap_or(0);
        if round > current + PROPOSAL_ROUNDS_AHEAD_MAX || (round < current && !height.wants_value(round, &value)) {
            return Ok(Worth::Elsewhere);
        }
        let drawn = height.context.proposer(height.start.height, round);
        if author != drawn {
            return Err(Refusal::NotProposer { found: author, expected: drawn });
        }
        let chain = height.start.chain;
        if !proposal.is_signed(&chain) {
            return Err(Refusal::BadSignature(author));
        }
        // Who accepted a value before saw that its proposer had built it.
        let builder = (proposal.polka == 0).then_some(&author);
        if (config.identify)(&proposal.bytes, builder) != Some(value) {
            return Err(Refusal::WrongBytes(value));
        }
        let wanted = height.wants_value(round, &value);
        if let Some(first) = kept.first() {
            let pair = [(first.statement(&chain), first.signature), (proposal.statement(&chain), proposal.signature)];
            self.accuse(author, pair);
            if !wanted {
                return Ok(Worth::New);
            }
        }
        if author == self.me {
            self.stand_by();
        }
        self.hear(author, round);
        self.height.proposals.entry(round).or_default().push(proposal.clone());
        self.judge(proposal);
        Ok(Worth::New)
    }

    /// Has the ledger judge the value, unless it did.
    fn judge(&mut self, proposal: Proposal) {
        let Proposal { height, round, value, .. } = proposal;
        if self.height.valid.contains(&value) {
            if self.height.begun {
                self.feed(Event::Proposed { proposal, valid: true });
            }
            return;
        }
        let waiting = self.height.checking.entry(value).or_default();
        waiting.push(round);
        if waiting.len() == 1 {
            self.outputs.push_back(Output::CheckValue { height, value, bytes: proposal.bytes });
        }
    }

    /// The ledger's verdict on a value.
    pub(super) fn take_verdict(&mut self, value: Hash, valid: bool) {
        let Some(rounds) = self.height.checking.remove(&value) else { return };
        if valid {
            self.height.valid.insert(value);
        }
        if !self.height.begun {
            // Fed when the height begins; an unacceptable one is as good as none.
            return;
        }
        for round in rounds {
            let kept = self.height.proposals.get(&round).into_iter().flatten();
            let judged: Vec<_> = kept.filter(|proposal| proposal.value == value).cloned().collect();
            for proposal in judged {
                self.feed(Event::Proposed { proposal, valid });
            }
        }
    }

    /// Feeds the votes that the core can use by now: those of the current round
    /// and before, and those of a later one in which someone honest is.
    pub(super) fn absorb(&mut self) {
        while !self.height.decided {
            if !self.height.begun {
                let committee = &self.height.start.committee;
                let awake = self.height.ahead.keys().map(|author| committee.weight(author)).sum();
                if !committee.has_honest(awake) {
                    return;
                }
                self.begin();
            }
            let votes = self.height.take_usable();
            if votes.is_empty() {
                return;
            }
            for vote in votes {
                self.feed(Event::Voted { vote });
            }
        }
    }

    /// Notes that a member is there; somebody's return is answered soon.
    fn hear(&mut self, author: PeerId, round: u32) {
        if author != self.me && self.height.hear(&author, round) {
            self.repeat_soon();
        }
    }

    fn accuse(&mut self, author: PeerId, [one, other]: [(Statement, Signature); 2]) -> Worth {
        if author == self.me {
            // Another machine signs with our key. Two of us would be a liar.
            self.stand_by();
            return Worth::Known;
        }
        // One proof convicts.
        if self.height.accused.contains(&author) {
            return Worth::Known;
        }
        let Some(evidence) = Evidence::new(author, one, other) else { return Worth::Known };
        self.height.accused.insert(author);
        self.outputs.push_back(Output::Evidence(Box::new(evidence)));
        Worth::New
    }

    /// Keeps a vote for the next height. Its committee is not known yet, so
    /// strangers are not refused.
    fn keep_vote(&mut self, vote: &Vote) -> Result<Worth, Refusal> {
        let start = &self.height.start;
        let kept = self.later.votes.get(&vote.author).map_or(&[][..], Vec::as_slice);
        let next = vote.height == start.height + 1 && start.committee.contains(&vote.author);
        if !next || kept.len() >= LATER_VOTES_MAX {
            return Ok(Worth::Elsewhere);
        }
        if kept.contains(vote) {
            return Ok(Worth::Known);
        }
        if !vote.is_signed(&start.chain) {
            return Err(Refusal::BadSignature(vote.author));
        }
        self.later.votes.entry(vote.author).or_default().push(*vote);
        Ok(Worth::New)
    }

    fn keep_proposal(&mut self, proposal: Proposal) -> Result<Worth, Refusal> {
        let start = &self.height.start;
        let author = proposal.author;
        let next = proposal.height == start.height + 1 && start.committee.contains(&author);
        let full = self.later.proposals.len() >= LATER_PROPOSALS_MAX || self.later.proposals.contains_key(&author);
        if !next || full {
            return Ok(Worth::Elsewhere);
        }
        if !proposal.is_signed(&start.chain) {
            return Err(Refusal::BadSignature(author));
        }
        self.later.proposals.insert(author, proposal);
        Ok(Worth::New)
    }

    /// Takes up what came for this height before it was ours.
    pub(super) fn take_later(&mut self) {
        let Later { votes, proposals } = std::mem::take(&mut self.later);
        let here = self.height.start.height;
        // Who turns out to be no member of this height is dropped here.
        for proposal in proposals.into_values().filter(|proposal| proposal.height == here) {
            let _ = self.accept_proposal(proposal);
        }
        for vote in votes.into_values().flatten().filter(|vote| vote.height == here) {
            let _ = self.accept_vote(&vote);
        }
    }
}

impl OneHeight {
    /// The vote of this author and step that we hold.
    fn vote_of(&self, author: &PeerId, round: u32, step: Step) -> Option<Vote> {
        let kind = if step == Step::Precommit { VoteType::Precommit } else { VoteType::Prevote };
        let counted = self.driver.votes().per_round(Round::new(round)).and_then(|votes| votes.get_vote(kind, author));
        let ahead = || self.ahead.get(author)?.get(&round)?.iter().find(|vote| vote.step == step).copied();
        counted.map(wire_vote).or_else(ahead)
    }

    /// Whether the core counts this vote.
    pub(super) fn knows(&self, vote: &Vote) -> bool {
        self.vote_of(&vote.author, vote.round, vote.step).is_some()
    }

    /// Votes of long gone rounds serve only to support a proposal of this one.
    fn wants_votes_of(&self, round: u32) -> bool {
        let current = self.round().unwrap_or(0);
        let supports = |proposal: &Proposal| proposal.polka_round() == Some(round);
        round + ROUNDS_KEPT >= current || self.proposals.get(&current).into_iter().flatten().any(supports)
    }

    /// Whether we hold a quorum of prevotes for this value.
    pub(super) fn has_quorum(&self, round: u32, value: &Hash) -> bool {
        self.driver.polka_certificate(Round::new(round), value).is_some()
    }

    /// Whether someone honest voted for this value in this round.
    pub(super) fn wants_value(&self, round: u32, value: &Hash) -> bool {
        let Some(votes) = self.driver.votes().per_round(Round::new(round)) else { return false };
        [VoteType::Prevote, VoteType::Precommit].into_iter().any(|kind| {
            let weight = votes.votes().get_weight(kind, &NilOrVal::Val(*value));
            self.start.committee.has_honest(weight)
        })
    }

    fn keep_ahead(&mut self, vote: Vote) {
        let rounds = self.ahead.entry(vote.author).or_default();
        rounds.entry(vote.round).or_default().push(vote);
        if rounds.len() > ROUNDS_AHEAD_MAX {
            rounds.pop_first();
        }
    }

    fn take_usable(&mut self) -> Vec<Vote> {
        let current = self.round().unwrap_or(0);
        let usable = |round: u32| round <= current;
        let votes = self.take_ahead(usable);
        if !votes.is_empty() {
            return votes;
        }
        match self.round_of_honest() {
            Some(later) => self.take_ahead(|round| round == later),
            None => Vec::new(),
        }
    }

    fn take_ahead(&mut self, usable: impl Fn(u32) -> bool) -> Vec<Vote> {
        let mut taken = Vec::new();
        for rounds in self.ahead.values_mut() {
            let (now, later) = std::mem::take(rounds).into_iter().partition(|(round, _)| usable(*round));
            *rounds = later;
            let now: BTreeMap<u32, Vec<Vote>> = now;
            taken.extend(now.into_values().flatten());
        }
        self.ahead.retain(|_, rounds| !rounds.is_empty());
        taken
    }

    /// The latest round to come in which more than a third of the weight speaks.
    fn round_of_honest(&self) -> Option<u32> {
        let mut weights: BTreeMap<u32, u64> = BTreeMap::new();
        for (author, rounds) in &self.ahead {
            let weight = self.start.committee.weight(author);
            // Distinct members: the sum is at most the committee's total.
            rounds.keys().for_each(|round| *weights.entry(*round).or_default() += weight);
        }
        weights.into_iter().rev().find(|(_, weight)| self.start.committee.has_honest(*weight)).map(|(round, _)| round)
    }

    /// Notes a member's round; whether it is the first word of it in this height.
    pub(super) fn hear(&mut self, author: &PeerId, round: u32) -> bool {
        let latest = self.heard.insert(*author, round);
        if let Some(latest) = latest.filter(|latest| *latest > round) {
            self.heard.insert(*author, latest);
        }
        latest.is_none()
    }

    /// A proposal of the log.
    pub(super) fn restore_proposal(&mut self, proposal: &Proposal, valid: bool) {
        self.hear(&proposal.author, proposal.round);
        if valid {
            self.valid.insert(proposal.value);
        }
        let kept = self.proposals.entry(proposal.round).or_default();
        if !kept.contains(proposal) {
            kept.push(proposal.clone());
        }
    }
}
