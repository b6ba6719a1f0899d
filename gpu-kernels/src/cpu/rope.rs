//! Rotary position embedding (Su et al., 2021), Hugging Face's half-split pairs.
//!
//! Element i of a head is paired with element i + width/2 and turned by
//! position · θ^(−2i/width). Angles, cosines and sines come from f64 basic
//! operations and are rounded once, so every machine has the same table.

use super::rows::{RowPeaks, TASK_ROWS, Written};
use super::simd::Simd;
use crate::arithmetic::{add, from_host, mul};
use crate::model::config::{ModelConfig, RopeScaling};
use rayon::prelude::*;
use std::ops::Range;

/// π/2 in two parts; the first has 20 trailing zero bits, so its product with a
/// turn count under 2²⁰ is exact.
const HALF_PI_HEAD: f64 = f64::from_bits(0x3ff9_21fb_5440_0000);
const HALF_PI_TAIL: f64 = f64::from_bits(0x3dd0_b461_1a62_6331);
const TWO_OVER_PI: f64 = std::f64::consts::FRAC_2_PI;

/// Cosines and sines for positions 0, 1, …, as far as they were needed.
pub(crate) struct Rotary {
    frequencies: Vec<f64>,
    /// `[position][pair]`
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Rotary {
    pub(crate) fn new(head_dim: usize, theta: f32) -> Self {
        Self { frequencies: frequencies(head_dim / 2, f64::from(theta)), cosines: Vec::new(), sines: Vec::new() }
    }

    /// The table of a valid model.
    pub(crate) fn of(model: &ModelConfig) -> Self {
        let mut rotary = Self::new(model.head_dim, model.rope_theta);
        if let Some(scaling) = &model.rope_scaling {
            rotary.frequencies.iter_mut().for_each(|frequency| *frequency = scaled(*frequency, scaling));
        }
        rotary
    }

    /// Positions of the table.
    pub(crate) fn positions(&self) -> usize {
        self.cosines.len() / self.frequencies.len()
    }

    /// `[position][pair]` of (cosine, sine), as far as the table was computed.
    pub(crate) fn angles(&self) -> impl Iterator<Item = (f32, f32)> {
        self.cosines.iter().copied().zip(self.sines.iter().copied())
    }

    /// Computes the table up to `positions`.
    pub(crate) fn extend_to(&mut self, positions: usize) {
        for position in self.positions()..positions {
            for &frequency in &self.frequencies {
                let (sine, cosine) = sine_cosine(position as f64 * frequency);
                self.cosines.push(from_host(cosine));
                self.sines.push(from_host(sine));
            }
        }
    }
}

/// θ^(−i/pairs) for i = 0, 1, …: powers of the root found by bisection.
fn frequencies(pairs: usize, theta: f64) -> Vec<f64> {
    let power = |base: f64| (0..pairs).fold(1.0, |product, _| product * base);
    let target = 1.0 / theta;
    let (mut low, mut high) = (0.0, 1.0);
    // Stops when no number lies between.
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if power(middle) < target {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut frequency = 1.0;
    (0..pairs)
        .map(|_| {
            let current = frequency;
            frequency *= high;
            current
        })
        .collect()
}

/// A frequency (radians a position) under [`RopeScaling`].
fn scaled(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::Linear { factor } => frequency / f64::from(factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
            let slow = frequency / f64::from(factor);
            let turns = original_max_position_embeddings as f64 * frequency * (0.25 * TWO_OVER_PI);
            if turns < low {
                return slow;
            }
            if turns > high {
                return frequency;
            }
            let smooth = (turns - low) / (high - low);
            (1.0 - smooth) * slow + smooth * frequency
        }
    }
}

/// Sine and cosine for 0 ≤ angle < 2²⁰, within 10⁻¹⁵ plus 2⁻⁵² of the angle.
pub(crate) fn sine_cosine(angle: f64) -> (f64, f64) {
    let turns = (angle * TWO_OVER_PI + 0.5) as i64;
    let r = (angle - turns as f64 * HALF_PI_HEAD) - turns as f64 * HALF_PI_TAIL;
    let square = r * r;
    // Taylor series in Horner form; the next terms are under 10⁻¹⁷ for |r| ≤ π/4.
    let series = |first: i32| {
        (0..8).rev().fold(1.0, |value, term| {
            let n = f64::from(first + 2 * term);
            1.0 - square * value / (n * (n + 1.0))
        })
    };
    let (sine, cosine) = (r * series(2), series(1));
    match turns & 3 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

/// Positions that one task takes out of token rows.
const TASK_POSITIONS: usize = 64;

/// Heads side by side in token rows, and where the parts lie in them.
#[derive(Clone, Copy)]
pub(crate) struct HeadLayout {
    pub(crate) simd: Simd,
    /// Tokens in a sequence.
    pub(crate) length: usize,
    pub(crate) head_dim: usize,
    pub(crate) heads: usize,
    /// Elements in a token row of the joint matrix.
    pub(crate) row_width: usize,
    /// Where the first head starts in a token row.
    pub(crate) first: usize,
}

/// What happens to each pair on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Copy unchanged (values and attention outputs).
    Not,
    /// By the position's angle.
    Forward,
    /// By its negative: the gradient's way back.
    Backward,
}

impl HeadLayout {
    /// Token rows → `[sequence][head][position][head_dim]`; the largest magnitude written.
    pub(crate) fn split(&self, rotary: &Rotary, turn: Turn, rows: &[f32], heads: &mut [f32]) -> u32 {
        let strides = (self.row_width, self.head_dim);
        let heads = heads.par_chunks_mut(self.length * self.head_dim).enumerate();
        let peaks = heads.flat_map(|(index, head)| {
            let (sequence, number) = (index / self.heads, index % self.heads);
            let blocks = head.par_chunks_mut(TASK_POSITIONS * self.head_dim).enumerate();
            blocks.map(move |(block, head)| {
                let position = block * TASK_POSITIONS;
                let token = sequence * self.length + position;
                let rows = &rows[token * self.row_width + self.first + number * self.head_dim..];
                let positions = position..position + head.len() / self.head_dim;
                turn_rows(self.simd, rotary, turn, (positions, self.head_dim), rows, head, strides)
            })
        });
        peaks.reduce(|| 0, u32::max)
    }

