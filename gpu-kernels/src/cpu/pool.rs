//! The engine's own threads and the scratch memory of each.

use crate::error::EngineError;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A pool of N threads with one `S` for each.
pub(crate) struct Pool<S> {
    threads: rayon::ThreadPool,
    scratch: Vec<Mutex<S>>,
}

impl<S: Default + Send> Pool<S> {
    /// Starts `threads` threads; 0 means one for each processor.
    pub(crate) fn new(threads: usize) -> Result<Self, EngineError> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("kernel-{index}"))
            .build()
            .map_err(|error| EngineError::Threads { problem: error.to_string() })?;
        let scratch = (0..threads.current_num_threads()).map(|_| Mutex::default()).collect();
        Ok(Self { threads, scratch })
    }

    /// Number of threads.
    pub(crate) fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Runs `work` inside the pool.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }

    /// The scratch memory of the calling pool thread. Must not be asked for
    /// again while it is held, nor held across parallel work.
    pub(crate) fn scratch(&self) -> MutexGuard<'_, S> {
        let index = self.threads.current_thread_index().unwrap_or(0);
        // Scratch holds nothing between uses, so a panic elsewhere does not spoil it.
        self.scratch[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
