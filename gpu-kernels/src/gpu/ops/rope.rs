//! Launcher of `rope`.

use super::{GROUP_ROWS, elementwise, word};
use crate::buffers::Buffer;
use crate::cpu::rope::Turn;
use crate::gpu::kernel::Kernel;
use crate::gpu::program::Dispatch;

/// Heads of a token that eight threads move.
const PIECE: usize = 4;

/// Heads side by side in token rows.
#[derive(Clone, Copy)]
pub(crate) struct HeadLayout {
    pub(crate) sequences: usize,
    pub(crate) length: usize,
    pub(crate) head_dim: usize,
    pub(crate) heads: usize,
    /// Elements in a token row of the joint matrix.
    pub(crate) row_width: usize,
    /// Where the first head starts in a token row.
    pub(crate) first: usize,
}

impl HeadLayout {
    /// Token rows → `[sequence][head][position][head_dim]`.
    pub(crate) fn split(&self, angles: &Buffer, turn: Turn, rows: &Buffer, heads: &Buffer, slot: u32) -> Dispatch {
        self.launch(angles, turn, [rows, heads], false, slot)
    }

    /// `[sequence][head][position][head_dim]` → token rows.
    pub(crate) fn merge(&self, angles: &Buffer, turn: Turn, heads: &Buffer, rows: &Buffer, slot: u32) -> Dispatch {
        self.launch(angles, turn, [heads, rows], true, slot)
    }

    fn launch(&self, angles: &Buffer, turn: Turn, [from, to]: [&Buffer; 2], merge: bool, slot: u32) -> Dispatch {
        let tokens = self.sequences * self.length;
        let (rows, heads) = if merge { (to, from) } else { (from, to) };
        assert!(tokens * self.row_width <= rows.len && tokens * self.heads * self.head_dim <= heads.len);
        assert!(self.first + self.heads * self.head_dim <= self.row_width);
        assert!(turn == Turn::Not || self.length * self.head_dim <= angles.len);
        let pieces = self.heads.div_ceil(PIECE);
        let turn = match turn {
            Turn::Not => 0,
            Turn::Forward => 1,
            Turn::Backward => 2,
        };
        let params = vec![
            word(tokens * pieces),
            word(pieces),
            word(self.length),
            word(self.head_dim),
            word(self.heads),
            word(self.row_width),
            word(self.first),
            turn,
            u32::from(merge),
            slot,
        ];
        let buffers = vec![from.clone(), angles.clone(), to.clone()];
        let elements = tokens * self.heads * self.head_dim;
        let (groups, operations) = ((tokens * pieces).div_ceil(GROUP_ROWS), elementwise(elements));
        Dispatch { kernel: Kernel::Rope, params, buffers, groups, operations }
    }
}
