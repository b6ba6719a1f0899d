//! The core's loop: events in, signatures and decisions out, all of it logged.
//!
//! [`Engine::feed`] is the only way into the core, live and in replay. What it
//! does follows from the events and their order alone, so the log of events is
//! the state.

use super::context::{Context, CoreProposal, CoreVote, Height, Value, kind_of, nil_or, step_of, value_of};
use super::repair::Support;
use super::{Engine, OneHeight, Output, Signed};
use crate::consensus::certificate::{Certificate, Seal};
use crate::consensus::vote::{NIL, Proposal, Statement, Step, Vote, Votes};
use crate::consensus::wal::{Event, Record};
use crate::ids::Hash;
use crate::time::Duration;
use arc_malachitebft_core_driver as core;
use arc_malachitebft_core_types::{
    PolkaCertificate, PolkaSignature, Round, SignedMessage, Timeout, TimeoutKind, Validity,
};
use std::cmp::Reverse;
use std::collections::VecDeque;

type CoreInput = core::Input<Context>;

/// Rounds before the current one whose votes and values are kept; older ones
/// can decide nothing that the others do not tell by certificate.
pub(super) const ROUNDS_KEPT: u32 = 32;

impl Engine {
    /// Enters round 0.
    pub(super) fn begin(&mut self) {
        self.height.begun = true;
        self.height.since = self.now;
        self.repeat_from_now();
        let proposer = self.height.context.proposer(self.height.start.height, 0);
        self.run(CoreInput::NewRound(Height(self.height.start.height), Round::new(0), proposer));
        // What came before the beginning and was judged meanwhile.
        let early = self.height.proposals.values().flatten();
        let early: Vec<_> = early.filter(|proposal| self.height.valid.contains(&proposal.value)).cloned().collect();
        for proposal in early {
            self.feed(Event::Proposed { proposal, valid: true });
        }
    }

    /// Moves the core by one event and notes it for the log.
    pub(super) fn feed(&mut self, event: Event) {
        if self.height.decided {
            return;
        }
        debug_assert!(self.height.begun, "the core knows no proposer before its height begins");
        let input = self.height.core_input(&event);
        if let Event::Elapsed { round, step } = &event {
            self.height.timers.remove(&(*round, *step));
        }
        self.note(event);
        self.run(input);
    }

    /// Ends a wait.
    pub(super) fn elapse(&mut self, (round, step): (u32, Step)) {
        self.feed(Event::Elapsed { round, step });
    }

    /// The core's input and all that follows from it.
    pub(super) fn run(&mut self, input: CoreInput) {
        let mut work = VecDeque::from([input]);
        while let Some(input) = work.pop_front() {
            // What is fed was checked: members only, this height, drawn proposers.
            let outputs = match self.height.driver.process(input) {
                Ok(outputs) => outputs,
                Err(error) => unreachable!("the core refused a checked input: {error}"),
            };
            for output in outputs {
                self.react(output, &mut work);
            }
            self.height.keep_support();
        }
    }

    fn react(&mut self, output: core::Output<Context>, work: &mut VecDeque<CoreInput>) {
        match output {
            core::Output::NewRound(height, round) => {
                self.height.forget_before(round);
                let proposer = self.height.context.proposer(height.0, number(round));
                // Before anything else, for the core knows no proposer meanwhile.
                work.push_front(CoreInput::NewRound(height, round, proposer));
                // What binds us stays known, however long ago it was.
                let support = self
                    .height
                    .support
                    .as_ref()
                    .filter(|support| !self.height.has_quorum(support.round, &support.value));
                work.extend(support.map(|support| core_polka(&support.votes)));
            }
            core::Output::Propose(proposal) => work.extend(self.propose(&proposal)),
            core::Output::Vote(vote) => work.extend(self.vote(&vote)),
            core::Output::Decide(_, proposal) => self.decide(&proposal),
            core::Output::ScheduleTimeout(timeout) => self.schedule(timeout),
            core::Output::GetValue(height, round, _) => {
                if self.may_sign() {
                    self.outputs.push_back(Output::BuildValue { height: height.0, round: number(round) });
                }
            }
        }
    }

    /// The value that we are to propose was built.
    pub(super) fn take_built(&mut self, height: u64, round: u32, bytes: Vec<u8>) {
        let here = height == self.height.start.height && Some(round) == self.height.round();
        let asked = here && self.height.step() == Step::Propose && self.height.begun && self.may_sign();
        if !asked || self.height.signed.contains_key(&(round, Step::Propose)) {
            return;
        }
        let drawn = self.height.context.proposer(height, round) == self.me;
        if let Some(value) = (self.config.identify)(&bytes, Some(&self.me)).filter(|_| drawn) {
            self.feed(Event::Built { round, value, bytes });
        }
    }

