//! Nodes that find a ledger, keep it, drill, and probe one another, on virtual time.

use manta_protocol::consensus::Committee;
use manta_protocol::ledger::{DrillResult, FaultKind, Founder, Genesis, Parameters, State};
use manta_protocol::power::MicroPower;
use manta_protocol::trust::{Kept, LedgerOptions};
use manta_protocol::wire::{Identity, codec};
use manta_protocol::{Command, Config, Duration, Effect, Event, Hash, Input, NetworkId, Node, PeerId, Seed, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const BEGIN: Time = Time(1_760_000_000_000_000_000);

/// What a peer has on its disk.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    genesis: Option<Vec<u8>>,
    pub(crate) recoveries: Vec<Vec<u8>>,
    log: (u64, Vec<Vec<u8>>),
    blocks: Vec<Vec<u8>>,
}

pub(crate) struct Peer {
    pub(crate) node: Option<Node>,
    pub(crate) disk: Disk,
    liar: bool,
    pub(crate) events: Vec<Event>,
}

/// Some peers, and everything that is on its way between them.
pub(crate) struct Swarm {
    seed: Seed,
    pub(crate) now: Time,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) identities: BTreeMap<PeerId, Identity>,
    due: BTreeMap<(Time, u64), (PeerId, Input)>,
    sent: u64,
    /// Peers that are cut off from the others.
    pub(crate) cut_off: BTreeSet<PeerId>,
}

impl Swarm {
    pub(crate) fn new(seed: u64) -> Self {
        let (peers, identities, due) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let seed = Seed::from_number(seed);
        Self { seed, now: BEGIN, peers, identities, due, sent: 0, cut_off: BTreeSet::new() }
    }

    /// A new peer; it is connected to all others.
    pub(crate) fn join(&mut self, number: u64) -> PeerId {
        let identity = Identity::from_secret(*self.seed.child("peer", number).0.as_bytes());
        let me = identity.peer_id();
        self.identities.insert(me, identity);
        self.peers.insert(me, Peer { node: None, disk: Disk::default(), liar: false, events: Vec::new() });
        self.start(me);
        me
    }

    /// Peers that have founded a ledger together, with equal power.
    pub(crate) fn found(&mut self, count: u64) -> Vec<PeerId> {
        let secret = |number| Identity::from_secret(*self.seed.child("peer", number).0.as_bytes());
        let identities: BTreeMap<_, _> = (0..count).map(secret).map(|own| (own.peer_id(), own)).collect();
        let founder = |identity: &Identity| Founder {
            peer: identity.peer_id(),
            vrf: identity.vrf().public(),
            class: 0,
            power: MicroPower(100_000),
        };
        let genesis = codec::encode(&Genesis {
            network: NetworkId::from_name("trust"),
            name: "founded together".into(),
            time_ms: self.now.as_unix_ms(),
            founders: identities.values().map(founder).collect(),
            parameters: Parameters::demo(),
        });
        let peers: Vec<_> = identities.keys().copied().collect();
        for (me, identity) in identities {
            self.identities.insert(me, identity);
            let disk = Disk { genesis: Some(genesis.clone()), ..Disk::default() };
            self.peers.insert(me, Peer { node: None, disk, liar: false, events: Vec::new() });
            self.start(me);
        }
        peers
    }

    /// Starts a peer from what is on its disk.
    pub(crate) fn start(&mut self, me: PeerId) {
        let config = Config { network: NetworkId::from_name("trust"), identity: self.identities[&me].clone() };
        let node = Node::new(config, self.now);
        let peer = self.peers.get_mut(&me).expect("a peer of the swarm");
        let disk = &peer.disk;
        let kept = disk.genesis.clone().map(|genesis| Kept {
            genesis,
            snapshot: None,
            recoveries: disk.recoveries.clone(),
            blocks: disk.blocks.clone(),
            log: disk.log.1.clone(),
        });
        peer.node = Some(node);
        let options = LedgerOptions {
            parameters: Parameters::demo(),
            name: "test".into(),
            found_after_ms: 2_000,
            operations_per_s: 1 << 32,
            takes_part: true,
            kept,
        };
        self.input(me, Input::Command(Command::KeepLedger(Box::new(options))));
        let others: Vec<_> = self.running().filter(|peer| *peer != me).collect();
        for other in others {
            self.later(Duration::from_ms(20), me, Input::PeerConnected { peer: other });
            self.later(Duration::from_ms(20), other, Input::PeerConnected { peer: me });
        }
    }

