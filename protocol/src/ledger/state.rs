//! The state that a chain of blocks leads to, and its root.
//!
//! A pure function of genesis and blocks: ordered tables, integers, no clock.
//! After every block the sum of balances and escrow is what was minted less
//! what was burned, and numbers of accounts have only risen.

use super::genesis::Genesis;
use super::limits::{COMMITTEE_MAX, EPOCHS_MAX, STATE_BYTES_MAX};
use super::merkle::{self, Inclusion};
use super::records::{
    Account, Epoch, Fault, Leases, Power, Registration, Reliability, Settled, Standings, Totals, Trust,
};
use super::table::{Key, Table};
use super::task::Task;
use crate::consensus::Committee;
use crate::election::{Beacon, lottery};
use crate::ids::{Hash, PeerId};
use crate::power::history::{Cause, Entry};
use crate::power::{Branch, History, MicroPower, PowerRecord};
use crate::wire::codec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Greatest weight of one key: a whole committee's sum stays far below 2⁶⁴.
const WEIGHT_MAX: u64 = 1 << 52;
/// Committees that are kept: that of the next height and of those before.
const COMMITTEES_MAX: usize = 4;

/// The ledger after a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) genesis: Genesis,
    pub(super) ledger: Hash,
    /// The name under which consensus signs: the ledger's, or that of its last recovery.
    pub(super) chain: Hash,
    /// The hash of the last block; not part of the root, for the block holds that.
    pub(super) head: Hash,
    pub(super) height: u64,
    pub(super) totals: Totals,
    pub(super) accounts: Table<PeerId, Account>,
    pub(super) keys: Table<PeerId, Registration>,
    pub(super) power: Table<PeerId, Power>,
    pub(super) reliability: Table<PeerId, Reliability>,
    /// By trainer.
    pub(super) leases: Table<PeerId, Leases>,
    /// By owner.
    pub(super) trust: Table<PeerId, Trust>,
    pub(super) tasks: Table<Hash, Task>,
    pub(super) epochs: Table<u64, Epoch>,
    /// Checkers and seats whose results are in, by height.
    pub(super) probed: Table<u64, BTreeSet<(PeerId, u32)>>,
    /// By the first height of each.
    pub(super) committees: Table<u64, Committee>,
    /// Numbered from 0.
    pub(super) settled: Table<u64, Settled>,
    /// Numbered from 0.
    pub(super) faults: Table<u64, Fault>,
}

/// Why a document or a snapshot gives no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The genesis document is out of its limits.
    #[error("genesis: {0}")]
    Genesis(String),
    /// The bytes of a snapshot are not canonical.
    #[error("snapshot: {0}")]
    Codec(#[from] codec::CodecError),
    /// Its parts do not belong together.
    #[error("snapshot: its parts do not belong together")]
    Inconsistent,
    /// It is another state than the block says.
    #[error("the snapshot is of state {found:?}, the block before it says {expected:?}")]
    OtherState {
        /// The root over the snapshot.
        found: Hash,
        /// The root in the block.
        expected: Hash,
    },
}

impl State {
    /// The state at height 0.
    ///
    /// # Errors
    /// [`StateError::Genesis`].
    pub fn genesis(genesis: Genesis) -> Result<Self, StateError> {
        genesis.validate().map_err(StateError::Genesis)?;
        let ledger = genesis.ledger();
        let mut state = Self {
            ledger,
            chain: ledger,
            head: ledger,
            height: 0,
            totals: Totals::default(),
            accounts: Table::default(),
            keys: Table::default(),
            power: Table::default(),
            reliability: Table::default(),
            leases: Table::default(),
            trust: Table::default(),
            tasks: Table::default(),
            epochs: Table::default(),
            probed: Table::default(),
            committees: Table::default(),
            settled: Table::default(),
            faults: Table::default(),
            genesis,
        };
        state.found();
        Ok(state)
    }

