//! The ledger: what the swarm agrees on, and the arbiter of its drills.
//!
//! A chain of [`Block`]s, one an epoch, each leading from one [`State`] to the
//! next by rules that are a pure function of both. Consensus decides which
//! block comes next; nothing here knows how.
//!
//! # Drills as ledger rules
//!
//! Commitments and reveals are transactions, so "committed before revealed",
//! "not revealed in time" and "one result per owner" are questions of heights.
//! A task goes through stages ([`task::StageKind`]), each an election by the
//! beacon of the block that opens it:
//!
//! 1. *Opening*: one driller is expected. If it is trusted and a later beacon
//!    agrees, its word is taken; else
//! 2. *Replica*: as many more as make three owners.
//! 3. *Escalation*, if results differ: two more.
//! 4. *Referee*, if that does not settle it: seven more, or everyone.
//!
//! Commitments come for an interval of blocks; if too few came, the expected
//! seats are doubled for another one. Then all seats reveal.
//!
//! # Decisions, each against an attack
//!
//! * *Copying a result.* A commitment names task and worker and hides the result
//!   behind a salt; reveals are taken only after the last commitment of a stage.
//!   Stages that open when results are known have a challenge: their drillers
//!   owe a second digest under it, and count only with the check that most of
//!   their stage have. So to side with a known result without the work fails.
//! * *Searching salts.* Nothing is drawn from commitments or salts.
//! * *Waiting for a better interval.* A key draws once a stage; as the
//!   expectation doubles, outputs only win more. All seats of a stage count by its
//!   last interval, each doubling halves what a seat is worth: when one commits
//!   makes no difference to its share.
//! * *Splitting a weight.* Seats are binomial in the weight and credit is shared
//!   by seats: many keys have together what one would have. A task's credit is
//!   its difficulty, however many take part.
//! * *Two seats through one owner.* Keys of one owner have one seat a task, and a
//!   key that has changed owners since it took a seat gets no other; an owner
//!   countersigns, so nobody is made one against its will. Undeclared owners are
//!   what weights, elections and re-execution are for.
//! * *Lying when trusted.* Whether a result is compared is drawn from a beacon
//!   after its commitment, at least once in [`Parameters::trust_max`] on average.
//!   What was credited unseen since the last comparison is taken back at a fault,
//!   from all keys of the owner, and rewards for it cannot be spent until then:
//!   the expected gain of lying is not above zero at any rate of it. A fault
//!   counts against the owner at the time of the commitment: to change owners
//!   before it is found saves nothing.
//! * *Withholding a reveal* costs a penalty and trust, and a name in the list of
//!   faults; the others' results are compared, or the task opens again.
//! * *Keeping reveals out of blocks.* They come first in a block and have no limit
//!   per author; the window is open until two different peers have proposed
//!   blocks in it (for at most four times its length).
//! * *Blocks that draw for their own transactions.* Tasks take their steps before
//!   a block's transactions, so every draw is from a beacon later than the
//!   commitments that it concerns.
//! * *Fitting a key to a beacon.* Weights, keys, owners and classes are those of
//!   two heights before the beacon; whoever registers again waits as a newcomer.
//! * *Farming probation.* A fixed number of keys is drawn a height, however many
//!   there are; unit seeds name the key; a key above the cap gains nothing; a
//!   wrong unit bars the key, and two drillers who agree against a candidate end
//!   the matter without escalation.
//! * *Lying about leases.* The trainer consents to each, no time of it counts twice
//!   for one user, and a report counts for its author's share of the probes in that time.
//! * *Making idle epochs by a block's time.* What a block's time can be ahead of
//!   the truth makes no idle epoch, and their number is bounded.
//! * *Flooding.* Every table, block and pool is bounded ([`limits`]); registering
//!   is free, but a block takes few newcomers and the idlest of them make room.

pub mod block;
pub mod certificate;
pub mod execute;
pub mod genesis;
pub mod limits;
pub mod mempool;
pub mod merkle;
mod query;
pub mod records;
mod refusal;
mod rules;
mod state;
mod table;
pub mod task;
pub mod transaction;

pub use block::{Block, Header};
pub use certificate::{CertificateError, Certified, DrillCertificate};
pub use execute::beacon_input;
pub use genesis::{Agreement, DrillClass, Founder, Genesis, Parameters};
pub use mempool::{Admission, Mempool};
pub use query::{Chance, Due};
pub use records::{
    Account, Epoch, Fault, FaultKind, Leases, Outcome, Power, Registration, Reliability, Reported, Settled, Standings,
    Totals, Trust,
};
pub use refusal::{BlockError, Refusal};
pub use rules::probe::ProbeElection;
pub use state::{State, StateError};
pub use task::{Origin, Phase, Revealed, Seat, Stage, StageKind, Task};
pub use transaction::{
    Action, DrillCommit, DrillResult, DrillReveal, LeaseReport, ProbeResult, Register, Transaction, Transfer,
};
