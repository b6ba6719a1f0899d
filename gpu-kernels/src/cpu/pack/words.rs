//! Words that start at a cache line, so that no vector of them lies across two.

use std::ops::{Deref, DerefMut};

/// Words of a cache line.
const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

/// A growable slice of words.
#[derive(Default)]
pub(crate) struct Words {
    /// As many as were ever needed: filling them again would be a pass over memory for nothing.
    lines: Vec<Line>,
    length: usize,
}

impl Words {
    /// Changes the length; words hold anything that they held before, or 0.
    pub(crate) fn resize(&mut self, length: usize) {
        let lines = length.div_ceil(LINE);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; LINE]));
        }
        self.length = length;
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
        // SAFETY: a line is 16 words and nothing else, and there are lines for this length.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and the lines are borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_start_at_a_line_and_keep_what_they_held() {
        let mut words = Words::default();
        assert!(words.is_empty());
        for length in [16, 4096, 33, 65_537] {
            words.resize(length);
            assert_eq!((words.len(), words.as_ptr() as usize % 64), (length, 0));
            words[length - 1] = length as u32;
        }
        assert_eq!([words[15], words[4095], words[32], words[4096]], [16, 4096, 33, 0]);
    }
}