    /// Enters the founders, and the first epoch and committee.
    fn found(&mut self) {
        let at_ms = self.genesis.time_ms;
        for founder in self.genesis.founders.clone() {
            let peer = founder.peer;
            let (vrf, class) = (founder.vrf, founder.class);
            let key = Registration {
                vrf,
                owner: peer,
                class,
                standby: false,
                registered_at: 0,
                alive_at: 0,
                barred_until: 0,
                struck_at: 0,
            };
            self.keys.insert(peer, key);
            self.accounts.insert(peer, Account::default());
            let mut history = History::default();
            let (gained, lost) = (founder.power, MicroPower::ZERO);
            history.note(Entry { height: 0, at_ms, branch: Branch::Drilling, gained, lost, cause: Cause::Start });
            self.power.insert(
                peer,
                Power { record: PowerRecord::starting(founder.power, at_ms), history, unverified: MicroPower::ZERO },
            );
        }
        let standings = self.weigh(at_ms);
        let beacon = Beacon::genesis(&self.ledger);
        self.epochs.insert(0, Epoch { time_ms: at_ms, beacon, proposer: None, standings });
        self.choose_committee(1, 0);
    }

    /// All keys that take part and their weights at this time. If none of them
    /// weighs anything, the weights of the height before stand: a swarm that did
    /// no work for months can still begin again.
    pub(super) fn weigh(&self, now_ms: u64) -> Standings {
        let kappa_milli = self.genesis.parameters.kappa_milli;
        let weigh = |peer: &PeerId| {
            self.power.get(peer).map_or(0, |power| power.record.weight(kappa_milli, now_ms).min(WEIGHT_MAX))
        };
        let active = self.keys.iter().filter(|(_, key)| !key.standby);
        let list: Vec<_> = active.map(|(peer, _)| (*peer, weigh(peer))).collect();
        if list.iter().all(|(_, weight)| *weight == 0)
            && let Some((_, before)) = self.epochs.iter().next_back()
        {
            return before.standings.clone();
        }
        Standings(Arc::new(list))
    }

    /// Enters the committee of the heights from `first` on, by the weights of
    /// `weights_of`: who weighs anything and takes part, or a weighted sample.
    pub(super) fn choose_committee(&mut self, first: u64, weights_of: u64) {
        let Some(epoch) = self.epochs.get(&weights_of) else { return };
        let takes_part = |peer: &PeerId| self.keys.get(peer).is_some_and(|key| !key.standby);
        let listed = epoch.standings.0.iter().filter(|(peer, weight)| *weight > 0 && takes_part(peer));
        let mut weights: Vec<_> = listed.copied().collect();
        if weights.len() > COMMITTEE_MAX {
            let seed = self.beacon().lottery_seed(first, u32::MAX);
            let chosen: BTreeSet<_> = lottery::sample(&seed, &weights, COMMITTEE_MAX).into_iter().collect();
            weights.retain(|(peer, _)| chosen.contains(peer));
        }
        // Where nobody weighs anything the former committee stays.
        if let Ok(committee) = Committee::new(weights) {
            self.committees.insert(first, committee);
            self.committees.keep_last(COMMITTEES_MAX);
        }
    }

    /// The root over all of the state but the last block's hash.
    pub fn root(&self) -> Hash {
        merkle::root(&self.leaves().into_iter().map(|(_, leaf)| leaf).collect::<Vec<_>>())
    }

    /// Shows that this is the state's account of `peer`: a proof for the leaf
    /// `merkle::entry([2] ‖ peer, canonical account)` under the root.
    pub fn prove_account(&self, peer: &PeerId) -> Option<(Account, Inclusion)> {
        let account = self.accounts.get(peer)?;
        let leaves = self.leaves();
        let name = [&[Tag::Account as u8][..], peer.as_bytes()].concat();
        let index = leaves.iter().position(|(key, _)| *key == name)?;
        let hashes: Vec<_> = leaves.into_iter().map(|(_, leaf)| leaf).collect();
        Some((*account, merkle::prove(&hashes, index)?))
    }