    pub(crate) fn kill(&mut self, me: PeerId) {
        self.peers.get_mut(&me).expect("a peer of the swarm").node = None;
        let others: Vec<_> = self.running().collect();
        for other in others {
            self.later(Duration::from_ms(1), other, Input::PeerDisconnected { peer: me });
        }
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = PeerId> {
        self.peers.iter().filter(|(_, peer)| peer.node.is_some()).map(|(id, _)| *id)
    }

    pub(crate) fn ledger(&self, peer: &PeerId) -> &State {
        self.peers[peer].node.as_ref().and_then(Node::ledger).expect("the peer keeps a ledger")
    }

    fn later(&mut self, after: Duration, to: PeerId, input: Input) {
        self.sent += 1;
        self.due.insert((self.now + after, self.sent), (to, input));
    }

    fn latency(&self) -> Duration {
        Duration::from_ms(5 + self.seed.below("latency", self.sent, 40))
    }

    pub(crate) fn input(&mut self, me: PeerId, input: Input) {
        let now = self.now;
        let Some(node) = self.peers.get_mut(&me).and_then(|peer| peer.node.as_mut()) else { return };
        node.handle(input, now);
        let mut effects = VecDeque::new();
        while let Some(effect) = node.poll_effect() {
            effects.push_back(effect);
        }
        for effect in effects {
            self.perform(me, effect);
        }
    }

    fn perform(&mut self, me: PeerId, effect: Effect) {
        let peer = self.peers.get_mut(&me).expect("a peer of the swarm");
        match effect {
            Effect::Publish { bytes } => {
                let others: Vec<_> = self.running().filter(|other| *other != me).collect();
                for to in others {
                    if self.cut_off.contains(&me) == self.cut_off.contains(&to) {
                        let latency = self.latency();
                        let message = self.sent;
                        self.later(latency, to, Input::Gossip { message, bytes: bytes.clone() });
                    }
                }
            }
            Effect::SendFrame { id, to, bytes } => {
                let reaches = self.peers.get(&to).is_some_and(|peer| peer.node.is_some())
                    && self.cut_off.contains(&me) == self.cut_off.contains(&to);
                let latency = self.latency();
                if reaches {
                    self.later(latency, to, Input::Frame { from: me, bytes });
                    self.later(latency + latency, me, Input::FrameDelivered { id });
                } else {
                    self.later(Duration::from_s(1), me, Input::FrameFailed { id });
                }
            }
            Effect::LedgerBegin { genesis } => peer.disk = Disk { genesis: Some(genesis), ..Disk::default() },
            Effect::LedgerLog { height, record } => {
                let log = &mut peer.disk.log;
                if log.0 != height {
                    *log = (height, Vec::new());
                }
                log.1.push(record);
            }
            Effect::LedgerBlock { height, block } => {
                assert_eq!(height, peer.disk.blocks.len() as u64 + 1, "blocks come one after the other");
                peer.disk.blocks.push(block);
            }
            Effect::LedgerRecovery { recovery, .. } => peer.disk.recoveries.push(recovery),
            Effect::ReadBlocks { to, from, count_max, bytes_max } => {
                let mut bytes = 0;
                let fits = |block: &&Vec<u8>| {
                    bytes += block.len();
                    bytes <= bytes_max
                };
                let blocks = peer
                    .disk
                    .blocks
                    .iter()
                    .skip(from as usize - 1)
                    .take(count_max as usize)
                    .take_while(fits)
                    .cloned()
                    .collect();
                self.later(Duration::from_ms(1), me, Input::BlocksRead { to, from, blocks });
            }
            Effect::Drill { task, challenge, .. } => {
                let digest = if peer.liar { Hash::of(me.as_bytes()) } else { Hash::of(task.as_bytes()) };
                let check = challenge
                    .map_or(Hash([0; 32]), |challenge| Hash::of(&[*digest.as_bytes(), *challenge.as_bytes()].concat()));
                let result = Some(DrillResult { digest, check });
                self.later(Duration::from_ms(30), me, Input::Drilled { task, result });
            }
            Effect::Misbehaviour { peer, what } => panic!("{peer:?} is blamed: {what}"),
            Effect::Notify(event) => peer.events.push(event),
            _ => {}
        }
    }

    /// Lets so much time go by.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timer = self
                .peers
                .iter()
                .filter_map(|(id, peer)| Some((peer.node.as_ref()?.poll_timeout(), *id)))
                .min()
                .filter(|(at, _)| *at <= end);
            let message = self.due.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= end);
            match (timer, message) {
                (_, Some(key)) if timer.is_none_or(|(at, _)| key.0 <= at) => {
                    self.now = self.now.max(key.0);
                    let (to, input) = self.due.remove(&key).expect("it was just seen");
                    self.input(to, input);
                }
                (Some((at, id)), _) => {
                    self.now = self.now.max(at) + Duration(1);
                    self.input(id, Input::Tick);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// All running peers keep one ledger and agree on every state up to the lowest height.
    pub(crate) fn agreed_height(&self) -> u64 {
        let mut roots: BTreeMap<u64, Hash> = BTreeMap::new();
        let mut lowest = u64::MAX;
        for id in self.running() {
            let peer = &self.peers[&id];
            lowest = lowest.min(self.ledger(&id).height());
            let begun = peer
                .events
                .iter()
                .rposition(|event| matches!(event, Event::LedgerFounded { .. } | Event::LedgerJoined { .. }));
            for event in &peer.events[begun.unwrap_or(0)..] {
                if let Event::BlockFinal { height, root } = event
                    && *height > 0
                {
                    assert_eq!(roots.entry(*height).or_insert(*root), root, "{id:?} has another state at {height}");
                }
            }
        }
        let ledgers: BTreeSet<_> = self.running().map(|id| self.ledger(&id).ledger()).collect();
        assert_eq!(ledgers.len(), 1, "one ledger");
        lowest
    }
}

pub(crate) fn s(seconds: u64) -> Duration {
    Duration::from_s(seconds)
}

#[test]
fn a_lone_peer_founds_a_ledger_and_goes_on_after_a_kill() {
    let mut swarm = Swarm::new(1);
    let me = swarm.join(1);
    swarm.run(s(30));
    let before = swarm.ledger(&me);
    let (ledger, height) = (before.ledger(), before.height());
    assert!(height >= 25, "{height} blocks in 28 epochs");
    assert!(before.account(&me).is_some_and(|account| account.balance > 0), "the proposer is rewarded");
    swarm.kill(me);
    swarm.run(s(5));
    swarm.start(me);
    swarm.run(s(10));
    let after = swarm.ledger(&me);
    assert_eq!(after.ledger(), ledger);
    assert!(after.height() >= height + 9, "{} after {height}", after.height());
    assert!(after.is_sound());
}

#[test]
fn peers_that_start_together_have_one_ledger_and_gain_power() {
    for seed in 0..8 {
        let mut swarm = Swarm::new(seed);
        let peers: Vec<_> = (0..4).map(|number| swarm.join(number)).collect();
        swarm.run(s(90));
        let height = swarm.agreed_height();
        assert!(height >= 60, "seed {seed}: {height} blocks in 90 epochs");
        let state = swarm.ledger(&peers[0]);
        let totals = state.totals();
        assert!(totals.tasks_agreed >= 5, "seed {seed}: {totals:?}");
        assert_eq!((totals.tasks_disputed, totals.faults), (0, 0), "seed {seed}: {totals:?}");
        for peer in &peers {
            assert!(state.weight(peer).is_some_and(|weight| weight > 0), "seed {seed}: {peer:?} has no power");
        }
        // The founder is probed once others have power.
        let probed: Vec<_> = peers.iter().filter_map(|peer| state.reliability(peer)?.permille()).collect();
        assert!(probed.len() >= 3, "seed {seed}: {probed:?}");
        assert!(probed.iter().all(|permille| *permille == 1000), "seed {seed}: {probed:?}");
        assert!(state.next_committee().weights().len() == 4, "seed {seed}: all decide in the end");
    }
}

#[test]
fn who_was_away_catches_up() {
    let mut swarm = Swarm::new(5);
    let peers: Vec<_> = (0..4).map(|number| swarm.join(number)).collect();
    swarm.run(s(60));
    // The one with least weight: the others are a quorum without it.
    let weights = |committee: &Committee| committee.weights().to_vec();
    let committee = weights(swarm.ledger(&peers[0]).next_committee());
    let least = committee.iter().min_by_key(|(_, weight)| *weight).expect("a committee").0;
    swarm.kill(least);
    swarm.run(s(60));
    let there = swarm.agreed_height();
    assert!(there >= 80, "{there}");
    swarm.start(least);
    swarm.run(s(20));
    assert!(swarm.agreed_height() >= there + 10);
    let newcomer = swarm.join(9);
    swarm.run(s(20));
    assert!(swarm.agreed_height() >= there + 20);
    assert!(swarm.ledger(&peers[0]).registration(&newcomer).is_some(), "it has registered");
}

#[test]
fn two_lone_ledgers_become_one_and_two_large_ones_are_told_of() {
    let mut swarm = Swarm::new(6);
    let first = swarm.join(1);
    let second = swarm.join(2);
    swarm.cut_off.insert(second);
    swarm.run(s(20));
    assert_ne!(swarm.ledger(&first).ledger(), swarm.ledger(&second).ledger());
    swarm.cut_off.clear();
    swarm.run(s(40));
    swarm.agreed_height();

    let mut swarm = Swarm::new(7);
    let peers: Vec<_> = (0..2).map(|number| swarm.join(number)).collect();
    for number in 2..4 {
        let peer = swarm.join(number);
        swarm.cut_off.insert(peer);
    }
    swarm.run(s(40));
    swarm.cut_off.clear();
    swarm.run(s(40));
    let told = |peer: &Peer| peer.events.iter().any(|event| matches!(event, Event::LedgersDiffer { .. }));
    assert!(swarm.peers.values().all(told), "people have to choose");
    let ledgers: BTreeSet<_> = swarm.running().map(|id| swarm.ledger(&id).ledger()).collect();
    assert_eq!(ledgers.len(), 2, "they never merge by themselves");
    assert!(swarm.ledger(&peers[0]).height() > 60, "and both go on");
}

#[test]
fn a_liar_is_named_and_honest_peers_lose_nothing() {
    let mut swarm = Swarm::new(8);
    let peers: Vec<_> = (0..4).map(|number| swarm.join(number)).collect();
    swarm.run(s(60));
    let liar = peers[3];
    swarm.peers.get_mut(&liar).expect("a peer of the swarm").liar = true;
    swarm.run(s(120));
    swarm.agreed_height();
    let state = swarm.ledger(&peers[0]);
    let named: BTreeSet<_> = state.faults().map(|fault| fault.peer).collect();
    assert_eq!(named, BTreeSet::from([liar]), "{:?}", state.faults().collect::<Vec<_>>());
    assert!(state.faults().all(|fault| fault.kind == FaultKind::WrongResult));
}

#[test]
fn without_a_quorum_the_ledger_waits_and_says_for_whom() {
    let mut swarm = Swarm::new(9);
    let peers: Vec<_> = (0..3).map(|number| swarm.join(number)).collect();
    swarm.run(s(60));
    let committee = swarm.ledger(&peers[0]).next_committee().clone();
    let heaviest = committee.weights().iter().max_by_key(|(_, weight)| *weight).expect("a committee").0;
    assert!(!committee.is_quorum(committee.total() - committee.weight(&heaviest)), "the founder is needed");
    swarm.kill(heaviest);
    let height = swarm.agreed_height();
    swarm.run(s(60));
    assert!(swarm.agreed_height() <= height + 1, "no quorum, no block");
    let other = swarm.running().next().expect("two are left");
    let progress = swarm.peers[&other].node.as_ref().and_then(Node::ledger_progress).expect("a ledger");
    assert!(progress.missing.iter().any(|(peer, _)| *peer == heaviest), "{progress:?}");
    swarm.start(heaviest);
    swarm.run(s(60));
    assert!(swarm.agreed_height() >= height + 40, "{} after {height}", swarm.agreed_height());
}

#[test]
fn credits_move_and_are_conserved() {
    let mut swarm = Swarm::new(10);
    let (rich, poor) = (swarm.join(1), swarm.join(2));
    swarm.run(s(40));
    let founder =
        if swarm.ledger(&rich).account(&rich).is_some_and(|account| account.balance > 1_000_000) { rich } else { poor };
    let to = if founder == rich { poor } else { rich };
    let before = swarm.ledger(&rich).account(&to).map_or(0, |account| account.balance);
    swarm.input(founder, Input::Command(Command::Transfer { to, amount: 777_777 }));
    swarm.input(founder, Input::Command(Command::Transfer { to, amount: u64::MAX }));
    swarm.run(s(10));
    let state = swarm.ledger(&to);
    assert!(state.account(&to).is_some_and(|account| account.balance >= before + 777_777));
    assert!(state.is_sound());
    let refused = swarm.peers[&founder]
        .events
        .iter()
        .any(|event| matches!(event, Event::Refused { why } if why.contains("are needed")));
    assert!(refused, "more than there is cannot be given");
}
