//! What trainers do, what they write, and states that members fetch from others.

use super::{Happening, World};
use crate::checkers::lineage::Computed;
use crate::disk::File;
use crate::host::{Incoming, State, Work};
use crate::tamper::Break;
use crate::training::{State as TrainerState, Training};
use manta_protocol::effect::{Entry, RunStart};
use manta_protocol::input::Done;
use manta_protocol::run::report::LossSum;
use manta_protocol::run::view::View;
use manta_protocol::{Duration, Hash, Input, PeerId, RunId};
use std::sync::Arc;

/// How often the data is asked for again, if nobody could be reached.
const FETCH_RETRY: Duration = Duration::from_ms(700);
/// After so many attempts the machine cannot take part.
const FETCH_ATTEMPTS_MAX: u32 = 60;
/// How long a driver looks for a donor of a state.
const DONOR_PATIENCE: Duration = Duration::from_s(2);
/// Bytes of a simulated model as it is fetched, beyond its parameters.
const STATE_EXTRA_BYTES: u64 = 20_000;

impl World {
    pub(super) fn prepare(&mut self, host: usize, start: Arc<RunStart>) {
        let run = start.run;
        let peer = self.hosts[host].peer;
        let local = self.hosts[host].clock.local(self.schedule.now());
        let spec = start.spec.hash();
        let users: Vec<PeerId> = match start.entry {
            Entry::Late => start.members.iter().map(|member| member.peer).collect(),
            Entry::First | Entry::Again { .. } => vec![start.owner],
        };
        let judgement = match start.entry {
            Entry::Again { .. } => self.checkers.promises.resumed(peer, run),
            _ => self.checkers.promises.started(peer, &users, spec, run, local),
        };
        self.checkers.judge(judgement);
        self.summary.peers_joined += u64::from(start.entry == Entry::Late);
        if start.entry == Entry::First {
            let first = View::first(&start.spec, &start.members);
            if let Some(honest) = Training::new(start.clone(), None) {
                self.checkers.lineage.begun(run, first.ledger.target, honest.state().hash());
            }
            self.checkers.agreement.begun(run, first, start.spec.solo);
        }
        self.hosts[host].training = Training::new(start, self.hosts[host].broken);
        self.plan(host, run, Work::Prepare { attempts: 0 });
    }

    /// The trainer is done with something.
    pub(super) fn trained(&mut self, host: usize, run: RunId, work: Work) {
        if matches!(work, Work::Compute { exchange: 1, .. }) && self.stops_computing(host, run) {
            return;
        }
        if self.hosts[host].training_of(run).is_none() {
            return;
        }
        let done = match work {
            Work::Prepare { attempts } => return self.prepared(host, run, attempts),
            Work::Compute { exchange, plan, batches } => {
                let Some(part) = self.hosts[host].training_mut(run) else { return };
                let base = part.state().hash();
                let (at, peer) = (part.state().exchange, part.start().me);
                if let Some(values) = part.end_compute(exchange, plan, &batches) {
                    let values = values.to_vec();
                    if at != exchange {
                        return self.checkers.violation(format!(
                            "{peer:?} computes exchange {exchange} from the state before exchange {at}"
                        ));
                    }
                    let part = Computed { run, exchange, plan, peer, base, batches: &batches, values: &values };
                    let judgement = self.checkers.lineage.computed(part);
                    self.checkers.judge(judgement);
                }
                let tokens = 16 * manta_protocol::run::ledger::count(&batches);
                let loss = LossSum { fixed: (tokens as i64) << 16, tokens };
                Done::Computed { exchange, plan, loss, compute_ms: 80 }
            }
            Work::Reduce { exchange, view, chunk, contributors, parts } => {
                let Some(part) = self.hosts[host].training_mut(run) else { return };
                let (plan, range) = (part.plan_of(exchange), part.range(exchange, chunk));
                if let Some(sum) = part.end_reduce(exchange, view, chunk, &parts)
                    && let (Some(plan), Some(range)) = (plan, range)
                {
                    let judgement = self.checkers.lineage.reduced(run, exchange, plan, &contributors, range, &sum);
                    self.checkers.judge(judgement);
                }
                Done::Reduced { exchange, view, chunk }
            }
            Work::Apply { exchange, sum, batches } => {
                let Some(part) = self.hosts[host].training_mut(run) else { return };
                let (base, at, plan) = (part.state().hash(), part.state().exchange, part.plan_of(exchange));
                let peer = part.start().me;
                part.apply(exchange, &sum, batches);
                let state = part.state().hash();
                if at != exchange {
                    return self
                        .checkers
                        .violation(format!("{peer:?} applies exchange {exchange} to the state before {at}"));
                }
                let plan = plan.unwrap_or_default();
                self.checkers.lineage.applied(run, peer, exchange, plan, base, sum, batches, state);
                Done::Applied { exchange }
            }
            Work::Hash { exchange } => {
                let Some(part) = self.hosts[host].training_of(run) else { return };
                let (held, reported, peer) = (part.state().parameter_hash(), part.reported_hash(), part.start().me);
                self.checkers.lineage.hashed(run, peer, held);
                Done::Hashed { exchange, parameter_hash: reported }
            }
            Work::Snapshot { exchange } => {
                let Some(part) = self.hosts[host].training_mut(run) else { return };
                Done::Snapshot { exchange, root: part.take_snapshot(exchange) }
            }
            Work::Load { state } => {
                let exchange = state.exchange;
                self.load(host, run, state);
                Done::StateLoaded { exchange }
            }
            Work::Checkpoint { exchange } => return self.write_checkpoint(host, run, exchange),
            Work::Save => {
                let Some(part) = self.hosts[host].training_of(run) else { return };
                let (peer, exchange, state) = (part.start().me, part.state().exchange, part.state().hash());
                let root = part.state().parameter_hash();
                let known = self.checkers.lineage.is_finished(run);
                let judgement = self.checkers.lineage.finished(run, peer, exchange, state);
                self.checkers.judge(judgement);
                self.hosts[host].disk.keep_result(run, root);
                self.run_finished(run, root, known);
                Done::Saved { root, kept: true }
            }
        };
        self.input(host, Input::Trainer { run, done });
    }

