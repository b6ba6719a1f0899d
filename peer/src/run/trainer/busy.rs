//! Whether the trainer works, for those who compute only while it does not.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Shared by the trainer, who sets it, and those who wait.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    busy: Mutex<bool>,
    idle: Condvar,
}

impl Busy {
    pub(crate) fn set(&self, busy: bool) {
        *self.lock() = busy;
        if !busy {
            self.idle.notify_all();
        }
    }

    /// Waits until the trainer is idle, or for `at_most`; whether it is idle.
    pub(crate) fn wait_idle(&self, at_most: Duration) -> bool {
        let waited = self.idle.wait_timeout_while(self.lock(), at_most, |busy| *busy);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
