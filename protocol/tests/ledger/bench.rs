//! A swarm in one process: every worker looks at the state after each block and
//! sends what it owes or wants; a drawn member builds the next block, another
//! executes it. What must hold after every block is checked here.

use manta_protocol::election::{VrfOutput, VrfProof, VrfSecret, lottery};
use manta_protocol::ledger::{
    Action, Admission, Agreement, Block, DrillClass, DrillCommit, DrillResult, DrillReveal, Founder, Genesis, Mempool,
    Parameters, ProbeResult, Register, State, Transaction,
};
use manta_protocol::power::{Branch, MicroPower};
use manta_protocol::wire::Identity;
use manta_protocol::{Hash, NetworkId, PeerId};
use std::collections::{BTreeMap, BTreeSet};

/// The time of height 0.
pub(crate) const START_MS: u64 = 1_790_000_000_000;
/// What one unit is worth here, in millionths of power.
pub(crate) const UNIT: u64 = 30_000;

/// What a worker does with its seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Computes and says what came out.
    Honest,
    /// Makes up a result of its own.
    Liar,
    /// Makes up the result that all of this manner make up.
    Colluder,
    /// Commits and says no more.
    Withholder,
    /// Repeats a digest that is known already, else computes.
    Copier,
    /// Does not drill.
    Idle,
}

pub(crate) struct Worker {
    pub(crate) identity: Identity,
    pub(crate) manner: Manner,
    pub(crate) answers: bool,
    vrf: VrfSecret,
    outputs: BTreeMap<Vec<u8>, (VrfOutput, VrfProof)>,
    secrets: BTreeMap<Hash, (DrillResult, Hash)>,
    sent: BTreeSet<(Hash, u8)>,
}

pub(crate) struct Bench {
    pub(crate) state: State,
    pub(crate) workers: Vec<Worker>,
    pub(crate) pool: Mempool,
    pub(crate) now_ms: u64,
    /// Who proposes, if not the one drawn.
    pub(crate) proposer: Option<usize>,
    /// Whether blocks leave reveals out.
    pub(crate) censors_reveals: bool,
    /// Whether elected checkers probe.
    pub(crate) probes: bool,
}

pub(crate) fn identity(number: u32) -> Identity {
    Identity::from_secret(blake3::derive_key("manta test worker", &number.to_le_bytes()))
}

pub(crate) fn parameters(agreement: Agreement) -> Parameters {
    let class = |rows: u32| DrillClass { rows, columns: 1_000, depth: 1_000, commit_blocks: 2 };
    Parameters {
        epoch_ms: 1_000,
        clock_skew_ms: 2_000,
        term_blocks: 4,
        agreement,
        classes: vec![class(500)],
        operations_per_power: 1_000_000_000_000_000 / UNIT,
        tasks_per_1000_owners: 250,
        penalty: MicroPower(100_000),
        ..Parameters::demo()
    }
}

/// A ledger of as many founders of power 1 as there are manners.
pub(crate) fn genesis(count: usize, parameters: Parameters) -> Genesis {
    let mut founders: Vec<_> = (0..count as u32)
        .map(|number| {
            let identity = identity(number);
            Founder {
                peer: identity.peer_id(),
                vrf: identity.vrf().public(),
                class: 0,
                power: MicroPower::from_power(1),
            }
        })
        .collect();
    founders.sort_unstable_by_key(|founder| founder.peer);
    Genesis { network: NetworkId::from_name("bench"), name: "bench".into(), time_ms: START_MS, founders, parameters }
}

impl Worker {
    pub(crate) fn new(number: u32, manner: Manner) -> Self {
        let identity = identity(number);
        let vrf = identity.vrf();
        let (outputs, secrets, sent) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { identity, manner, answers: true, vrf, outputs, secrets, sent }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.identity.peer_id()
    }

    pub(crate) fn prove(&mut self, input: &[u8]) -> (VrfOutput, VrfProof) {
        let vrf = &self.vrf;
        *self.outputs.entry(input.to_vec()).or_insert_with(|| vrf.prove(input))
    }

