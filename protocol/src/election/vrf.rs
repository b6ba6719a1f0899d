//! Verifiable random function: a key's output for an input is unique, unknown
//! to others until the key's holder shows it, and provable.
//!
//! The suite is ECVRF-RISTRETTO255-SHA512 (c2sp.org/vrf-r255) of RFC 9381.
//! This is the only module that names `vrf_r255`. Keys and proofs of others
//! are bytes until they are used; those that are not the encoding of a key or
//! of a proof verify nothing.

use super::beacon::Beacon;
pub use crate::ids::{VrfOutput, VrfProof, VrfPublic};
use crate::memory;
use std::fmt;
use vrf_r255::{Proof, PublicKey, SecretKey};

/// What an election is for; it keeps one election's output out of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Domain {
    /// The proposer's part in the next beacon.
    Beacon = 1,
    /// Seats of all drill tasks whose stages the beacon opens; [`VrfOutput::of_task`] tells them apart.
    Drill = 2,
    /// Who checks whether others are up.
    Probe = 4,
}

const INPUT_TAG: &[u8] = b"manta 2026-11 election v1";
const TASK_CONTEXT: &str = "manta 2026-11 election of task v1";
const SECRET_CONTEXT: &str = "manta 2026-11 vrf secret v1";

/// What a key is asked about: the VRF input for one election of `domain` under
/// `beacon`. Each of `parts` is led by its length, so that no two lists of
/// parts give the same input.
pub fn election_input(domain: Domain, beacon: &Beacon, parts: &[&[u8]]) -> Vec<u8> {
    let mut input = Vec::from(INPUT_TAG);
    input.push(domain as u8);
    input.extend_from_slice(beacon.0.as_bytes());
    for part in parts {
        input.extend_from_slice(&(part.len() as u64).to_le_bytes());
        input.extend_from_slice(part);
    }
    input
}

/// The secret side of a [`VrfPublic`].
#[derive(Clone)]
pub struct VrfSecret {
    key: SecretKey,
}

impl VrfSecret {
    /// The key that belongs to an ed25519 secret seed.
    ///
    /// The scalar is a derived hash without its four highest bits, and so below
    /// the group's order (just above 2²⁵²); its distance from uniform is under
    /// 2⁻¹²⁶. Only zero is no key: then the next counter is tried.
    pub fn derive(secret: &[u8; 32]) -> Self {
        let key = (0u64..).find_map(|counter| {
            let mut hasher = blake3::Hasher::new_derive_key(SECRET_CONTEXT);
            let mut scalar = *hasher.update(secret).update(&counter.to_le_bytes()).finalize().as_bytes();
            scalar[31] &= 0x0f;
            Self::from_scalar(scalar)
        });
        key.expect("zero does not follow from every counter")
    }

    /// The key of this scalar (little-endian), if it is one.
    pub fn from_scalar(scalar: [u8; 32]) -> Option<Self> {
        Option::from(SecretKey::from_bytes(scalar)).map(|key| Self { key })
    }

    /// The public side.
    pub fn public(&self) -> VrfPublic {
        VrfPublic(PublicKey::from(self.key).to_bytes())
    }

    /// This key's output for `input`, and the proof that it is (RFC 9381 §5.1).
    ///
    /// The proof is checked here before it leaves: that yields the output, and
    /// a proof spoilt by a fault of the machine would give the secret away.
    ///
    /// # Panics
    /// If the machine computed wrongly.
    pub fn prove(&self, input: &[u8]) -> (VrfOutput, VrfProof) {
        let proof = VrfProof(self.key.prove(input).to_bytes());
        (self.public().verify(input, &proof).expect("a key's own proof verifies"), proof)
    }
}

impl fmt::Debug for VrfSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VrfSecret({:?})", self.public())
    }
}

impl VrfPublic {
    /// Whether these bytes are a key at all: the canonical encoding of a group
    /// element that is not the identity (RFC 9381 §5.4.5).
    pub fn is_valid(&self) -> bool {
        PublicKey::from_bytes(self.0).is_some()
    }

    /// The output that `proof` proves for this key and `input` (RFC 9381 §5.3);
    /// `None` if the key or the proof is malformed or does not fit.
    pub fn verify(&self, input: &[u8], proof: &VrfProof) -> Option<VrfOutput> {
        memory::proof([&self.0, input, &proof.0], || {
            let key = PublicKey::from_bytes(self.0)?;
            let proof = Proof::from_bytes(proof.0)?;
            Option::from(key.verify(input, &proof)).map(VrfOutput)
        })
    }
}

impl VrfOutput {
    /// This output's share of chance for one of many tasks of an election.
    ///
    /// One proof for a beacon then serves all tasks that are drawn under it, as
    /// a proof costs a hundred times what this does: 64 bytes of blake3's key
    /// derivation from the output and the task's name. Whoever shows the output
    /// for one task shows it for all of them.
    #[must_use]
    pub fn of_task(&self, task: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(TASK_CONTEXT);
        let mut output = [0; 64];
        hasher.update(self.as_bytes()).update(task).finalize_xof().fill(&mut output);
        Self(output)
    }
}
