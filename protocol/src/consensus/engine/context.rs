//! Our types as malachite's core names them. Nothing else of this crate's
//! interface mentions it.

use crate::consensus::committee::Committee;
use crate::consensus::vote::{NIL, Step};
use crate::election::{Beacon, lottery};
use crate::ids::{Hash, PeerId, Signature};
use arc_malachitebft_core_types as core;
use arc_malachitebft_core_types::{LinearTimeouts, NilOrVal, Round, SignedExtension, VoteType};
use std::sync::Arc;

/// What the core is told of one height.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) beacon: Beacon,
    pub(super) committee: Arc<Committee>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Height(pub(super) u64);

/// A value is its id: bytes stay outside the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value(pub(super) Hash);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    peer: PeerId,
    weight: u64,
}

/// A committee, ascending by peer id; the core clones it, so it is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators(Arc<(Vec<Validator>, u64)>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CoreProposal {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) value: Value,
    pub(super) polka: Round,
    pub(super) author: PeerId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CoreVote {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) kind: VoteType,
    pub(super) value: NilOrVal<Hash>,
    pub(super) author: PeerId,
}

/// Values are not cut into parts, so no part exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoPart {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ed25519;

/// Bytes of another length than a key or signature has.
#[derive(Debug, thiserror::Error)]
#[error("{0} bytes, expected {1}")]
pub(super) struct WrongLength(usize, usize);

impl Context {
    /// Who proposes in this round: drawn from the beacon by weight.
    pub(super) fn proposer(&self, height: u64, round: u32) -> PeerId {
        let weights = self.committee.weights();
        // A committee has members and each has weight, so the draw finds one.
        lottery::draw(&self.beacon.lottery_seed(height, round), weights).unwrap_or(weights[0].0)
    }
}

impl Validators {
    pub(super) fn new(committee: &Committee) -> Self {
        let validator = |(peer, weight): &(PeerId, u64)| Validator { peer: *peer, weight: *weight };
        Self(Arc::new((committee.weights().iter().map(validator).collect(), committee.total())))
    }
}

/// The value of a vote on the wire.
pub(super) fn value_of(value: &NilOrVal<Hash>) -> Hash {
    match value {
        NilOrVal::Nil => NIL,
        NilOrVal::Val(value) => *value,
    }
}

/// The value of a vote in the core.
pub(super) fn nil_or(value: Hash) -> NilOrVal<Hash> {
    if value == NIL { NilOrVal::Nil } else { NilOrVal::Val(value) }
}

pub(super) fn step_of(kind: VoteType) -> Step {
    match kind {
        VoteType::Prevote => Step::Prevote,
        VoteType::Precommit => Step::Precommit,
    }
}

/// The core's kind of a vote; a proposal is none, and no vote of it is accepted.
pub(super) fn kind_of(step: Step) -> VoteType {
    if step == Step::Precommit { VoteType::Precommit } else { VoteType::Prevote }
}

impl core::Context for Context {
    type Address = PeerId;
    type Height = Height;
    type ProposalPart = NoPart;
    type Proposal = CoreProposal;
    type Validator = Validator;
    type ValidatorSet = Validators;
    type Timeouts = LinearTimeouts;
    type Value = Value;
    type Vote = CoreVote;
    type Extension = ();
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(&self, validators: &'a Validators, height: Height, round: Round) -> &'a Validator {
        let drawn = self.proposer(height.0, round.as_u32().unwrap_or_default());
        validators.0.0.iter().find(|validator| validator.peer == drawn).unwrap_or(&validators.0.0[0])
    }

    fn new_proposal(&self, height: Height, round: Round, value: Value, polka: Round, author: PeerId) -> CoreProposal {
        CoreProposal { height, round, value, polka, author }
    }

    fn new_prevote(&self, height: Height, round: Round, value: NilOrVal<Hash>, author: PeerId) -> CoreVote {
        CoreVote { height, round, kind: VoteType::Prevote, value, author }
    }

    fn new_precommit(&self, height: Height, round: Round, value: NilOrVal<Hash>, author: PeerId) -> CoreVote {
        CoreVote { height, round, kind: VoteType::Precommit, value, author }
    }
}

impl core::Address for PeerId {}

impl std::fmt::Display for Height {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl core::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

impl core::Value for Value {
    type Id = Hash;

    fn id(&self) -> Hash {
        self.0
    }
}

impl core::Validator<Context> for Validator {
    fn address(&self) -> &PeerId {
        &self.peer
    }

    fn public_key(&self) -> &PeerId {
        &self.peer
    }

    fn voting_power(&self) -> u64 {
        self.weight
    }
}

impl core::ValidatorSet<Context> for Validators {
    fn count(&self) -> usize {
        self.0.0.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.0.1
    }

    fn get_by_address(&self, address: &PeerId) -> Option<&Validator> {
        let place = self.0.0.binary_search_by_key(address, |member| member.peer).ok()?;
        self.get_by_index(place)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.0.0.get(index)
    }
}

impl core::Proposal<Context> for CoreProposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Value {
        &self.value
    }

    fn take_value(self) -> Value {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.polka
    }

    fn validator_address(&self) -> &PeerId {
        &self.author
    }
}

impl core::Vote<Context> for CoreVote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Hash> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<Hash> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &PeerId {
        &self.author
    }

    fn extension(&self) -> Option<&SignedExtension<Context>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Context>> {
        None
    }

    /// Votes have no extensions.
    fn extend(self, _: SignedExtension<Context>) -> Self {
        self
    }
}

impl core::ProposalPart<Context> for NoPart {
    fn is_first(&self) -> bool {
        match *self {}
    }

    fn is_last(&self) -> bool {
        match *self {}
    }
}

impl core::SigningScheme for Ed25519 {
    type DecodingError = WrongLength;
    type Signature = Signature;
    type PublicKey = PeerId;
    /// The core never signs.
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<Signature, WrongLength> {
        bytes.try_into().map(Signature).map_err(|_| WrongLength(bytes.len(), 64))
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PeerId, WrongLength> {
        bytes.try_into().map(PeerId).map_err(|_| WrongLength(bytes.len(), 32))
    }

    fn encode_public_key(public_key: &PeerId) -> Vec<u8> {
        public_key.0.to_vec()
    }
}