    fn propose(&mut self, proposal: &CoreProposal) -> Option<CoreInput> {
        let round = number(proposal.round);
        let own = (proposal.polka.as_u32().map_or(0, |round| round + 1), proposal.value.0);
        // The core proposes what it saw supported in time; others may be bound to
        // a later quorum, that we learnt of since. That one they will accept.
        let (polka, value) = self.height.supported().filter(|supported| supported.0 > own.0).unwrap_or(own);
        let signed = self.sign(round, Step::Propose, value, polka)?;
        let bytes = self.height.bytes_of(&value)?.to_vec();
        let height = self.height.start.height;
        let proposal = Proposal { height, round, polka, value, author: self.me, signature: signed.signature, bytes };
        self.height.unsaid.push(Output::GossipProposal(Box::new(proposal.clone())));
        let support = self.height.support.as_ref().filter(|support| Some(support.round) == proposal.polka_round());
        let support = support.map(|support| Output::GossipVotes(support.votes.clone()));
        self.height.unsaid.extend(support);
        self.height.valid.insert(value);
        let input = core_proposal(&proposal, true);
        self.height.proposals.entry(round).or_default().push(proposal);
        Some(input)
    }

    fn vote(&mut self, vote: &CoreVote) -> Option<CoreInput> {
        let (round, step, value) = (number(vote.round), step_of(vote.kind), value_of(&vote.value));
        let signed = self.sign(round, step, value, 0)?;
        let height = self.height.start.height;
        let vote = Vote { height, round, step, value, author: self.me, signature: signed.signature };
        self.height.unsaid.push(Output::GossipVotes(Votes { votes: vec![vote] }));
        Some(core_vote(&vote))
    }

    /// Signs, unless we signed something else for this step: then nothing is said.
    fn sign(&mut self, round: u32, step: Step, value: Hash, polka: u32) -> Option<Signed> {
        if !self.may_sign() {
            return None;
        }
        if let Some(signed) = self.height.signed.get(&(round, step)) {
            return Some(*signed).filter(|signed| (signed.value, signed.polka) == (value, polka));
        }
        let start = &self.height.start;
        let statement = Statement { chain: start.chain, height: start.height, round, step, value, polka };
        let signature = statement.sign(&self.config.identity);
        let signed = Signed { value, polka, signature };
        self.height.signed.insert((round, step), signed);
        self.note(Event::Signed { round, step, value, polka, signature });
        Some(signed)
    }

    pub(super) fn may_sign(&self) -> bool {
        self.height.member && self.height.start.height >= self.mute_below
    }

    fn decide(&mut self, proposal: &CoreProposal) {
        let (round, value) = (proposal.round, proposal.value.0);
        let precommits = self.height.driver.restore_precommits(round, &value);
        let seals = self.height.fewest(precommits.iter().map(seal).collect());
        let certificate = Certificate { height: self.height.start.height, round: number(round), value, seals };
        let bytes = self.height.bytes_of(&value).unwrap_or_default().to_vec();
        self.height.decided = true;
        self.height.unsaid.push(Output::Decided { certificate, bytes });
    }

    fn schedule(&mut self, timeout: Timeout) {
        let waits = self.config.timeouts;
        let (step, base_ms) = match timeout.kind {
            TimeoutKind::Propose => (Step::Propose, waits.propose_ms),
            TimeoutKind::Prevote => (Step::Prevote, waits.vote_ms),
            TimeoutKind::Precommit => (Step::Precommit, waits.vote_ms),
            TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return,
        };
        let round = number(timeout.round);
        let grown = waits.growth_ms.saturating_mul(u64::from(round) + u64::from(self.patience));
        let wait_ms = base_ms.saturating_add(grown).min(waits.max_ms);
        self.height.timers.insert((round, step), self.now + Duration::from_ms(wait_ms));
    }

    fn note(&mut self, event: Event) {
        // Who signs nothing needs no log.
        if self.may_sign() {
            self.height.events.push(event);
        }
    }

    /// Everything that was to be said, after the record that it rests on. What
    /// carries no new signature of ours rests on nothing: to say something again,
    /// and to tell of a decision, costs no write.
    pub(super) fn flush(&mut self) {
        if self.height.unsaid.is_empty() {
            return;
        }
        if self.height.events.iter().any(|event| matches!(event, Event::Signed { .. })) {
            let events = std::mem::take(&mut self.height.events);
            let record = Record { chain: self.height.start.chain, height: self.height.start.height, events };
            self.outputs.push_back(Output::Journal(record.encode()));
        }
        self.outputs.extend(self.height.unsaid.drain(..));
    }
}

impl OneHeight {
    pub(super) fn round(&self) -> Option<u32> {
        self.driver.round().as_u32()
    }