    pub(crate) fn sign(&self, state: &State, nonce: u64, action: Action) -> Transaction {
        Transaction::sign(&self.identity, &state.ledger(), nonce, action)
    }

    /// What this worker says that the unit's result is.
    fn result(&self, state: &State, task: &Hash, challenge: Option<Hash>) -> DrillResult {
        let right = right(task, challenge);
        let wrong = |by: &[u8]| Hash::of(&[task.as_bytes(), by].concat());
        match self.manner {
            Manner::Liar => DrillResult { digest: wrong(self.peer().as_bytes()), ..right },
            Manner::Colluder => DrillResult { digest: wrong(b"agreed beforehand"), ..right },
            Manner::Copier => {
                let seats = state.task(task).map_or(&[][..], |task| &task.seats);
                let known = seats.iter().find_map(|seat| seat.revealed.map(|revealed| revealed.result.digest));
                known.map_or(right, |digest| DrillResult { digest, check: wrong(b"guessed") })
            }
            Manner::Honest | Manner::Withholder | Manner::Idle => right,
        }
    }

    /// What it sends after this state.
    fn act(&mut self, state: &State) -> Vec<Transaction> {
        if self.manner == Manner::Idle {
            return Vec::new();
        }
        let me = self.peer();
        let mut out = Vec::new();
        for chance in state.chances(&me) {
            if self.sent.contains(&(chance.task, chance.number)) {
                continue;
            }
            let election = chance.input.as_ref().map(|input| self.prove(input));
            let wins = election.is_none_or(|(output, _)| chance.seats(&output) > 0);
            if wins {
                let proof = election.map(|(_, proof)| proof);
                out.push(self.commit(state, chance.task, chance.number, proof, chance.challenge));
            }
        }
        if let Some(task) = state.probation(&me).filter(|task| !self.sent.contains(&(*task, 0))) {
            out.push(self.commit(state, task, 0, None, None));
        }
        for due in state.dues(&me) {
            let Some((result, salt)) = self.secrets.get(&due.task) else { continue };
            if self.manner != Manner::Withholder {
                let reveal = DrillReveal { task: due.task, salt: *salt, result: *result };
                out.push(self.sign(state, 0, Action::Reveal(reveal)));
            }
        }
        out
    }

    fn commit(
        &mut self,
        state: &State,
        task: Hash,
        stage: u8,
        proof: Option<VrfProof>,
        challenge: Option<Hash>,
    ) -> Transaction {
        let result = self.result(state, &task, challenge);
        let salt = Hash::of(&[task.as_bytes(), &self.peer().as_bytes()[..], b"salt"].concat());
        self.secrets.insert(task, (result, salt));
        self.sent.insert((task, stage));
        let commitment = result.commitment(&task, &self.peer(), &salt);
        self.sign(state, 0, Action::Commit(DrillCommit { task, stage, proof, commitment }))
    }
}

/// The true result of a unit: in these tests a hash stands for the work.
pub(crate) fn right(task: &Hash, challenge: Option<Hash>) -> DrillResult {
    let check = challenge
        .map_or(Hash([0; 32]), |challenge| Hash::of(&[task.as_bytes(), &challenge.as_bytes()[..], b"check"].concat()));
    DrillResult { digest: Hash::of(&[task.as_bytes(), &b"right"[..]].concat()), check }
}

impl Bench {
    pub(crate) fn new(manners: &[Manner], parameters: Parameters) -> Self {
        let state = State::genesis(genesis(manners.len(), parameters)).unwrap();
        let workers = (0..).zip(manners).map(|(number, manner)| Worker::new(number, *manner)).collect();
        let pool = Mempool::default();
        Self { state, workers, pool, now_ms: START_MS, proposer: None, censors_reveals: false, probes: false }
    }

    pub(crate) fn honest(count: usize) -> Self {
        Self::new(&vec![Manner::Honest; count], parameters(Agreement::Escalate))
    }

    pub(crate) fn peer(&self, worker: usize) -> PeerId {
        self.workers[worker].peer()
    }

    pub(crate) fn send(&mut self, transaction: Transaction) -> Admission {
        self.pool.offer(&self.state, transaction)
    }

