//! Pairs of endpoints on loopback, each step awaited by its event.

use super::chunk::Receipt;
use super::connections::connection;
use super::{BlobError, BulkConfig, BulkEvent, BulkFailure, BulkHandle, ChunkHeader, MAX_CHUNK_BYTES, SendError};
use crate::identity::Identity;
use bytes::Bytes;
use manta_protocol::ids::{Hash, PeerId, RunId};
use manta_protocol::run::Phase;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);
const RUN: RunId = RunId([0x52; 32]);
const CHUNK_LIMIT: u32 = 64 * 1024;

struct TestPeer {
    peer: PeerId,
    bulk: BulkHandle,
    events: mpsc::Receiver<BulkEvent>,
}

fn config() -> BulkConfig {
    BulkConfig {
        listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        admission_grace: Duration::from_millis(300),
        ..BulkConfig::default()
    }
}

fn header(index: u32) -> ChunkHeader {
    ChunkHeader { run: RUN, exchange: 1, view: 2, phase: Phase::Contribution, index }
}

impl TestPeer {
    fn start() -> Self {
        Self::serving(|_: &Hash, _: &PeerId| None)
    }

    fn serving(source: impl super::BlobSource) -> Self {
        let identity = Identity::generate();
        let (bulk, events) = BulkHandle::start(&identity, &config(), source).expect("starts");
        Self { peer: identity.peer(), bulk, events }
    }

    fn knows(&self, other: &TestPeer) {
        self.bulk.set_peer_addresses(other.peer, vec![other.bulk.local_address()]);
    }

    fn admits(&self, members: &[&TestPeer]) {
        let members: BTreeSet<PeerId> = members.iter().map(|member| member.peer).collect();
        self.bulk.admit(RUN, members, CHUNK_LIMIT);
    }

    async fn event(&mut self) -> BulkEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("the endpoint is alive")
    }

    async fn failure(&mut self) -> BulkFailure {
        match self.event().await {
            BulkEvent::ChunkFailed { failure, .. } => failure,
            other => panic!("expected a failure, found {other:?}"),
        }
    }

    fn refused(&self) -> u64 {
        self.bulk.counters().chunks_refused.load(Ordering::Relaxed)
    }
}

/// Two peers that know and admit each other.
fn pair() -> (TestPeer, TestPeer) {
    let (a, b) = (TestPeer::start(), TestPeer::start());
    a.knows(&b);
    b.knows(&a);
    a.admits(&[&b]);
    b.admits(&[&a]);
    (a, b)
}