    pub(super) fn step(&self) -> Step {
        match self.driver.step() {
            core::Step::Unstarted | core::Step::Propose => Step::Propose,
            core::Step::Prevote => Step::Prevote,
            core::Step::Precommit | core::Step::Commit => Step::Precommit,
        }
    }

    pub(super) fn locked(&self) -> Option<(u32, Hash)> {
        self.driver.round_state().locked.as_ref().map(|locked| (number(locked.round), locked.value.0))
    }

    /// What can be proposed again: the value with the latest quorum of prevotes,
    /// and one more than that quorum's round.
    fn supported(&self) -> Option<(u32, Hash)> {
        let Support { round, value, .. } = self.support.as_ref()?;
        let known = self.valid.contains(value) && self.bytes_of(value).is_some();
        known.then_some((round + 1, *value))
    }

    pub(super) fn bytes_of(&self, value: &Hash) -> Option<&[u8]> {
        let built = self.built.as_ref().map(|(value, bytes)| (value, bytes));
        let proposed = self.proposals.values().flatten().map(|proposal| (&proposal.value, &proposal.bytes));
        built.into_iter().chain(proposed).find(|(id, _)| *id == value).map(|(_, bytes)| bytes.as_slice())
    }

    /// Of these signatures the fewest that are a quorum, ascending by author.
    fn fewest(&self, mut seals: Vec<Seal>) -> Vec<Seal> {
        let committee = &self.start.committee;
        seals.sort_unstable_by_key(|seal| (Reverse(committee.weight(&seal.author)), seal.author));
        let mut weight = 0;
        let heavy = |seal: &Seal| {
            weight += committee.weight(&seal.author);
            committee.is_quorum(weight)
        };
        let last = seals.iter().position(heavy);
        seals.truncate(last.map_or(seals.len(), |last| last + 1));
        seals.sort_unstable_by_key(|seal| seal.author);
        seals
    }

    fn core_input(&mut self, event: &Event) -> CoreInput {
        match event {
            Event::Built { round, value, bytes } => {
                self.built = Some((*value, bytes.clone()));
                CoreInput::ProposeValue(Round::new(*round), Value(*value))
            }
            Event::Proposed { proposal, valid } => core_proposal(proposal, *valid),
            Event::Voted { vote } => core_vote(vote),
            Event::Supported { votes } => core_polka(votes),
            Event::Elapsed { round, step } => {
                let kind = match step {
                    Step::Propose => TimeoutKind::Propose,
                    Step::Prevote => TimeoutKind::Prevote,
                    Step::Precommit => TimeoutKind::Precommit,
                };
                CoreInput::TimeoutElapsed(Timeout::new(Round::new(*round), kind))
            }
            Event::Signed { .. } => unreachable!("signatures are restored, not fed"),
        }
    }
}

pub(super) fn number(round: Round) -> u32 {
    round.as_u32().unwrap_or_default()
}

fn core_proposal(proposal: &Proposal, valid: bool) -> CoreInput {
    let message = CoreProposal {
        height: Height(proposal.height),
        round: Round::new(proposal.round),
        value: Value(proposal.value),
        polka: Round::from(proposal.polka_round()),
        author: proposal.author,
    };
    CoreInput::Proposal(SignedMessage::new(message, proposal.signature), Validity::from_bool(valid))
}

pub(super) fn core_vote(vote: &Vote) -> CoreInput {
    let message = CoreVote {
        height: Height(vote.height),
        round: Round::new(vote.round),
        kind: kind_of(vote.step),
        value: nil_or(vote.value),
        author: vote.author,
    };
    CoreInput::Vote(SignedMessage::new(message, vote.signature))
}

/// Prevotes that all name the same round and value.
fn core_polka(votes: &Votes) -> CoreInput {
    let of = |vote: &Vote| (vote.height, vote.round, vote.value);
    let (height, round, value_id) = votes.votes.first().map_or((0, 0, NIL), of);
    let signature = |vote: &Vote| PolkaSignature::new(vote.author, vote.signature);
    CoreInput::PolkaCertificate(PolkaCertificate {
        height: Height(height),
        round: Round::new(round),
        value_id,
        polka_signatures: votes.votes.iter().map(signature).collect(),
    })
}

pub(super) fn wire_vote(vote: &SignedMessage<Context, CoreVote>) -> Vote {
    Vote {
        height: vote.height.0,
        round: number(vote.round),
        step: step_of(vote.kind),
        value: value_of(&vote.value),
        author: vote.author,
        signature: vote.signature,
    }
}

fn seal(vote: &SignedMessage<Context, CoreVote>) -> Seal {
    Seal { author: vote.author, signature: vote.signature }
}
