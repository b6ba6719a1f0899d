//! Operands and folds of gemm units, twin of `gemm_operand` and `gemm_fold`.

use super::random::{Key, mix};

dispatch! {
    /// Draws integers from −127 to 127, four from each word of the hash from word
    /// `first` on, the lowest byte first. −128 becomes −127.
    pub(crate) fn draw(key: Key, first: u32, integers: &mut [f32]) {
        let mut words = [0u32; 64];
        let mut start = first;
        for integers in integers.chunks_mut(4 * words.len()) {
            for (place, word) in words.iter_mut().enumerate() {
                *word = mix(key, start.wrapping_add(place as u32));
            }
            for (four, word) in integers.chunks_mut(4).zip(&words) {
                for (integer, byte) in four.iter_mut().zip(word.to_le_bytes()) {
                    *integer = f32::from((byte as i8).max(-127));
                }
            }
            start = start.wrapping_add(words.len() as u32);
        }
    }
}

dispatch! {
    /// The fold of a row of exact integers: the wrapping sum over columns j of the
    /// hash of j under the keys `key` and the element's bits in two's complement.
    pub(crate) fn fold(key: u32, row: &[f32]) -> u32 {
        let mut sum = 0u32;
        for (column, &element) in (0u32..).zip(row) {
            sum = sum.wrapping_add(mix([key, element as i32 as u32], column));
        }
        sum
    }
}
