//! Words that start at a cache line, so that no vector of them lies across two.

use std::ops::{Deref, DerefMut};

/// Words of a cache line.
const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

/// A growable slice of words; its length is a multiple of 16.
#[derive(Default)]
pub(crate) struct Words {
    lines: Vec<Line>,
}

impl Words {
    /// Changes the length to `words`, a multiple of 16; new words are 0.
    pub(crate) fn resize(&mut self, words: usize) {
        debug_assert!(words.is_multiple_of(LINE));
        self.lines.resize(words / LINE, Line([0; LINE]));
    }

    /// Makes room for `words` in all, a multiple of 16, and for no more.
    pub(crate) fn reserve_exact(&mut self, words: usize) {
        debug_assert!(words.is_multiple_of(LINE));
        self.lines.reserve_exact((words / LINE).saturating_sub(self.lines.len()));
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: a line is 16 words and nothing else, for its size is a multiple of its alignment.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * LINE) }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and the lines are borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * LINE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_start_at_a_line_and_keep_what_they_held() {
        let mut words = Words::default();
        assert!(words.is_empty());
        for length in [16, 4096, 32, 65_536] {
            words.resize(length);
            assert_eq!((words.len(), words.as_ptr() as usize % 64), (length, 0));
            assert_eq!(words[length - 1], 0);
            words[15] = 7;
        }
        assert_eq!(words[15], 7);
    }
}