    /// `[sequence][head][position][head_dim]` → token row number `token`; the largest magnitude written.
    #[inline(always)]
    fn merge_row(&self, rotary: &Rotary, turn: Turn, heads: &[f32], token: usize, row: &mut [f32]) -> u32 {
        let (sequence, position) = (token / self.length, token % self.length);
        let (first, apart) = (sequence * self.heads * self.length + position, self.length * self.head_dim);
        let heads = &heads[first * self.head_dim..];
        let mut peak = 0;
        for (number, to) in row[self.first..].chunks_exact_mut(self.head_dim).take(self.heads).enumerate() {
            let from = &heads[number * apart..][..self.head_dim];
            peak = turn_row(rotary, turn, position, from, to).max(peak);
        }
        peak
    }
}

/// Heads → token rows; tells the largest magnitudes in each row. `parts` are side by side in a row and make all of it.
pub(crate) fn merge<'a, const PARTS: usize>(
    rotary: &'a Rotary,
    parts: [(HeadLayout, Turn, &'a [f32]); PARTS],
    rows: &'a mut [f32],
) -> impl Written<'a> {
    let row_width = parts[0].0.row_width;
    rows.par_chunks_mut(TASK_ROWS * row_width).enumerate().map(move |(task, rows)| {
        let peaks = merge_rows(parts[0].0.simd, rotary, &parts, task * TASK_ROWS, rows);
        (&*rows, peaks, ())
    })
}

dispatch! {
    fn merge_rows(rotary: &Rotary, parts: &[(HeadLayout, Turn, &[f32])], token: usize, rows: &mut [f32]) -> RowPeaks {
        let mut peaks = RowPeaks::default();
        let row_width = parts[0].0.row_width;
        for (number, (row, peak)) in rows.chunks_exact_mut(row_width).zip(&mut peaks).enumerate() {
            for (layout, turn, heads) in parts {
                *peak = layout.merge_row(rotary, *turn, heads, token + number, row).max(*peak);
            }
        }
        peaks
    }
}

/// to = a·cosine + b·(±sine), the sign given as a bit.
#[inline(always)]
fn turn_half([a, b]: [&[f32]; 2], [cosines, sines]: [&[f32]; 2], sign: u32, to: &mut [f32]) {
    let pairs = a.iter().zip(b).zip(cosines.iter().zip(sines));
    for (((&a, &b), (&cosine, &sine)), to) in pairs.zip(to) {
        *to = add(mul(a, cosine), mul(b, f32::from_bits(sine.to_bits() ^ sign)));
    }
}

/// One head of one position; the largest magnitude written.
#[inline(always)]
fn turn_row(rotary: &Rotary, turn: Turn, position: usize, from: &[f32], to: &mut [f32]) -> u32 {
    if turn == Turn::Not {
        to.copy_from_slice(from);
    } else {
        let half = to.len() / 2;
        let table = [&rotary.cosines, &rotary.sines].map(|table| &table[position * half..][..half]);
        let (x, y) = from.split_at(half);
        let (to_x, to_y) = to.split_at_mut(half);
        let sign = if turn == Turn::Forward { 0 } else { 1 << 31 };
        // One output at a time: the compiler sees that nothing overlaps, and vectorises.
        turn_half([x, y], table, 1 << 31 ^ sign, to_x);
        turn_half([y, x], table, sign, to_y);
    }
    crate::arithmetic::peak(to)
}

dispatch! {
    fn turn_rows(
        rotary: &Rotary,
        turn: Turn,
        shape: (Range<usize>, usize),
        from: &[f32],
        to: &mut [f32],
        strides: (usize, usize),
    ) -> u32 {
        let ((positions, width), (from_stride, to_stride)) = (shape, strides);
        let mut peak = 0;
        for (row, position) in positions.enumerate() {
            let (from, to) = (&from[row * from_stride..][..width], &mut to[row * to_stride..][..width]);
            peak = turn_row(rotary, turn, position, from, to).max(peak);
        }
        peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::magnitude;
    use crate::cpu::rows::peak_of;

    #[test]
    fn table_agrees_with_the_library() {
        for (head_dim, theta, positions) in [(32, 10_000.0f32, 300usize), (2, 1.0, 5), (10, 500_000.0, 300)] {
            let mut rotary = Rotary::new(head_dim, theta);
            rotary.extend_to(positions / 2);
            rotary.extend_to(positions);
            let pairs = head_dim / 2;
            assert_eq!(rotary.cosines.len(), positions * pairs);
            for position in 0..positions {
                for pair in 0..pairs {
                    let frequency = f64::from(theta).powf(-2.0 * pair as f64 / head_dim as f64);
                    let angle = position as f64 * frequency;
                    let at = position * pairs + pair;
                    assert!((f64::from(rotary.cosines[at]) - angle.cos()).abs() < 1e-7, "{position} {pair}");
                    assert!((f64::from(rotary.sines[at]) - angle.sin()).abs() < 1e-7, "{position} {pair}");
                }
            }
        }
    }

    #[test]
    fn frequencies_are_scaled_as_stated() {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let turn = std::f64::consts::TAU / 8192.0;
        // Half a turn, the edges of the transition, its middle, and many turns.
        for (turns, expected) in
            [(0.5, 0.5 / 8.0), (1.0, 1.0 / 8.0), (2.5, 0.5 * 2.5 / 8.0 + 0.5 * 2.5), (4.0, 4.0), (99.0, 99.0)]
        {
            let found = scaled(turns * turn, &llama3) / turn;
            assert!((found - expected).abs() < 1e-12 * expected, "{turns} turns: {found}, expected {expected}");
        }
        assert_eq!(scaled(0.75, &RopeScaling::Linear { factor: 3.0 }), 0.25);
    }

    #[test]
    fn sine_and_cosine_hold_at_large_angles() {
        for step in 0..20_000u32 {
            let angle = f64::from(step) * 6.553_217;
            let (sine, cosine) = sine_cosine(angle);
            assert!((sine - angle.sin()).abs() < 1e-10 && (cosine - angle.cos()).abs() < 1e-10, "{angle}");
        }
    }

    #[test]
    fn turning_back_undoes_a_turn() {
        let mut rotary = Rotary::new(6, 100.0);
        rotary.extend_to(7);
        let simd = crate::SimdPath::Auto.resolve().unwrap();
        let layout = HeadLayout { simd, length: 7, head_dim: 6, heads: 3, row_width: 20, first: 2 };
        let rows: Vec<f32> = (0..2 * 7 * 20).map(|i| (i % 37) as f32 - 18.0).collect();
        let (mut heads, mut back) = (vec![9.0; 2 * 3 * 7 * 6], rows.clone());
        layout.split(&rotary, Turn::Forward, &rows, &mut heads);
        assert_ne!(heads[6], rows[22], "position 1 must have been turned");
        // There are 14 rows, fewer than a task's.
        let peak = peak_of(merge(&rotary, [(layout, Turn::Backward, &heads)], &mut back));
        assert!(peak >= magnitude(17.9));
        for (at, (&x, &y)) in rows.iter().zip(&back).enumerate() {
            assert!((x - y).abs() < 1e-4, "element {at}: {x} {y}");
        }
    }
}
