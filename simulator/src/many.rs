//! Many seeds, on several threads: each history is a thread's own, so that what
//! comes out does not depend on how many threads there are.

use crate::options::Options;
use crate::report::Summary;
use crate::world::simulate;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Simulates the seeds `first`, `first` + 1 … on `threads` threads and hands
/// their summaries to `see` in the order of the seeds, until it has seen
/// `count` or returns `false`.
///
/// # Errors
/// The options do not go together for one of the seeds.
pub fn simulate_many(
    options: &Options,
    count: u64,
    threads: usize,
    see: impl FnMut(Summary) -> bool + Send,
) -> Result<(), String> {
    let one = |seed| simulate(&Options { seed, ..options.clone() }, None);
    in_order(options.seed, count, threads, one, see)
}

/// Does `one` for the seeds `first`, `first` + 1 … on `threads` threads and hands
/// what comes out to `see` in the order of the seeds, until it has seen `count`
/// or returns `false`.
///
/// # Errors
/// The first error of `one`.
pub fn in_order<S: Send>(
    first: u64,
    count: u64,
    threads: usize,
    one: impl Fn(u64) -> Result<S, String> + Sync,
    mut see: impl FnMut(S) -> bool + Send,
) -> Result<(), String> {
    struct Seen<'a, S> {
        next: u64,
        waiting: BTreeMap<u64, Result<S, String>>,
        see: &'a mut (dyn FnMut(S) -> bool + Send),
        error: Option<String>,
    }
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let seen = Mutex::new(Seen { next: 0, waiting: BTreeMap::new(), see: &mut see, error: None });
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let summary = one(first.wrapping_add(index));
            let mut guard = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let seen = &mut *guard;
            // Another thread may have seen the last while this one was at work.
            if stop.load(Ordering::Relaxed) {
                return;
            }
            seen.waiting.insert(index, summary);
            while let Some(summary) = seen.waiting.remove(&seen.next).filter(|_| seen.error.is_none()) {
                seen.next += 1;
                match summary {
                    Ok(summary) => {
                        if !(seen.see)(summary) {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(error) => {
                        stop.store(true, Ordering::Relaxed);
                        seen.error = Some(error);
                    }
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads.max(1)).for_each(|_| drop(scope.spawn(work))));
    let seen = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    seen.error.map_or(Ok(()), Err)
}
