//! The links between hosts: latency, jitter (and so reordering), frame loss,
//! bandwidth of each host's uplink, and who gossips with whom.
//!
//! Frames and chunks travel between any two hosts; gossip floods along the
//! edges of a connected graph. A lost frame is reported to its sender after a
//! delay, as a request-response transport does; it may have arrived all the
//! same, when only the answer was lost. Chunks are not lost, only late, and
//! where frames are lost they may come twice, as when a receipt is lost.

use manta_protocol::{Duration, Seed, Time};

/// Hosts up to this number are all connected with each other.
const FULL_MESH_MAX: usize = 8;
/// Random edges that each host of a larger swarm opens, besides the ring.
const EXTRA_EDGES: u64 = 3;
/// Parts of the loss rate.
const MILLION: u64 = 1_000_000;

/// A stream of random numbers under one seed.
#[derive(Clone, Debug)]
pub struct Draws {
    seed: Seed,
    drawn: u64,
}

impl Draws {
    /// The stream of `seed`.
    pub fn new(seed: Seed) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A uniform value of 0 to `max`, both included.
    pub fn up_to(&mut self, max: u64) -> u64 {
        self.drawn += 1;
        self.seed.below("draw", self.drawn, max.saturating_add(1))
    }

    /// Whether an event of `per_million` in a million happens.
    pub fn happens(&mut self, per_million: u64) -> bool {
        per_million > 0 && self.up_to(MILLION - 1) < per_million
    }
}

/// How good the links are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Conditions {
    /// Longest one-way latency of a link, in microseconds; the shortest is a quarter.
    pub latency_us_max: u64,
    /// Longest addition to one message's latency, in microseconds.
    pub jitter_us_max: u64,
    /// Frames lost, in a million.
    pub loss_per_million: u64,
    /// Each host's uplink, in bytes a second.
    pub uplink_bytes_per_s: u64,
    /// Largest difference of a host's clock from the true time, in milliseconds.
    pub skew_ms_max: u64,
}

impl Conditions {
    /// Conditions that the seed chooses: from a local network to a bad long line.
    pub fn drawn(seed: Seed) -> Self {
        let mut draws = Draws::new(seed.child("conditions", 0));
        let latency_us_max = [200, 2_000, 20_000, 80_000, 200_000][draws.up_to(4) as usize];
        Self {
            latency_us_max,
            jitter_us_max: draws.up_to(latency_us_max * 2),
            loss_per_million: [0, 0, 100, 1_000][draws.up_to(3) as usize],
            uplink_bytes_per_s: [250_000, 2_500_000, 12_500_000, 125_000_000][draws.up_to(3) as usize],
            skew_ms_max: [0, 50, 1_500, 29_000][draws.up_to(3) as usize],
        }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// When it arrives, if it does.
    pub arrives: Option<Time>,
    /// When the sender's transport knows.
    pub known: Time,
    /// What the sender's transport then says.
    pub delivered: bool,
}

/// All links.
pub struct Network {
    conditions: Conditions,
    seed: Seed,
    draws: Draws,
    repetitions: Draws,
    uplink_free: Vec<Time>,
    neighbours: Vec<Vec<usize>>,
}

impl Network {
    /// Links between `hosts` hosts.
    pub fn new(hosts: usize, conditions: Conditions, seed: Seed) -> Self {
        Self {
            conditions,
            seed,
            draws: Draws::new(seed.child("messages", 0)),
            repetitions: Draws::new(seed.child("repetitions", 0)),
            uplink_free: vec![Time(0); hosts],
            neighbours: graph(hosts, seed),
        }
    }

    /// Who hears `host`'s gossip directly.
    pub fn neighbours(&self, host: usize) -> &[usize] {
        &self.neighbours[host]
    }

    /// When a message sent now arrives.
    pub fn arrival(&mut self, from: usize, to: usize, now: Time) -> Time {
        let jitter = self.draws.up_to(self.conditions.jitter_us_max);
        now + microseconds(self.base_latency_us(from, to) + jitter)
    }

    /// What becomes of a frame sent now.
    pub fn frame(&mut self, from: usize, to: usize, now: Time) -> Fate {
        let arrives = self.arrival(from, to, now);
        if !self.draws.happens(self.conditions.loss_per_million) {
            return Fate { arrives: Some(arrives), known: self.arrival(to, from, arrives), delivered: true };
        }
        // Half of the failures lose only the transport's answer.
        let arrives = self.draws.happens(MILLION / 2).then_some(arrives);
        let known = now + Duration::from_ms(200 + self.draws.up_to(1_800));
        Fate { arrives, known, delivered: false }
    }

