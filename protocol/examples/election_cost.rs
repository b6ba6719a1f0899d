//! Prints what elections cost: single operations, and what an epoch costs each peer of a swarm of a
//! thousand on the ledger's own path. Processor time on Linux, so that other load does not count;
//! elsewhere time that goes by.
//!
//! `cargo run --release -p manta-protocol --example election_cost [seconds for each] [epochs]`

use manta_protocol::election::{Beacon, Domain, VrfOutput, VrfProof, VrfSecret, election_input, lottery, seats};
use manta_protocol::ledger::{
    Action, Block, DrillClass, DrillCommit, DrillResult, DrillReveal, Founder, Genesis, Origin, Parameters, Register,
    State, Transaction,
};
use manta_protocol::power::MicroPower;
use manta_protocol::wire::Identity;
use manta_protocol::{Hash, NetworkId, PeerId};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Peers in the swarm.
const PEERS: usize = 1_000;
/// Those that the ledger begins with; the others come to weight by probation.
const FOUNDERS: usize = 16;
/// Epochs before the first that is measured: as many tasks end as begin by then.
const SETTLE_EPOCHS: u64 = 40;
/// The weight of one peer where single operations are timed.
const WEIGHT: u64 = 100_000;
/// One of so many results of a trusted owner is compared.
const TRUST_MAX: f64 = 100.0;

fn main() {
    let argument = |place| std::env::args().nth(place).and_then(|text| text.parse::<u64>().ok());
    let (seconds, epochs) = (argument(1).unwrap_or(1), argument(2).unwrap_or(5));
    let verify_us = operations(Duration::from_secs(seconds));
    let mut swarm = Swarm::new();
    swarm.grow();
    swarm.measure(epochs.max(1), verify_us);
}

/// Times single operations; the microseconds of one proof's verification.
fn operations(each: Duration) -> f64 {
    let time = |what: &str, call: &mut dyn FnMut(u64)| {
        let (start, mut calls) = (Instant::now(), 0);
        let used = timed(|| {
            while start.elapsed() < each {
                call(calls);
                calls += 1;
            }
        });
        let us = used.as_secs_f64() * 1e6 / calls as f64;
        println!("{us:10.2} µs  {what}");
        us
    };
    let secret = VrfSecret::derive(&[1; 32]);
    let public = secret.public();
    let beacon = Beacon::genesis(&Hash::of(b"election cost"));
    let input = election_input(Domain::Drill, &beacon, &[]);
    let (output, proof) = secret.prove(&input);
    let total = PEERS as u64 * WEIGHT;
    time("prove: output and proof of the own key", &mut |number| {
        black_box(secret.prove(&election_input(Domain::Drill, &beacon, &[&number.to_le_bytes()])));
    });
    let verify_us = time("verify another's proof", &mut |_| {
        black_box(public.verify(&input, &proof));
    });
    assert_eq!(public.verify(&input, &proof), Some(output));
    for expected in [1, 3, 64] {
        time(&format!("sortition of a thousandth of the weight, {expected} seats expected"), &mut |number| {
            black_box(seats(&spread(beacon, number), WEIGHT, total, expected * 1000));
        });
    }
    let members: Vec<_> = (0..PEERS as u64).map(|peer| (PeerId(numbered(peer)), WEIGHT)).collect();
    time("draw one of a thousand peers", &mut |number| {
        black_box(lottery::draw(&beacon.lottery_seed(number, 0), &members));
    });
    verify_us
}

/// One peer: its keys, what it proved, what it has to show.
struct Peer {
    identity: Identity,
    vrf: VrfSecret,
    proved: BTreeMap<Vec<u8>, (VrfOutput, VrfProof)>,
}

/// A ledger and all of its peers, in one process.
struct Swarm {
    state: State,
    peers: Vec<Peer>,
}