    /// Signs a counted action of a worker with its next number.
    pub(crate) fn counted(&self, worker: usize, action: Action) -> Transaction {
        let nonce = self.pool.next_nonce(&self.state, &self.peer(worker));
        self.workers[worker].sign(&self.state, nonce, action)
    }

    /// Another worker, without power, that registers itself.
    pub(crate) fn join(&mut self, number: u32, manner: Manner) -> usize {
        let worker = Worker::new(number, manner);
        let (vrf, owner) = (worker.identity.vrf().public(), worker.peer());
        self.workers.push(worker);
        let register = Register { vrf, owner, countersignature: None, class: 0 };
        let transaction = self.counted(self.workers.len() - 1, Action::Register(register));
        assert_eq!(self.send(transaction), Admission::New);
        self.workers.len() - 1
    }

    /// What every worker sends now, taken into the pool.
    pub(crate) fn gather(&mut self) {
        for worker in 0..self.workers.len() {
            let mut sent = self.workers[worker].act(&self.state);
            if self.probes {
                sent.extend(self.probe(worker));
            }
            for transaction in sent {
                let admission = self.send(transaction);
                assert!(matches!(admission, Admission::New | Admission::Known), "{admission:?}");
            }
        }
    }

    fn probe(&mut self, checker: usize) -> Vec<Transaction> {
        let height = self.state.height();
        let (me, state) = (self.peer(checker), self.state.clone());
        let Some(election) = state.probe_election(height) else { return Vec::new() };
        let (output, proof) = self.workers[checker].prove(&election.input);
        let beacon = state.beacon().0;
        let results = (0..election.seats(&me, &output)).filter_map(|seat| {
            let target = election.target(&me, &output, seat)?;
            let target = self.workers.iter().find(|worker| worker.peer() == target).filter(|worker| worker.answers);
            let reply = target.map(|target| ProbeResult::reply(&target.identity, &state.ledger(), &beacon, &me));
            let result = ProbeResult { height, seat, proof, reply };
            Some(self.workers[checker].sign(&state, 0, Action::Probe(result)))
        });
        results.take(4).collect()
    }

    /// The next block, by the drawn proposer, of what waits.
    pub(crate) fn build(&mut self) -> Block {
        let seed = self.state.beacon().lottery_seed(self.state.height() + 1, 0);
        let drawn = lottery::draw(&seed, self.state.next_committee().weights()).unwrap();
        let drawn = self.workers.iter().position(|worker| worker.peer() == drawn).unwrap();
        let proposer = &self.workers[self.proposer.unwrap_or(drawn)].identity;
        let candidates = self.pool.candidates(&self.state);
        let allowed = candidates
            .into_iter()
            .filter(|transaction| !(self.censors_reveals && matches!(transaction.action, Action::Reveal(_))));
        self.state.build(proposer, allowed, self.now_ms).unwrap()
    }

    /// Executes a block and checks what must hold after each.
    pub(crate) fn execute(&mut self, block: &Block) {
        let bytes = block.encode();
        assert!(bytes.len() <= manta_protocol::ledger::limits::BLOCK_BYTES_MAX);
        assert_eq!(Block::decode(&bytes).as_ref(), Ok(block));
        let next = self.state.execute(block, self.now_ms).unwrap_or_else(|error| panic!("{error}"));
        assert!(next.is_sound(), "credits are conserved at height {}", next.height());
        for worker in &self.workers {
            let nonce = |state: &State| state.account(&worker.peer()).map_or(0, |account| account.nonce);
            assert!(nonce(&next) >= nonce(&self.state), "numbers only rise");
        }
        self.state = next;
        self.pool.prune(&self.state);
    }

    /// One epoch.
    pub(crate) fn step(&mut self) -> Block {
        self.now_ms += self.state.parameters().epoch_ms;
        self.gather();
        let block = self.build();
        self.execute(&block);
        block
    }

    pub(crate) fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Real power of drilling that this worker has beyond its start.
    pub(crate) fn gained(&self, worker: usize) -> i64 {
        let power = self.state.power(&self.peer(worker)).unwrap();
        power.record.real(Branch::Drilling).0 as i64 - 1_000_000
    }
}