    /// What becomes of a frame to a host that is gone.
    pub fn refused(&mut self, from: usize, to: usize, now: Time) -> Fate {
        let there = self.arrival(from, to, now);
        Fate { arrives: None, known: self.arrival(to, from, there), delivered: false }
    }

    /// What becomes of a frame that nobody answers.
    pub fn unanswered(&mut self, now: Time) -> Fate {
        let known = now + Duration::from_ms(200 + self.draws.up_to(9_800));
        Fate { arrives: None, known, delivered: false }
    }

    /// When a chunk of `bytes` sent now has arrived whole, once or twice: chunks
    /// of one sender share its uplink.
    pub fn chunk(&mut self, from: usize, to: usize, bytes: u64, now: Time) -> Vec<Time> {
        let seconds_to_ns = 1_000_000_000u128;
        let ns = u128::from(bytes) * seconds_to_ns / u128::from(self.conditions.uplink_bytes_per_s.max(1));
        let sent = self.uplink_free[from].max(now) + Duration(u64::try_from(ns).unwrap_or(u64::MAX));
        self.uplink_free[from] = sent;
        let first = self.arrival(from, to, sent);
        let again = self.repetitions.happens(self.conditions.loss_per_million);
        let later = Duration::from_ms(1 + self.repetitions.up_to(500));
        if again { vec![first, first + later] } else { vec![first] }
    }

    fn base_latency_us(&self, from: usize, to: usize) -> u64 {
        let link = (from.min(to) as u64) << 32 | from.max(to) as u64;
        let shortest = self.conditions.latency_us_max / 4;
        shortest + self.seed.below("latency", link, self.conditions.latency_us_max - shortest + 1)
    }
}

fn microseconds(us: u64) -> Duration {
    Duration(us.saturating_mul(1_000))
}

/// A connected graph: everyone with everyone while few, else a ring with chords.
fn graph(hosts: usize, seed: Seed) -> Vec<Vec<usize>> {
    let mut edges = vec![std::collections::BTreeSet::new(); hosts];
    let mut connect = |a: usize, b: usize| {
        if a != b {
            edges[a].insert(b);
            edges[b].insert(a);
        }
    };
    for a in 0..hosts {
        if hosts <= FULL_MESH_MAX {
            (0..hosts).for_each(|b| connect(a, b));
        } else {
            connect(a, (a + 1) % hosts);
            (0..EXTRA_EDGES)
                .for_each(|k| connect(a, seed.below("edge", a as u64 * EXTRA_EDGES + k, hosts as u64) as usize));
        }
    }
    edges.into_iter().map(|set| set.into_iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONDITIONS: Conditions = Conditions {
        latency_us_max: 1_000,
        jitter_us_max: 5_000,
        loss_per_million: 300_000,
        uplink_bytes_per_s: 1_000,
        skew_ms_max: 0,
    };

    #[test]
    fn gossip_graphs_are_connected_and_mutual() {
        for hosts in [1, 2, 8, 9, 50] {
            let graph = graph(hosts, Seed::from_number(3));
            let mut reached = std::collections::BTreeSet::from([0]);
            let mut next = vec![0];
            while let Some(host) = next.pop() {
                assert!(graph[host].iter().all(|other| graph[*other].contains(&host)), "edges go both ways");
                next.extend(graph[host].iter().copied().filter(|other| reached.insert(*other)));
            }
            assert_eq!(reached.len(), hosts);
        }
    }

    #[test]
    fn loss_is_near_its_rate_and_half_of_it_arrives() {
        let mut network = Network::new(2, CONDITIONS, Seed::from_number(1));
        let fates: Vec<_> = (0..4_000).map(|_| network.frame(0, 1, Time(0))).collect();
        let lost = fates.iter().filter(|fate| !fate.delivered).count();
        let arrived = fates.iter().filter(|fate| !fate.delivered && fate.arrives.is_some()).count();
        assert!((1_000..1_400).contains(&lost), "{lost} of 4000 at 30 %");
        assert!((lost / 3..lost * 2 / 3).contains(&arrived), "{arrived} of {lost}");
        assert!(fates.iter().all(|fate| fate.arrives.is_some() || !fate.delivered));
    }

    #[test]
    fn chunks_share_the_uplink_of_their_sender() {
        let mut network = Network::new(3, CONDITIONS, Seed::from_number(1));
        let sent: Vec<_> = (0..10).map(|k| network.chunk(0, 1 + k % 2, 100, Time(0))).collect();
        assert!(sent.iter().any(|times| times.len() == 2), "some come twice at 30 %");
        let last = sent.concat().into_iter().max().expect("ten or more");
        assert!(last >= Time(0) + Duration::from_ms(1_000), "1000 bytes at 1000 bytes a second");
        assert!(network.chunk(1, 2, 100, Time(0))[0] < Time(0) + Duration::from_ms(200));
    }
}