impl Swarm {
    fn new() -> Self {
        let peer = |number: usize| {
            let identity = Identity::from_secret(numbered(number as u64 + 1));
            Peer { vrf: identity.vrf(), identity, proved: BTreeMap::new() }
        };
        let peers: Vec<_> = (0..PEERS).map(peer).collect();
        let mut founders: Vec<_> = peers[..FOUNDERS]
            .iter()
            .map(|peer| Founder {
                peer: peer.identity.peer_id(),
                vrf: peer.vrf.public(),
                class: 0,
                power: MicroPower(30_000),
            })
            .collect();
        founders.sort_unstable_by_key(|founder| founder.peer);
        let class = DrillClass { rows: 1_024, columns: 512, depth: 1_024, commit_blocks: 2 };
        let parameters = Parameters {
            classes: vec![class],
            // A unit is worth 0.3.
            operations_per_power: class.operations() / 3 * 10,
            trust_after: 1_000,
            trust_max: 1_000,
            probation_milli: 16_000,
            probation_weight_max: 1,
            tasks_per_1000_owners: 16,
            ..Parameters::lan()
        };
        let network = NetworkId::from_name("election cost");
        let genesis = Genesis { network, name: "cost".into(), time_ms: 1_790_000_000_000, founders, parameters };
        Self { state: State::genesis(genesis).expect("the parameters are accepted"), peers }
    }

    /// Registers all peers and has each do a probation unit, which founders check.
    fn grow(&mut self) {
        let ledger = self.state.ledger();
        let mut registered = FOUNDERS;
        while self.weighty() < PEERS {
            let mut said = Vec::new();
            for number in registered..PEERS.min(registered + 16) {
                let Peer { identity, vrf, .. } = &self.peers[number];
                let owner = identity.peer_id();
                let register = Register { vrf: vrf.public(), owner, countersignature: None, class: 0 };
                said.push(Transaction::sign(identity, &ledger, 1, Action::Register(register)));
            }
            registered = PEERS.min(registered + 16);
            for number in 0..registered {
                self.probation(number, &mut said);
                self.dues(number, &mut said);
                if number < FOUNDERS {
                    self.elections(number, &mut said);
                }
            }
            self.block(&said);
        }
        println!("{PEERS} peers have weight after {} blocks", self.state.height());
    }

    fn weighty(&self) -> usize {
        self.state.epoch().standings.0.iter().filter(|(_, weight)| *weight > 0).count()
    }

    /// Some epochs in which all tasks are compared.
    fn measure(&mut self, epochs: u64, verify_us: f64) {
        let (mut own, mut block, mut empty) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let (mut proofs, mut tasks, mut chances) = (0, 0, 0);
        for epoch in 0..epochs + SETTLE_EPOCHS {
            let mut said = Vec::new();
            let used = timed(|| (0..PEERS).for_each(|number| self.elections(number, &mut said)));
            (0..PEERS).for_each(|number| self.dues(number, &mut said));
            let found = self.build(&said);
            let nothing = self.build(&[]);
            let (block_used, next) = timed_value(|| self.state.execute(&found, u64::MAX));
            let (empty_used, _) = timed_value(|| black_box(self.state.execute(&nothing, u64::MAX).is_ok()));
            self.state = next.expect("the block that was built is accepted");
            if epoch >= SETTLE_EPOCHS {
                (own, block, empty) = (own + used, block + block_used, empty + empty_used);
                let commits = found.transactions.iter().filter_map(|transaction| match transaction.action {
                    Action::Commit(commit) => Some(commit),
                    _ => None,
                });
                proofs += commits.filter(|commit| commit.proof.is_some()).count();
                let height = self.state.height();
                let is_new = |origin: &Origin| matches!(origin, Origin::Drawn { height: of, .. } if *of == height);
                tasks += self.state.tasks().filter(|task| is_new(&task.origin)).count();
                chances += self.state.tasks().count();
            }
        }
        let each = |sum: usize| sum as f64 / epochs as f64;
        let us = |sum: Duration| sum.as_secs_f64() * 1e6 / epochs as f64;
        let (own_us, checks_us) = (us(own) / PEERS as f64, each(proofs) * verify_us);
        println!(
            "\nan epoch of {PEERS} peers: {:.1} new tasks, {:.1} open ones, {:.1} proofs in a block",
            each(tasks),
            each(chances),
            each(proofs)
        );
        println!(
            "{own_us:10.2} µs  a peer's own elections, all tasks compared: one proof for drills, one for probes, all sortition"
        );
        println!("{checks_us:10.2} µs  checks of others' proofs, all tasks compared");
        println!("{:10.2} µs  the sum", own_us + checks_us);
        let steady_us = own_us + checks_us / TRUST_MAX;
        println!(
            "{steady_us:10.2} µs  the sum where one task in {TRUST_MAX} is compared, the own proofs being made all the same"
        );
        println!("{:10.2} µs  a block executed, with signatures, electorates, weights and the root", us(block));
        println!("{:10.2} µs  the same block without transactions", us(empty));
    }

