//! What a thread remembers of verifications: for hosts that run many nodes.
//!
//! Whether a signature fits its signer, and what a proof of an election proves,
//! follows from the bytes alone. Where dozens of nodes share a thread, as in a
//! simulation, each of them verifies what the others have verified; within
//! [`remembering`] the same bytes are verified once. Outside of it nothing is
//! remembered: a peer never calls it, and verifies everything itself.
//!
//! Invariant: an answer is that of the whole check, kept under a hash of all that
//! the check looks at. So a history with memory is the history without it.

use crate::ids::{Hash, VrfOutput};
use std::cell::RefCell;
use std::collections::BTreeMap;

const CONTEXT: &str = "manta 2026-11 remembered verification v1";

thread_local! {
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// Two generations of answers: the elder is dropped once the younger is full.
struct Memory {
    answers_max: usize,
    younger: BTreeMap<Hash, Answer>,
    elder: BTreeMap<Hash, Answer>,
}

#[derive(Clone, Copy)]
enum Answer {
    Signature(bool),
    Proof(Option<VrfOutput>),
}

impl Memory {
    fn get(&self, question: &Hash) -> Option<Answer> {
        self.younger.get(question).or_else(|| self.elder.get(question)).copied()
    }

    fn put(&mut self, question: Hash, answer: Answer) {
        if self.younger.len() >= self.answers_max {
            self.elder = std::mem::take(&mut self.younger);
        }
        self.younger.insert(question, answer);
    }
}

/// Does `work`; what is verified meanwhile on this thread is remembered until it
/// is done: up to twice `answers_max` verifications, of about 150 bytes each.
///
/// What an enclosing call has remembered is put aside until then.
pub fn remembering<T>(answers_max: usize, work: impl FnOnce() -> T) -> T {
    /// Puts back what was there before, also when `work` panics.
    struct Before(Option<Memory>);
    impl Drop for Before {
        fn drop(&mut self) {
            MEMORY.set(self.0.take());
        }
    }
    let memory = Memory { answers_max, younger: BTreeMap::new(), elder: BTreeMap::new() };
    let _before = Before(MEMORY.replace(Some(memory)));
    work()
}

/// Whether a signature fits, remembered or found by `check`, which looks at nothing but `parts`.
pub(crate) fn signature(parts: [&[u8]; 3], check: impl FnOnce() -> bool) -> bool {
    match asked(0, &parts) {
        Some((_, Some(Answer::Signature(answer)))) => answer,
        Some((question, _)) => {
            let answer = check();
            keep(question, Answer::Signature(answer));
            answer
        }
        None => check(),
    }
}

/// What a proof proves, remembered or found by `check`, which looks at nothing but `parts`.
pub(crate) fn proof(parts: [&[u8]; 3], check: impl FnOnce() -> Option<VrfOutput>) -> Option<VrfOutput> {
    match asked(1, &parts) {
        Some((_, Some(Answer::Proof(answer)))) => answer,
        Some((question, _)) => {
            let answer = check();
            keep(question, Answer::Proof(answer));
            answer
        }
        None => check(),
    }
}

/// The name of a question and its answer, if it was asked before; `None` where
/// nothing is remembered. Each part is led by its length, so that no two lists of
/// parts have one name.
fn asked(kind: u8, parts: &[&[u8]]) -> Option<(Hash, Option<Answer>)> {
    MEMORY.with_borrow(|memory| {
        let memory = memory.as_ref()?;
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&[kind]);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let question = Hash(*hasher.finalize().as_bytes());
        Some((question, memory.get(&question)))
    })
}

fn keep(question: Hash, answer: Answer) {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(memory) = memory {
            memory.put(question, answer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Asks, and tells whether the check was done.
    fn ask(parts: [&[u8]; 3], answer: bool) -> (bool, bool) {
        let done = Cell::new(false);
        let found = signature(parts, || {
            done.set(true);
            answer
        });
        (found, done.get())
    }

    #[test]
    fn only_the_very_same_bytes_are_answered_from_memory_and_only_inside() {
        let parts: [&[u8]; 3] = [b"key", b"digest", b"signature"];
        remembering(8, || {
            assert_eq!(ask(parts, true), (true, true));
            assert_eq!(ask(parts, false), (true, false));
            for other in [[&b"keyd"[..], b"igest", b"signature"], [b"", b"keydigest", b"signature"]] {
                assert_eq!(ask(other, false), (false, true), "the same bytes, cut elsewhere");
            }
            assert_eq!(proof(parts, || Some(VrfOutput([7; 64]))), Some(VrfOutput([7; 64])), "another check");
            assert_eq!(proof(parts, || None), Some(VrfOutput([7; 64])));
            assert_eq!(remembering(8, || ask(parts, false)), (false, true), "a memory of its own");
            assert_eq!(ask(parts, false), (true, false), "as before");
        });
        assert_eq!(ask(parts, false), (false, true), "nothing is remembered outside");
        assert_eq!(ask(parts, true), (true, true));
    }

    #[test]
    fn the_memory_is_bounded_and_drops_the_eldest() {
        remembering(4, || {
            for number in 0u8..100 {
                assert_eq!(ask([&[number], b"", b""], true), (true, true));
                let kept = MEMORY.with_borrow(|memory| {
                    memory.as_ref().map_or(0, |memory| memory.younger.len() + memory.elder.len())
                });
                assert!(kept <= 8, "{kept} answers");
            }
            assert_eq!(ask([&[99], b"", b""], false), (true, false));
            assert_eq!(ask([&[0], b"", b""], false), (false, true));
        });
    }
}
