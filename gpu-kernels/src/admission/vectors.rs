//! Inputs that tell one arithmetic from another.

use crate::arithmetic::canon;
use crate::cpu::random::mix;

/// Numbers with full mantissas and exponents from `low` to `high`, of both
/// signs, with a zero now and then.
pub(crate) fn spread(count: usize, seed: u32, low: i32, high: i32) -> Vec<f32> {
    let span = (high - low + 1) as u32;
    (0..count as u32)
        .map(|index| {
            let (bits, choice) = (mix([seed, 0x51ed], index), mix([seed, 0xc0de], index));
            let field = (127 + low) as u32 + choice % span;
            let value = f32::from_bits(bits & 0x807f_ffff | field << 23);
            if choice >> 16 & 15 == 3 { 0.0 } else { value }
        })
        .collect()
}

/// Ordinary numbers: from 2⁻⁸ to 2.
pub(crate) fn ordinary(count: usize, seed: u32) -> Vec<f32> {
    spread(count, seed, -8, 0)
}

/// Halves, and their neighbours, of the steps to which rows with a largest
/// element of 127/64 (one digit) or 1 + 2⁻⁷ (two) are rounded, so that ties
/// and directions of rounding show.
pub(crate) fn ties(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|index| {
            let random = mix([seed, 0x7135], index);
            let half_steps = (random % 253) as i32 - 126;
            let (value, nudge) = (half_steps as f32 / 128.0, random >> 8 & 3);
            let fine = if random >> 12 & 1 == 1 { value / 128.0 } else { value };
            let bits = fine.to_bits();
            let moved = match nudge {
                0 => bits.wrapping_add(1),
                1 if bits != 0 => bits - 1,
                _ => bits,
            };
            canon(f32::from_bits(moved))
        })
        .collect()
}

/// Numbers just above the flushing threshold, zeros, and powers of two.
pub(crate) fn faint(count: usize, seed: u32) -> Vec<f32> {
    spread(count, seed, -100, -97)
}

/// Tokens under `vocab_size`.
pub(crate) fn tokens(count: usize, seed: u32, vocab_size: usize) -> Vec<u32> {
    (0..count as u32).map(|index| mix([seed, 0x70ce], index) % vocab_size as u32).collect()
}