    /// Looks which elections this peer wins, and commits.
    fn elections(&mut self, number: usize, said: &mut Vec<Transaction>) {
        let me = self.peers[number].identity.peer_id();
        let chances = self.state.chances(&me);
        let proved = &mut self.peers[number].proved;
        proved.retain(|input, _| chances.iter().any(|chance| chance.input.as_ref() == Some(input)));
        for chance in chances {
            let Peer { vrf, proved, .. } = &mut self.peers[number];
            let drawn =
                chance.input.as_ref().map(|input| *proved.entry(input.clone()).or_insert_with(|| vrf.prove(input)));
            if drawn.is_none_or(|(output, _)| chance.seats(&output) > 0) {
                self.commit(number, chance.task, chance.number, drawn.map(|(_, proof)| proof), said);
            }
        }
        if let Some(election) = self.state.probe_election(self.state.height().saturating_sub(1)) {
            let (output, _) = self.peers[number].vrf.prove(&election.input);
            black_box(election.seats(&me, &output));
        }
    }

    fn probation(&self, number: usize, said: &mut Vec<Transaction>) {
        if let Some(task) = self.state.probation(&self.peers[number].identity.peer_id()) {
            self.commit(number, task, 0, None, said);
        }
    }

    fn commit(&self, number: usize, task: Hash, stage: u8, proof: Option<VrfProof>, said: &mut Vec<Transaction>) {
        let identity = &self.peers[number].identity;
        let commitment = result(&task).commitment(&task, &identity.peer_id(), &salt(&task));
        let commit = DrillCommit { task, stage, proof, commitment };
        said.push(Transaction::sign(identity, &self.state.ledger(), 0, Action::Commit(commit)));
    }

    fn dues(&self, number: usize, said: &mut Vec<Transaction>) {
        let identity = &self.peers[number].identity;
        for due in self.state.dues(&identity.peer_id()) {
            let reveal = DrillReveal { task: due.task, salt: salt(&due.task), result: result(&due.task) };
            said.push(Transaction::sign(identity, &self.state.ledger(), 0, Action::Reveal(reveal)));
        }
    }

    fn build(&self, said: &[Transaction]) -> Block {
        let members = self.state.next_committee();
        let proposer = self.peers.iter().find(|peer| members.contains(&peer.identity.peer_id()));
        let proposer = proposer.expect("the committee is of these peers");
        let mut order: Vec<_> = said.iter().collect();
        order.sort_by_key(|transaction| !matches!(transaction.action, Action::Reveal(_)));
        let now_ms = self.state.time_ms() + self.state.parameters().epoch_ms;
        self.state.build(&proposer.identity, order, now_ms).expect("a member builds a block")
    }

    fn block(&mut self, said: &[Transaction]) {
        let block = self.build(said);
        self.state = self.state.execute(&block, u64::MAX).expect("the block that was built is accepted");
    }
}

/// A hash stands for the unit's result.
fn result(task: &Hash) -> DrillResult {
    DrillResult { digest: Hash::of(task.as_bytes()), check: Hash([0; 32]) }
}

fn salt(task: &Hash) -> Hash {
    Hash::of(&[task.as_bytes(), &b"salt"[..]].concat())
}

fn timed(call: impl FnOnce()) -> Duration {
    timed_value(call).0
}

fn timed_value<T>(call: impl FnOnce() -> T) -> (Duration, T) {
    let (start, before) = (Instant::now(), processor_time());
    let value = call();
    (processor_time().zip(before).map_or(start.elapsed(), |(after, before)| after - before), value)
}

/// Time that this thread has run on a processor, where the system tells.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn numbered(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// An output as good as any, without the cost of a proof.
fn spread(beacon: Beacon, number: u64) -> VrfOutput {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(beacon.lottery_seed(number, 0).as_bytes());
    VrfOutput(bytes)
}