/// Takes `count` chunks and `count` receipts, checks every byte, and returns the indices in order of arrival.
async fn exchange(peer: &mut TestPeer, from: PeerId, count: u32, bytes_of: fn(u32) -> Bytes) -> Vec<u32> {
    let (mut arrived, mut delivered) = (Vec::new(), BTreeSet::new());
    while arrived.len() < count as usize || delivered.len() < count as usize {
        match peer.event().await {
            BulkEvent::Chunk { from: sender, header: found, bytes } => {
                assert_eq!((sender, found), (from, header(found.index)));
                assert_eq!(bytes, bytes_of(found.index), "chunk {}", found.index);
                arrived.push(found.index);
            }
            BulkEvent::ChunkDelivered { to, header } => {
                assert_eq!(to, from);
                assert!(delivered.insert(header.index), "one receipt for each chunk");
            }
            BulkEvent::ChunkFailed { failure, .. } => panic!("{failure}"),
        }
    }
    arrived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_pass_both_ways_at_once_even_if_both_dial() {
    let (mut a, mut b) = pair();
    let bytes_of = |index: u32| Bytes::from(vec![index as u8; (CHUNK_LIMIT - index) as usize]);
    for index in 0..20 {
        a.bulk.send_chunk(b.peer, header(index), bytes_of(index)).expect("there is room");
        b.bulk.send_chunk(a.peer, header(index), bytes_of(index)).expect("there is room");
    }
    let (to_a, to_b) = (a.peer, b.peer);
    let (mut at_a, mut at_b) = tokio::join!(exchange(&mut a, to_b, 20, bytes_of), exchange(&mut b, to_a, 20, bytes_of));
    at_a.sort_unstable();
    at_b.sort_unstable();
    assert_eq!((at_a, at_b), ((0..20).collect(), (0..20).collect()));
    let payload: u64 = (0..20).map(|index| u64::from(CHUNK_LIMIT - index)).sum();
    for counters in [a.bulk.counters(), b.bulk.counters()] {
        assert_eq!(counters.tensor_sent_bytes.load(Ordering::Relaxed), payload);
        assert_eq!(counters.tensor_received_bytes.load(Ordering::Relaxed), payload);
    }
    tokio::time::timeout(PATIENCE, async { tokio::join!(a.bulk.shutdown(), b.bulk.shutdown()) }).await.expect("ends");
}

#[tokio::test]
async fn an_empty_chunk_and_an_early_sender_are_served() {
    let (mut a, mut b) = (TestPeer::start(), TestPeer::start());
    a.knows(&b);
    a.admits(&[&b]);
    a.bulk.send_chunk(b.peer, header(0), Bytes::new()).expect("there is room");
    // B learns of the run only now; A's connection or stream waits for it.
    b.admits(&[&a]);
    assert!(matches!(b.event().await, BulkEvent::Chunk { bytes, .. } if bytes.is_empty()));
    assert!(matches!(a.event().await, BulkEvent::ChunkDelivered { .. }));
}

#[tokio::test]
async fn another_peer_at_the_address_is_refused_and_named() {
    let (mut a, b, expected) = (TestPeer::start(), TestPeer::start(), Identity::generate().peer());
    a.bulk.set_peer_addresses(expected, vec![b.bulk.local_address()]);
    a.bulk.admit(RUN, [expected].into(), CHUNK_LIMIT);
    b.admits(&[&a]);
    a.bulk.send_chunk(expected, header(0), Bytes::from_static(b"secret")).expect("there is room");
    assert_eq!(a.failure().await, BulkFailure::WrongPeer { expected, found: b.peer });
    assert_eq!(a.bulk.counters().tensor_sent_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_stranger_is_refused() {
    let (mut a, mut b) = (TestPeer::start(), TestPeer::start());
    a.knows(&b);
    a.admits(&[&b]);
    a.bulk.send_chunk(b.peer, header(0), Bytes::from_static(b"x")).expect("there is room");
    assert_eq!(a.failure().await, BulkFailure::NotAdmitted);
    assert_eq!(b.bulk.counters().connections_refused.load(Ordering::Relaxed), 1);
    assert!(b.events.try_recv().is_err(), "nothing reached the owner");
}

#[tokio::test]
async fn a_member_of_another_run_is_refused_by_chunk() {
    let (mut a, b) = pair();
    let other = ChunkHeader { run: RunId([9; 32]), ..header(0) };
    a.bulk.admit(other.run, [b.peer].into(), CHUNK_LIMIT);
    a.bulk.send_chunk(b.peer, other, Bytes::from_static(b"x")).expect("there is room");
    assert_eq!(a.failure().await, BulkFailure::NotAdmitted);
    assert_eq!(b.refused(), 1);
}

#[tokio::test]
async fn oversized_chunks_are_refused_on_both_sides() {
    let (mut a, b) = pair();
    let too_large = Bytes::from(vec![0; MAX_CHUNK_BYTES as usize + 1]);
    assert_eq!(a.bulk.send_chunk(b.peer, header(0), too_large), Err(SendError::TooLarge));
    // Within the protocol's limit, beyond this run's.
    a.bulk.send_chunk(b.peer, header(1), Bytes::from(vec![0; CHUNK_LIMIT as usize + 1])).expect("there is room");
    assert_eq!(a.failure().await, BulkFailure::TooLarge);
    assert_eq!(b.refused(), 1);
}

/// Sends raw bytes on a stream of a proven connection and returns the receipt byte.
async fn raw(a: &TestPeer, b: &TestPeer, bytes: &[u8]) -> Option<u8> {
    let connection = connection(&a.bulk.shared, &b.peer).await.expect("connects");
    let (mut send, mut receive) = connection.open_bi().await.expect("opens");
    send.write_all(bytes).await.expect("is written");
    let _ = send.finish();
    let mut receipt = [0xFF];
    let read = tokio::time::timeout(PATIENCE, receive.read_exact(&mut receipt)).await.expect("in time");
    read.ok().map(|()| receipt[0])
}

#[tokio::test]
async fn a_length_beyond_all_limits_and_a_wrong_length_are_refused() {
    let (a, mut b) = pair();
    let mut monstrous = header(0).encode(0);
    monstrous[56..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(raw(&a, &b, &monstrous).await, Some(Receipt::TooLarge as u8));
    let (short, long) =
        ([header(1).encode(3).as_slice(), b"ab"].concat(), [header(2).encode(3).as_slice(), b"abcd"].concat());
    for bad in [short.as_slice(), &long, b"MNTX\x01\0\0\0", b"MNTC\x01\0\0\0", &[0; 60]] {
        let receipt = raw(&a, &b, bad).await;
        assert_eq!(receipt, Some(Receipt::Malformed as u8), "{bad:02x?}");
    }
    assert_eq!(b.refused(), 6);
    assert!(b.events.try_recv().is_err(), "nothing reached the owner");
}

#[tokio::test]
async fn an_unreachable_peer_fails_by_name_and_reason() {
    let mut a = TestPeer::start();
    let (unknown, dead) = (Identity::generate().peer(), Identity::generate().peer());
    a.bulk.admit(RUN, [unknown, dead].into(), CHUNK_LIMIT);
    a.bulk.send_chunk(unknown, header(0), Bytes::new()).expect("there is room");
    assert_eq!(a.failure().await, BulkFailure::NoAddress);

    let identity = Identity::generate();
    let impatient = BulkConfig { dial_timeout: Duration::from_millis(200), ..config() };
    let (bulk, mut events) = BulkHandle::start(&identity, &impatient, |_: &Hash, _: &PeerId| None).expect("starts");
    // A bound socket that never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    bulk.set_peer_addresses(dead, vec![address]);
    bulk.admit(RUN, [dead].into(), CHUNK_LIMIT);
    for index in 0..8 {
        bulk.send_chunk(dead, header(index), Bytes::new()).expect("there is room");
    }
    for _ in 0..8 {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("alive");
        let BulkEvent::ChunkFailed { to, failure: BulkFailure::Unreachable(reason), .. } = event else {
            panic!("expected unreachable, found {event:?}");
        };
        assert_eq!(to, dead);
        assert!(reason.contains(&address.to_string()) && reason.contains("200 ms"), "{reason}");
    }
}

#[tokio::test]
async fn a_restarted_peer_is_reached_again() {
    let (mut a, identity) = (TestPeer::start(), Identity::generate());
    a.bulk.admit(RUN, [identity.peer()].into(), CHUNK_LIMIT);
    for index in 0..3 {
        let (b, mut events) = BulkHandle::start(&identity, &config(), |_: &Hash, _: &PeerId| None).expect("starts");
        b.admit(RUN, [a.peer].into(), CHUNK_LIMIT);
        a.bulk.set_peer_addresses(identity.peer(), vec![b.local_address()]);
        a.bulk.send_chunk(identity.peer(), header(index), Bytes::new()).expect("there is room");
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("alive");
        assert!(matches!(event, BulkEvent::Chunk { header: found, .. } if found == header(index)), "{event:?}");
        assert!(matches!(a.event().await, BulkEvent::ChunkDelivered { .. }));
        b.shutdown().await;
    }
}

#[tokio::test]
async fn the_queue_is_bounded_holds_back_the_sender_and_is_emptied_by_release() {
    let (mut a, mut b) = pair();
    let chunk = Bytes::from(vec![1; CHUNK_LIMIT as usize]);
    let mut queued = 0;
    while a.bulk.send_chunk(b.peer, header(queued as u32), chunk.clone()).is_ok() {
        queued += 1;
        assert!(queued <= super::CHUNK_QUEUE_PER_PEER, "the queue is bounded");
    }
    // B's owner reads nothing, so its queue takes what it holds and the rest waits at A.
    for _ in 0..super::EVENT_CAPACITY {
        assert!(matches!(a.event().await, BulkEvent::ChunkDelivered { .. }));
    }
    a.bulk.release(&RUN);
    for _ in super::EVENT_CAPACITY..queued {
        let failure = a.failure().await;
        assert_eq!(failure, BulkFailure::Released);
    }
    for _ in 0..super::EVENT_CAPACITY {
        assert!(matches!(b.event().await, BulkEvent::Chunk { .. }));
    }
}

#[tokio::test]
async fn what_waits_for_a_lost_peer_fails_at_once_and_is_freed() {
    let (mut a, mut b) = pair();
    let memory = std::sync::Arc::new(vec![1; CHUNK_LIMIT as usize]);
    let queued = 500;
    for index in 0..queued {
        let chunk = Bytes::from_owner(Shared(std::sync::Arc::clone(&memory)));
        a.bulk.send_chunk(b.peer, header(index), chunk).expect("there is room");
    }
    // B's owner reads nothing, as that of a process that hangs: the rest waits at A and on its way.
    for _ in 0..super::EVENT_CAPACITY {
        assert!(matches!(a.event().await, BulkEvent::ChunkDelivered { .. }));
    }
    a.bulk.drop_peer(&b.peer);
    let freed = async {
        while std::sync::Arc::strong_count(&memory) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("all is freed, although nobody takes the events");
    for _ in super::EVENT_CAPACITY as u32..queued {
        assert_eq!(a.failure().await, BulkFailure::PeerLost);
    }
    // It was not lost after all.
    for _ in 0..super::EVENT_CAPACITY {
        assert!(matches!(b.event().await, BulkEvent::Chunk { .. }));
    }
    a.bulk.send_chunk(b.peer, header(queued), Bytes::new()).expect("there is room");
    while !matches!(b.event().await, BulkEvent::Chunk { header: found, .. } if found == header(queued)) {}
    assert!(matches!(a.event().await, BulkEvent::ChunkDelivered { header: found, .. } if found == header(queued)));
}

/// Bytes whose last use can be seen.
struct Shared(std::sync::Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[tokio::test]
async fn blobs_are_verified_and_missing_forbidden_and_corrupt_ones_told_apart() {
    let good = Bytes::from(vec![7; 3 << 20]);
    let (hash, missing, forged) = (Hash::of(&good), Hash::of(b"missing"), Hash::of(b"forged"));
    let too_long = Hash::of(b"too long");
    let readable = good.clone();
    let b = TestPeer::serving(move |asked: &Hash, _: &PeerId| match asked {
        asked if *asked == hash => Some(readable.clone()),
        asked if *asked == forged => Some(Bytes::from_static(b"something else")),
        asked if *asked == too_long => Some(Bytes::from(vec![0; (super::blob::MAX_BLOB_BYTES + 1) as usize])),
        _ => None,
    });
    let a = TestPeer::start();
    a.knows(&b);
    a.admits(&[&b]);
    b.admits(&[&a]);
    assert_eq!(a.bulk.fetch_blob(b.peer, hash).await, Ok(good.clone()));
    assert_eq!(a.bulk.fetch_blob(b.peer, missing).await, Err(BlobError::NotAvailable(missing)));
    assert_eq!(a.bulk.fetch_blob(b.peer, too_long).await, Err(BlobError::NotAvailable(too_long)));
    let corrupt = BlobError::Corrupt { expected: forged, found: Hash::of(b"something else") };
    assert_eq!(a.bulk.fetch_blob(b.peer, forged).await, Err(corrupt));
    let counters = a.bulk.counters();
    assert_eq!(counters.blob_received_bytes.load(Ordering::Relaxed), good.len() as u64);
    assert_eq!(counters.blobs_corrupt.load(Ordering::Relaxed), 1);
    // A peer of no run reads nothing, not even over a connection that stands.
    b.bulk.release(&RUN);
    assert_eq!(a.bulk.fetch_blob(b.peer, hash).await, Err(BlobError::NotAvailable(hash)));
    let unknown = Identity::generate().peer();
    assert_eq!(a.bulk.fetch_blob(unknown, hash).await, Err(BlobError::Transport(BulkFailure::NoAddress)));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let a = TestPeer::start();
    let taken = BulkConfig { listen: Some(a.bulk.local_address()), ..config() };
    let error = BulkHandle::start(&Identity::generate(), &taken, |_: &Hash, _: &PeerId| None).err().expect("is taken");
    assert!(error.to_string().contains(&a.bulk.local_address().to_string()), "{error}");
}

/// Prints what `cargo test --release -p manta-peer -- --ignored --nocapture throughput` measures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn throughput() {
    const CHUNKS: u32 = 2000;
    let (mut a, mut b) = pair();
    a.bulk.admit(RUN, [b.peer].into(), MAX_CHUNK_BYTES);
    b.bulk.admit(RUN, [a.peer].into(), MAX_CHUNK_BYTES);
    let chunk = Bytes::from(vec![0x5A; 256 * 1024]);
    for pass in 0..3 {
        let begun = Instant::now();
        let cpu = cpu_seconds();
        for index in 0..CHUNKS {
            a.bulk.send_chunk(b.peer, header(index), chunk.clone()).expect("there is room");
        }
        let receiving = async {
            for _ in 0..CHUNKS {
                assert!(matches!(b.event().await, BulkEvent::Chunk { .. }));
            }
        };
        let sending = async {
            for _ in 0..CHUNKS {
                assert!(matches!(a.event().await, BulkEvent::ChunkDelivered { .. }));
            }
        };
        tokio::join!(receiving, sending);
        let megabytes = f64::from(CHUNKS) * chunk.len() as f64 / 1e6;
        let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!(
            "pass {pass}: {:.0} MB/s, {:.0} MB per core-second of sender and receiver together",
            megabytes / seconds,
            megabytes / cpu
        );
    }
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    // Fields 14 and 15 of proc(5), counted after the name; ticks are 1/100 s on Linux.
    (ticks(11) + ticks(12)) / 100.0
}
