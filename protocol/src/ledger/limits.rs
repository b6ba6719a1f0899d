//! Every maximum of the ledger: of blocks, of the state, of what waits.

/// Longest block, in bytes: with the longest certificate it fits one envelope.
pub const BLOCK_BYTES_MAX: usize = 36 * 1024;
/// Longest transaction, in bytes.
pub const TRANSACTION_BYTES_MAX: usize = 1024;
/// Transactions in one block.
pub const TRANSACTIONS_MAX: usize = 256;
/// Transactions of one author in one block, apart from commitments and reveals.
pub const TRANSACTIONS_PER_AUTHOR_MAX: usize = 4;
/// Registrations of unknown keys in one block: they cost their author nothing.
pub const NEWCOMERS_PER_BLOCK_MAX: usize = 16;
/// Founders in a genesis document.
pub const FOUNDERS_MAX: usize = 64;
/// Sizes of drill units in a genesis document.
pub const CLASSES_MAX: usize = 8;
/// Registered keys. Above, the weightless key that was idle longest makes room.
pub const KEYS_MAX: usize = 16_384;
/// Accounts that a transfer may open, beside those of registered keys.
pub const ACCOUNTS_MAX: usize = 65_536;
/// Smallest transfer that opens an account, in micro-credits: each takes room in
/// everybody's state for ever.
pub const OPENING_TRANSFER_MIN: u64 = 1_000;
/// Drill tasks that are open at once, of those that beacons create.
pub const TASKS_OPEN_MAX: usize = 256;
/// Probation tasks that are open at once: strangers cannot keep all drillers busy.
pub const PROBATIONS_OPEN_MAX: usize = 16;
/// Drill tasks that one beacon creates.
pub const TASKS_PER_BEACON_MAX: u32 = 16;
/// Seats of one task, over all of its stages.
pub const SEATS_MAX: usize = 24;
/// Stages of one task: it always comes to an end.
pub const STAGES_MAX: usize = 6;
/// Intervals of one stage: each doubles the expected seats.
pub const INTERVALS_MAX: u32 = 8;
/// Longest interval for commits of a class, in blocks.
pub const COMMIT_BLOCKS_MAX: u32 = 4;
/// Longest regular window for reveals, in blocks.
pub const REVEAL_BLOCKS_MAX: u32 = 6;
/// How many times longer the window for reveals may get while one peer proposes
/// all blocks: it could be the one that keeps the reveals out.
pub const REVEAL_STRETCH: u32 = 4;
/// Heights whose beacon, proposer and weights are kept: longer than any stage.
pub const EPOCHS_MAX: usize = 40;
/// Settled tasks that are kept, so that certificates can be cut out of them.
pub const SETTLED_MAX: usize = 64;
/// Faults that are kept by name.
pub const FAULTS_MAX: usize = 256;
/// Members of a committee; above, a weighted sample votes.
pub const COMMITTEE_MAX: usize = 200;
/// Heights after which a probe's result is too late.
pub const PROBE_BLOCKS_MAX: u64 = 4;
/// Probes that one checker may do for one height.
pub const PROBE_SEATS_MAX: u32 = 16;
/// Heights after which a trainer's consent to a lease is too old to report on.
pub const LEASE_BLOCKS_MAX: u64 = 65_536;
/// Heights after which a trainer consents anew to a lease that goes on.
pub const LEASE_RENEWAL_BLOCKS: u64 = LEASE_BLOCKS_MAX / 4;
/// Users whose last report on one trainer is kept; the oldest makes room.
pub const LEASE_USERS_MAX: usize = 32;
/// Longest time that one report counts for, as the probes that a peer is sent in
/// it: what is older would have been forgotten behind them ([`super::Reliability`]).
pub const LEASE_PROBES_MAX: u64 = 64;
/// What a probe counts in a [`super::Reliability`].
pub const PROBE_MASS: u64 = 1 << 32;
/// The least that a report of a lease counts, a thousandth of a probe: without a
/// bound, blocks would fill with next to nothing.
pub const LEASE_MASS_MIN: u64 = PROBE_MASS / 1_024;
/// Heights after which an equivocation is not held against its author any more.
pub const EVIDENCE_BLOCKS_MAX: u64 = 100_000;
/// Heights for which a key whose probation unit was wrong gets no other.
pub const PROBATION_BAR_BLOCKS: u64 = 100;
/// Longest canonical state, in bytes.
pub const STATE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Transactions that wait for a block.
pub const POOL_MAX: usize = 4096;
/// Transactions of one author that wait.
pub const POOL_PER_AUTHOR_MAX: usize = 32;
/// Transactions that wait of authors without a registered key.
pub const POOL_STRANGERS_MAX: usize = 256;
/// Heights after which a transaction that no block took is forgotten.
pub const POOL_BLOCKS_MAX: u64 = 64;

// A stage needs the weights of two heights before it until it closes, and the
// longest window for reveals needs its proposers.
const _: () = assert!(EPOCHS_MAX > (INTERVALS_MAX * COMMIT_BLOCKS_MAX) as usize + 4);
const _: () = assert!(EPOCHS_MAX > (REVEAL_BLOCKS_MAX * REVEAL_STRETCH) as usize + 4);
