//! The beacon: public chance that nobody chooses.
//!
//! Each block carries its proposer's VRF output over the beacon before it, and
//! the next beacon is the hash of both. A VRF output is unique for its key, so
//! a proposer can only withhold a block, never pick its output: that choice is
//! worth one bit a withheld block, and another proposer follows at once.

use super::vrf::VrfOutput;
use crate::ids::Hash;
use serde::{Deserialize, Serialize};

const GENESIS_CONTEXT: &str = "manta 2026-11 beacon of genesis v1";
const NEXT_CONTEXT: &str = "manta 2026-11 beacon of block v1";
const IDLE_CONTEXT: &str = "manta 2026-11 beacon of idle epoch v1";
const LOTTERY_CONTEXT: &str = "manta 2026-11 lottery seed v1";

/// The public chance of one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Beacon(pub Hash);

impl Beacon {
    /// The beacon before the first block of the ledger of this genesis.
    pub fn genesis(ledger: &Hash) -> Self {
        Self::derive(GENESIS_CONTEXT, &[ledger.as_bytes()])
    }

    /// The beacon after a block whose proposer's output over this one is `output`.
    pub fn next(&self, output: &VrfOutput) -> Self {
        Self::derive(NEXT_CONTEXT, &[self.0.as_bytes(), output.as_bytes()])
    }

    /// The beacon of the `n`-th epoch that goes by after this one without a block.
    pub fn idle(&self, n: u32) -> Self {
        Self::derive(IDLE_CONTEXT, &[self.0.as_bytes(), &n.to_le_bytes()])
    }

    /// What the proposer of (`height`, `round`) is drawn with.
    pub fn lottery_seed(&self, height: u64, round: u32) -> Hash {
        Self::derive(LOTTERY_CONTEXT, &[self.0.as_bytes(), &height.to_le_bytes(), &round.to_le_bytes()]).0
    }

    /// blake3's key derivation; every part has a fixed length in its context.
    fn derive(context: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(part);
        }
        Self(Hash(*hasher.finalize().as_bytes()))
    }
}