    /// Every leaf under its key, ascending.
    fn leaves(&self) -> Vec<(Vec<u8>, Hash)> {
        fn add<K: Key, V: Serialize>(leaves: &mut Vec<(Vec<u8>, Hash)>, tag: Tag, table: &Table<K, V>) {
            leaves.extend(table.leaves(tag as u8).map(|(key, leaf)| ([&[tag as u8][..], &key.bytes()].concat(), leaf)));
        }
        let head = codec::encode(&(self.ledger, self.chain, self.height));
        let single = |tag: Tag, value: &[u8]| (vec![tag as u8], merkle::entry(&[tag as u8], value));
        let mut leaves = vec![single(Tag::Head, &head), single(Tag::Totals, &codec::encode(&self.totals))];
        add(&mut leaves, Tag::Account, &self.accounts);
        add(&mut leaves, Tag::Key, &self.keys);
        add(&mut leaves, Tag::Power, &self.power);
        add(&mut leaves, Tag::Reliability, &self.reliability);
        add(&mut leaves, Tag::Trust, &self.trust);
        add(&mut leaves, Tag::Task, &self.tasks);
        add(&mut leaves, Tag::Epoch, &self.epochs);
        add(&mut leaves, Tag::Probed, &self.probed);
        add(&mut leaves, Tag::Committee, &self.committees);
        add(&mut leaves, Tag::Settled, &self.settled);
        add(&mut leaves, Tag::Fault, &self.faults);
        add(&mut leaves, Tag::Leases, &self.leases);
        leaves
    }

    /// Hashes the leaves that were touched.
    pub(super) fn refresh(&mut self) {
        self.accounts.refresh(Tag::Account as u8);
        self.keys.refresh(Tag::Key as u8);
        self.power.refresh(Tag::Power as u8);
        self.reliability.refresh(Tag::Reliability as u8);
        self.trust.refresh(Tag::Trust as u8);
        self.tasks.refresh(Tag::Task as u8);
        self.epochs.refresh(Tag::Epoch as u8);
        self.probed.refresh(Tag::Probed as u8);
        self.committees.refresh(Tag::Committee as u8);
        self.settled.refresh(Tag::Settled as u8);
        self.faults.refresh(Tag::Fault as u8);
        self.leases.refresh(Tag::Leases as u8);
    }

    /// Forgets heights that no stage, window or probe can need.
    pub(super) fn forget_epochs(&mut self) {
        self.epochs.keep_last(EPOCHS_MAX);
        self.probed.keep_last(super::limits::PROBE_BLOCKS_MAX as usize + 1);
    }

    /// The canonical bytes, for peers that join late.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a snapshot, if it is the state after the block `head`, which names
    /// the state's root as `root`.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn decode(bytes: &[u8], head: Hash, root: Hash) -> Result<Self, StateError> {
        let mut state: Self = codec::decode(bytes, STATE_BYTES_MAX)?;
        state.genesis.validate().map_err(StateError::Genesis)?;
        if !state.epochs.contains(&state.height) || state.committee(state.height + 1).is_none() || !state.is_sound() {
            return Err(StateError::Inconsistent);
        }
        let found = state.root();
        if found != root || state.head != head || state.ledger != state.genesis.ledger() {
            return Err(StateError::OtherState { found, expected: root });
        }
        state.refresh();
        Ok(state)
    }

    /// Whether all sums are right: what must hold after every block.
    pub fn is_sound(&self) -> bool {
        let held: u128 = self
            .accounts
            .values()
            .flat_map(|account| [account.balance, account.escrow, account.held])
            .map(u128::from)
            .sum();
        u128::from(self.totals.minted) == held + u128::from(self.totals.burned)
            && self.keys.keys().all(|peer| self.accounts.contains(peer) && self.power.contains(peer))
    }
}

/// The first byte of a leaf's key.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Tag {
    Head = 0,
    Totals = 1,
    Account = 2,
    Key = 3,
    Power = 4,
    Reliability = 5,
    Trust = 6,
    Task = 7,
    Epoch = 8,
    Probed = 9,
    Committee = 10,
    Settled = 11,
    Fault = 12,
    Leases = 13,
}