    /// Data and model are there, unless nobody has the data, or the checkpoint is not what it was.
    fn prepared(&mut self, host: usize, run: RunId, attempts: u32) {
        let Some(part) = self.hosts[host].training_of(run) else { return };
        let start = part.start().clone();
        let fetched = matches!(start.entry, Entry::Again { .. }) || start.owner == start.me;
        if !fetched && !start.donors.iter().any(|donor| self.gives_data(host, *donor, run)) {
            if attempts >= FETCH_ATTEMPTS_MAX {
                return self.input(host, Input::TrainerFailed { run, culprit: None });
            }
            let life = self.hosts[host].life;
            let work = Box::new(Work::Prepare { attempts: attempts + 1 });
            return self.after(FETCH_RETRY, Happening::Trained { host, life, run, work });
        }
        if let Entry::Again { checkpoint: Some(exchange) } = start.entry {
            match self.checkpoint(host, run, exchange) {
                Some(state) => self.load(host, run, state),
                None => {
                    self.summary.checkpoints_refused += 1;
                    self.input(host, Input::Trainer { run, done: Done::StateNotLoaded { exchange } });
                }
            }
        }
        let Some(part) = self.hosts[host].training_mut(run) else { return };
        part.prepared = true;
        let parameter_hash = part.state().parameter_hash();
        let done = Input::Trainer { run, done: Done::Prepared { parameter_hash } };
        // The disk may be busy with what the first input asked for.
        self.deliver(host, Incoming::Input(done));
    }

    /// Whether `donor` lets this host read the run's data now.
    fn gives_data(&self, host: usize, donor: PeerId, run: RunId) -> bool {
        let Some(&donor) = self.index.get(&donor) else { return false };
        let me = self.hosts[host].peer;
        let lets_in =
            |part: &Training| part.admitted.contains(&me) && (part.prepared || part.start().owner == part.start().me);
        self.reaches(host, donor) && self.hosts[donor].training_of(run).is_some_and(lets_in)
    }

    /// Whether two hosts can talk at the moment.
    pub(super) fn reaches(&self, a: usize, b: usize) -> bool {
        let up = |host: usize| self.hosts[host].state == State::Up;
        up(a) && up(b) && !self.silenced(a, b) && !self.silenced(b, a)
    }

    fn load(&mut self, host: usize, run: RunId, state: TrainerState) {
        let peer = self.hosts[host].peer;
        let judgement = self.checkers.lineage.loaded(run, peer, state.exchange, state.hash());
        self.checkers.judge(judgement);
        if let Some(part) = self.hosts[host].training_mut(run) {
            part.load(state);
        }
    }

    // ---- exchanging ----

