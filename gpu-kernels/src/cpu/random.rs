//! Counter-based random bits: a keyed integer hash of an element's index.
//!
//! Keys come from blake3 on the host; the hash itself is a few 32-bit
//! operations that a shader does alike.

/// The two words that key the hash for one tensor in one place of the step.
pub(crate) type Key = [u32; 2];

/// 32 random bits for element `index`: the finaliser lowbias32 (Wellons) with
/// one key word added before and one between its rounds.
#[inline(always)]
pub(crate) fn mix(key: Key, index: u32) -> u32 {
    let mut x = index.wrapping_add(key[0]);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x = x.wrapping_add(key[1]);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

/// Reads a key from the first 8 bytes of a hash, little endian.
pub(crate) fn key_from(bytes: &[u8; 8]) -> Key {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_pin_the_hash() {
        assert_eq!(mix([0, 0], 0), 0);
        // With a zero key this is lowbias32 itself.
        let lowbias32 = |mut x: u32| {
            x ^= x >> 16;
            x = x.wrapping_mul(0x7feb_352d);
            x ^= x >> 15;
            x = x.wrapping_mul(0x846c_a68b);
            x ^ x >> 16
        };
        for index in [1, 2, 77, u32::MAX] {
            assert_eq!(mix([0, 0], index), lowbias32(index));
        }
        assert_eq!(key_from(&[1, 0, 0, 0, 2, 0, 0, 1]), [1, 0x0100_0002]);
    }

    #[test]
    fn bits_are_balanced_and_uncorrelated() {
        let count = 1 << 16;
        let keys = [[0x1234_5678, 0x9abc_def0], [0x1234_5679, 0x9abc_def0], [7, 0x55aa_55aa]];
        let limit = 5.0 * (count as f64).sqrt() / 2.0;
        let deviation = |ones: usize| (ones as f64 - f64::from(count) / 2.0).abs();
        for (a, &key) in keys.iter().enumerate() {
            for bit in 0..32 {
                let ones = (0..count as u32).filter(|&index| mix(key, index) >> bit & 1 == 1).count();
                assert!(deviation(ones) < limit, "key {a} bit {bit}: {ones}");
                let pairs = (0..count as u32).filter(|&i| (mix(key, i) ^ mix(key, i + 1)) >> bit & 1 == 1).count();
                assert!(deviation(pairs) < limit, "key {a} bit {bit}: {pairs} neighbours differ");
                let other = keys[(a + 1) % keys.len()];
                let crossed = (0..count as u32).filter(|&i| (mix(key, i) ^ mix(other, i)) >> bit & 1 == 1).count();
                assert!(deviation(crossed) < limit, "keys {a} bit {bit}: {crossed}");
            }
        }
    }
}
