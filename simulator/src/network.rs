//! The links between hosts: latency, jitter, late and repeated frames (and so
//! reordering), loss, bandwidth of each host's uplink, and who gossips with whom.
//!
//! Frames and chunks travel between any two hosts; gossip floods along the
//! edges of a connected graph. A sender's transport learns what became of a
//! frame from the receiver's answer, which may be lost, too: then the frame has
//! arrived and is reported as failed. Chunks are not lost, only late, and where
//! frames are lost they may come twice, as when a receipt is lost.

use crate::draws::{Draws, MILLION};
use manta_protocol::{Duration, Seed, Time};
use std::collections::BTreeSet;

/// Hosts up to this number are all connected with each other.
const FULL_MESH_MAX: usize = 8;
/// Random edges that each host of a larger swarm opens, besides the ring.
const EXTRA_EDGES: u64 = 3;
/// What a frame that was held up takes longer, in milliseconds, at most.
const LATE_MS_MAX: u64 = 2_500;

/// How good the links are, and how fast disks sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Conditions {
    /// Longest one-way latency of a link, in microseconds; the shortest is a quarter.
    pub latency_us_max: u64,
    /// Longest addition to one message's latency, in microseconds.
    pub jitter_us_max: u64,
    /// Frames lost, in a million.
    pub loss_per_million: u64,
    /// Frames that come twice, in a million.
    pub repeat_per_million: u64,
    /// Frames that are held up for up to 2.5 s, in a million.
    pub late_per_million: u64,
    /// Each host's uplink, in bytes a second.
    pub uplink_bytes_per_s: u64,
    /// Largest difference of a host's clock from the true time, in milliseconds.
    pub skew_ms_max: u64,
    /// Longest time in which a disk makes a journal record durable, in microseconds.
    pub sync_us_max: u64,
}

impl Conditions {
    /// Conditions that the seed chooses: from a local network to a bad long line.
    pub fn drawn(seed: Seed) -> Self {
        let mut draws = Draws::new(seed.child("conditions", 0));
        let latency_us_max = draws.one_of(&[200, 2_000, 20_000, 80_000, 200_000]);
        Self {
            latency_us_max,
            jitter_us_max: draws.up_to(latency_us_max * 2),
            loss_per_million: draws.one_of(&[0, 0, 100, 1_000, 10_000]),
            repeat_per_million: draws.one_of(&[0, 1_000, 20_000]),
            late_per_million: draws.one_of(&[0, 1_000, 10_000]),
            uplink_bytes_per_s: draws.one_of(&[250_000, 2_500_000, 12_500_000, 125_000_000]),
            skew_ms_max: draws.one_of(&[0, 50, 1_500, 29_000]),
            sync_us_max: draws.one_of(&[0, 300, 8_000, 120_000]),
        }
    }
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

    /// When a frame sent now arrives: not at all, once or twice.
    pub fn frame(&mut self, from: usize, to: usize, now: Time) -> Vec<Time> {
        if self.draws.happens(self.conditions.loss_per_million / 2) {
            return Vec::new();
        }
        let mut arrives = self.arrival(from, to, now);
        if self.draws.happens(self.conditions.late_per_million) {
            arrives = arrives + Duration::from_ms(self.draws.up_to(LATE_MS_MAX));
        }
        let mut times = vec![arrives];
        if self.repetitions.happens(self.conditions.repeat_per_million) {
            times.push(arrives + Duration::from_ms(self.repetitions.up_to(LATE_MS_MAX)));
        }
        times
    }

    /// When a frame's answer, sent now, is back; `None` if it is lost.
    pub fn answer(&mut self, from: usize, to: usize, now: Time) -> Option<Time> {
        let lost = self.draws.happens(self.conditions.loss_per_million / 2);
        (!lost).then(|| self.arrival(from, to, now))
    }

    /// How long a transport waits for the answer to a frame.
    pub fn patience(&mut self) -> Duration {
        Duration::from_ms(200 + 2 * self.conditions.latency_us_max / 1_000 + self.draws.up_to(9_800))
    }

    /// When a chunk of `bytes` sent now has arrived whole, once or twice: chunks
    /// of one sender share its uplink.
    pub fn chunk(&mut self, from: usize, to: usize, bytes: u64, now: Time) -> Vec<Time> {
        let first = self.transfer(from, to, bytes, now);
        let again = self.repetitions.happens(self.conditions.loss_per_million);
        let later = Duration::from_ms(1 + self.repetitions.up_to(500));
        if again { vec![first, first + later] } else { vec![first] }
    }

    /// When `bytes` sent now have arrived whole.
    pub fn transfer(&mut self, from: usize, to: usize, bytes: u64, now: Time) -> Time {
        let seconds_to_ns = 1_000_000_000u128;
        let ns = u128::from(bytes) * seconds_to_ns / u128::from(self.conditions.uplink_bytes_per_s.max(1));
        let sent = self.uplink_free[from].max(now) + Duration(u64::try_from(ns).unwrap_or(u64::MAX));
        self.uplink_free[from] = sent;
        self.arrival(from, to, sent)
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
    let mut edges = vec![BTreeSet::new(); hosts];
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

/// Whether `per_million` is a rate.
///
/// # Errors
/// Says what is accepted.
pub fn rate(per_million: u64) -> Result<u64, String> {
    if per_million <= MILLION {
        Ok(per_million)
    } else {
        Err(format!("{per_million} in a million, 0 to {MILLION} are accepted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONDITIONS: Conditions = Conditions {
        latency_us_max: 1_000,
        jitter_us_max: 5_000,
        loss_per_million: 300_000,
        repeat_per_million: 100_000,
        late_per_million: 0,
        uplink_bytes_per_s: 1_000,
        skew_ms_max: 0,
        sync_us_max: 0,
    };

    #[test]
    fn gossip_graphs_are_connected_and_mutual() {
        for hosts in [1, 2, 8, 9, 50] {
            let graph = graph(hosts, Seed::from_number(3));
            let mut reached = BTreeSet::from([0]);
            let mut next = vec![0];
            while let Some(host) = next.pop() {
                assert!(graph[host].iter().all(|other| graph[*other].contains(&host)), "edges go both ways");
                next.extend(graph[host].iter().copied().filter(|other| reached.insert(*other)));
            }
            assert_eq!(reached.len(), hosts);
        }
    }

    #[test]
    fn loss_is_near_its_rate_half_on_each_way() {
        let mut network = Network::new(2, CONDITIONS, Seed::from_number(1));
        let fates: Vec<_> = (0..4_000).map(|_| network.frame(0, 1, Time(0))).collect();
        let lost = fates.iter().filter(|times| times.is_empty()).count();
        let twice = fates.iter().filter(|times| times.len() == 2).count();
        let unanswered = (0..4_000).filter(|_| network.answer(1, 0, Time(0)).is_none()).count();
        assert!((480..720).contains(&lost), "{lost} of 4000 at 15 %");
        assert!((480..720).contains(&unanswered), "{unanswered} of 4000 at 15 %");
        assert!((250..450).contains(&twice), "{twice} of 4000 at 10 % of 85 %");
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
