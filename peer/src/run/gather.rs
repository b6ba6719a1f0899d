//! Fetches many blobs from several peers at once.
//!
//! Every donor is kept busy with a few blobs; what one fails to give is asked of
//! the others. A donor that sent something else than it was asked for is not
//! asked again; one that has nothing (yet) or cannot be reached gets a few more
//! chances, at growing intervals. At the end, who has nothing to do also asks
//! for what others are slow to give, so that a donor that hangs holds up nobody.

use crate::net::bulk::BlobError;
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesUnordered;
use manta_protocol::{Hash, PeerId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Blobs that are asked of one donor at a time: enough to fill a long link.
const FETCHES_PER_DONOR: usize = 4;
/// Failures in a row after which a donor is given up.
const STRIKES_MAX: u32 = 8;
/// How long a donor rests after a failure; that many times as long after so many in a row.
const REST: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });

/// Why not all blobs could be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GatherError {
    #[error("there is nobody to ask")]
    NoDonors,
    #[error("{missing} blobs could not be had from any of {donors} peers; the last, {}, said: {problem}", .last.short())]
    GivenUp { missing: usize, donors: usize, last: PeerId, problem: String },
}

/// Why one blob was not had.
#[derive(Debug)]
pub(crate) enum FetchFailure {
    /// The donor is at fault, or cannot help now.
    Donor(BlobError),
    /// This machine could not keep it: asking others is of no use.
    Here(String),
}

/// Why the gathering ended without all blobs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Donors(#[from] GatherError),
    #[error("{0}")]
    Here(String),
}

struct Donor {
    peer: PeerId,
    running: HashSet<Hash>,
    strikes: u32,
    state: DonorState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DonorState {
    Working,
    Resting,
    GivenUp,
}

enum Happened<T> {
    Fetched { donor: usize, hash: Hash, outcome: Result<T, FetchFailure> },
    Rested { donor: usize },
}

/// Has `fetch` get every one of `wanted` from some donor; gives what it made of them.
///
/// # Errors
/// [`Ended`] when all donors are given up, or this machine cannot keep what came.
pub(crate) async fn gather<'a, T: Send + 'a, F: Future<Output = Result<T, FetchFailure>> + Send + 'a>(
    donors: &[PeerId],
    wanted: impl IntoIterator<Item = Hash>,
    fetch: impl Fn(PeerId, Hash) -> F,
) -> Result<HashMap<Hash, T>, Ended> {
    let mut seen = HashSet::new();
    let mut queue: VecDeque<Hash> = wanted.into_iter().filter(|hash| seen.insert(*hash)).collect();
    let all = queue.len();
    let donor = |peer: &PeerId| Donor { peer: *peer, running: HashSet::new(), strikes: 0, state: DonorState::Working };
    let mut donors: Vec<Donor> = donors.iter().map(donor).collect();
    let mut got = HashMap::with_capacity(all);
    let mut happening: FuturesUnordered<BoxFuture<'a, Happened<T>>> = FuturesUnordered::new();
    let mut last = GatherError::NoDonors;
    while got.len() < all {
        for (index, hash) in share_out(&mut donors, &mut queue, &got) {
            let fetched = fetch(donors[index].peer, hash);
            happening.push(fetched.map(move |outcome| Happened::Fetched { donor: index, hash, outcome }).boxed());
        }
        let Some(happened) = happening.next().await else { return Err(last.into()) };
        let (index, hash, outcome) = match happened {
            Happened::Rested { donor } => {
                donors[donor].state = DonorState::Working;
                continue;
            }
            Happened::Fetched { donor, hash, outcome } => (donor, hash, outcome),
        };
        let elsewhere = donors.iter().enumerate().any(|(other, donor)| other != index && donor.running.contains(&hash));
        let donor_count = donors.len();
        let donor = &mut donors[index];
        donor.running.remove(&hash);
        match outcome {
            Ok(value) => {
                donor.strikes = 0;
                got.entry(hash).or_insert(value);
            }
            Err(FetchFailure::Here(problem)) => return Err(Ended::Here(problem)),
            Err(FetchFailure::Donor(problem)) => {
                tracing::debug!(peer = %donor.peer.short(), %problem, "a blob was not had");
                if !got.contains_key(&hash) && !elsewhere {
                    queue.push_front(hash);
                }
                last = GatherError::GivenUp {
                    missing: all - got.len(),
                    donors: donor_count,
                    last: donor.peer,
                    problem: problem.to_string(),
                };
                if donor.state != DonorState::Working {
                    continue;
                }
                donor.strikes += 1;
                let liar = matches!(problem, BlobError::Corrupt { .. } | BlobError::Malformed(_));
                if liar || donor.strikes > STRIKES_MAX {
                    tracing::warn!(peer = %donor.peer.short(), %problem, "a peer gives nothing and is not asked again");
                    donor.state = DonorState::GivenUp;
                } else {
                    donor.state = DonorState::Resting;
                    let rest = REST * donor.strikes;
                    happening.push(tokio::time::sleep(rest).map(move |()| Happened::Rested { donor: index }).boxed());
                }
            }
        }
    }
    Ok(got)
}

