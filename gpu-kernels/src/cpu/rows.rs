//! Rows as row-wise ops write them: a panel at a time, so that they can be packed while they are in the cache.

use super::pack::PANEL;
use rayon::prelude::*;

/// Rows that one task of a row-wise op writes: those that are packed together.
pub(crate) const TASK_ROWS: usize = PANEL;

/// The largest magnitude in each row of a task; 0 behind the last one.
pub(crate) type RowPeaks = [u32; TASK_ROWS];

/// The tasks of a row-wise op, in order. Each writes its rows when it is run, and tells their largest magnitudes and what
/// else the op has to say.
pub(crate) trait Written<'a, T: Send = ()>: IndexedParallelIterator<Item = (&'a [f32], RowPeaks, T)> {}

impl<'a, T: Send, I: IndexedParallelIterator<Item = (&'a [f32], RowPeaks, T)>> Written<'a, T> for I {}

/// The largest of all.
pub(crate) fn largest(peaks: &[u32]) -> u32 {
    peaks.iter().copied().fold(0, u32::max)
}

/// Runs all tasks; the largest magnitude of all.
pub(crate) fn peak_of<'a>(written: impl Written<'a>) -> u32 {
    written.map(|(_, peaks, ())| largest(&peaks)).reduce(|| 0, u32::max)
}