    pub(super) fn begin_reduce(
        &mut self,
        host: usize,
        run: RunId,
        (exchange, view, chunk): (u64, u32, u32),
        contributors: Vec<PeerId>,
    ) {
        let Some(part) = self.hosts[host].training_mut(run) else { return };
        match part.begin_reduce(exchange, view, chunk, &contributors) {
            Some(parts) => self.plan(host, run, Work::Reduce { exchange, view, chunk, contributors, parts }),
            None => {
                let peer = self.hosts[host].peer;
                self.checkers.violation(format!(
                    "{peer:?} is to add up chunk {chunk} of exchange {exchange} before all values are there"
                ));
            }
        }
    }

    pub(super) fn begin_apply(&mut self, host: usize, run: RunId, exchange: u64, batches: u64) {
        let Some(part) = self.hosts[host].training_of(run) else { return };
        match part.gather(exchange) {
            Some(sum) => self.plan(host, run, Work::Apply { exchange, sum, batches }),
            None => {
                let peer = self.hosts[host].peer;
                self.checkers.violation(format!("{peer:?} is to apply exchange {exchange} before all sums are there"));
            }
        }
    }

    // ---- states ----

    pub(super) fn fetch_state(&mut self, host: usize, run: RunId, (exchange, root): (u64, Hash), donors: &[PeerId]) {
        let donor = donors.iter().filter_map(|donor| self.index.get(donor).copied());
        let donor = donor.into_iter().find(|donor| self.has_state(host, *donor, run, exchange, root));
        let life = self.hosts[host].life;
        let Some(donor) = donor else {
            let at = self.schedule.now() + DONOR_PATIENCE;
            return self.tell(host, at, Input::Trainer { run, done: Done::StateNotLoaded { exchange } });
        };
        let at = self.network.transfer(donor, host, STATE_EXTRA_BYTES, self.schedule.now());
        self.schedule.at(at, Happening::StateArrives { host, life, run, exchange, root, donor });
    }

    fn has_state(&self, host: usize, donor: usize, run: RunId, exchange: u64, root: Hash) -> bool {
        let me = self.hosts[host].peer;
        let part = self.hosts[donor].training_of(run);
        let has = part.is_some_and(|part| part.admitted.contains(&me) && part.snapshot(exchange, root).is_some());
        has && self.reaches(host, donor)
    }

    pub(super) fn state_arrives(&mut self, host: usize, life: u32, run: RunId, of: (u64, Hash), donor: usize) {
        let (exchange, root) = of;
        if self.hosts[host].life != life || self.hosts[host].training_of(run).is_none() {
            return;
        }
        let here = self.has_state(host, donor, run, exchange, root);
        let part = self.hosts[donor].training_of(run).filter(|_| here);
        match part.and_then(|part| part.snapshot(exchange, root)).cloned() {
            Some(state) => self.plan(host, run, Work::Load { state }),
            None => {
                let done = Done::StateNotLoaded { exchange };
                self.deliver(host, Incoming::Input(Input::Trainer { run, done }));
            }
        }
    }

    // ---- checkpoints ----

    fn write_checkpoint(&mut self, host: usize, run: RunId, exchange: u64) {
        let Some(part) = self.hosts[host].training_of(run) else { return };
        let (at, bytes) = (part.state().exchange, part.state().to_bytes());
        if at != exchange {
            return self
                .checkers
                .violation(format!("a checkpoint before exchange {exchange} is of the state before {at}"));
        }
        self.tear_if_due(host, run);
        let machine = &mut self.hosts[host];
        machine.disk.write_checkpoint(run, File::new(exchange, bytes));
        let (life, longest) = (machine.life, self.setup.conditions.sync_us_max.max(1_000));
        // Much more to sync than a record.
        let takes = Duration(machine.draws.between(longest, 10 * longest) * 1_000);
        self.after(takes, Happening::CheckpointSynced { host, life, run, exchange });
    }

    pub(super) fn checkpoint_synced(&mut self, host: usize, life: u32, run: RunId, exchange: u64) {
        if self.hosts[host].life == life && self.hosts[host].disk.sync_checkpoint(run, exchange) {
            self.summary.checkpoints += 1;
            let done = Done::Checkpointed { exchange };
            self.deliver(host, Incoming::Input(Input::Trainer { run, done }));
        }
    }

    /// The checkpoint before this exchange, if it is whole.
    fn checkpoint(&self, host: usize, run: RunId, exchange: u64) -> Option<TrainerState> {
        let file = self.hosts[host].disk.checkpoint(run)?;
        let trusts = self.hosts[host].broken == Some(Break::TornCheckpoint);
        let right = file.is_whole() && file.exchange == exchange;
        let state = TrainerState::from_bytes(&file.bytes).filter(|_| right || trusts)?;
        Some(TrainerState { exchange, ..state })
    }
}