/// What each donor is to be asked now: first what nobody is asked for, in turn,
/// then, for the idle, what others have not given yet.
fn share_out<T>(donors: &mut [Donor], queue: &mut VecDeque<Hash>, got: &HashMap<Hash, T>) -> Vec<(usize, Hash)> {
    let mut asked = Vec::new();
    loop {
        let before = asked.len();
        for (index, donor) in donors.iter_mut().enumerate() {
            if donor.state == DonorState::Working
                && donor.running.len() < FETCHES_PER_DONOR
                && let Some(hash) = queue.pop_front()
            {
                donor.running.insert(hash);
                asked.push((index, hash));
            }
        }
        if asked.len() == before {
            break;
        }
    }
    let idle = |donor: &Donor| donor.state == DonorState::Working && donor.running.is_empty();
    while let Some(index) = donors.iter().position(idle) {
        let times = |hash: &Hash| donors.iter().filter(|donor| donor.running.contains(hash)).count();
        let slow = donors.iter().flat_map(|donor| &donor.running).copied();
        let Some(hash) = slow.filter(|hash| !got.contains_key(hash)).min_by_key(|hash| (times(hash), *hash)) else {
            break;
        };
        donors[index].running.insert(hash);
        asked.push((index, hash));
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const GOOD: PeerId = PeerId([1; 32]);
    const OTHER: PeerId = PeerId([2; 32]);
    const BAD: PeerId = PeerId([9; 32]);

    fn hashes(count: u8) -> Vec<Hash> {
        (0..count).map(|number| Hash([number; 32])).collect()
    }

    /// Asks donors who behave as `answer` says; gives what came, and how often each was asked.
    async fn run(
        donors: &[PeerId],
        count: u8,
        answer: impl Fn(PeerId, Hash, usize) -> Option<Result<u8, BlobError>> + Sync,
    ) -> (Result<HashMap<Hash, u8>, Ended>, HashMap<PeerId, usize>) {
        let asked = Mutex::new(HashMap::<PeerId, usize>::new());
        let fetch = |peer: PeerId, hash: Hash| {
            let times = {
                let mut asked = asked.lock().unwrap();
                let times = asked.entry(peer).or_default();
                *times += 1;
                *times
            };
            let answer = answer(peer, hash, times);
            async move {
                match answer {
                    Some(answer) => answer.map_err(FetchFailure::Donor),
                    None => std::future::pending().await,
                }
            }
        };
        let got = gather(donors, hashes(count), fetch).await;
        (got, asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn work_is_shared_and_a_liar_is_asked_no_more() {
        let lie = |hash: Hash| BlobError::Corrupt { expected: hash, found: Hash([0xee; 32]) };
        let (got, asked) = run(&[GOOD, BAD, OTHER], 40, |peer, hash, _| {
            Some(if peer == BAD { Err(lie(hash)) } else { Ok(hash.0[0]) })
        })
        .await;
        let got = got.unwrap();
        assert_eq!(got.len(), 40);
        assert!(got.iter().all(|(hash, value)| hash.0[0] == *value));
        assert!(asked[&BAD] <= FETCHES_PER_DONOR, "{asked:?}");
        assert!(asked[&GOOD] >= 10 && asked[&OTHER] >= 10, "{asked:?}");
    }

    #[tokio::test]
    async fn a_donor_that_hangs_holds_up_nobody() {
        let (got, _) = run(&[BAD, GOOD], 20, |peer, _, _| (peer == GOOD).then_some(Ok(0))).await;
        assert_eq!(got.unwrap().len(), 20);
    }

    #[tokio::test]
    async fn a_donor_that_has_nothing_yet_is_asked_again() {
        let not_yet = |hash| BlobError::NotAvailable(hash);
        let (got, _) =
            run(&[GOOD], 3, |_, hash, times| Some(if times <= 6 { Err(not_yet(hash)) } else { Ok(1) })).await;
        assert_eq!(got.unwrap().len(), 3);
        let (got, asked) = run(&[GOOD, OTHER], 3, |_, hash, _| Some(Err(not_yet(hash)))).await;
        let problem = got.unwrap_err().to_string();
        assert!(problem.contains("3 blobs") && problem.contains("does not have"), "{problem}");
        assert!(asked.values().sum::<usize>() < 100, "{asked:?}");
        assert_eq!(run(&[], 1, |_, _, _| None).await.0, Err(Ended::Donors(GatherError::NoDonors)));
        assert_eq!(run(&[], 0, |_, _, _| None).await.0, Ok(HashMap::new()));
    }
}
