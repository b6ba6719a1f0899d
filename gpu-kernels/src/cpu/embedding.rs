//! Embedding look-up, and its gradient by sorted segments.
//!
//! The gradient of a token's row is the sum over the places where the token
//! stands, added in order of place: no atomics, any number of threads.

use super::reduce::add_assign;
use super::simd::Simd;
use rayon::prelude::*;

/// Copies the row of each token.
pub(crate) fn gather(table: &[f32], tokens: &[u32], width: usize, out: &mut [f32]) {
    out.par_chunks_mut(width).zip(tokens).for_each(|(out, &token)| {
        let start = token as usize * width;
        out.copy_from_slice(&table[start..start + width]);
    });
}

/// Places of each token, as offsets into one list sorted by (token, place).
#[derive(Default)]
pub(crate) struct Segments {
    offsets: Vec<u32>,
    places: Vec<u32>,
}

impl Segments {
    /// Sorts `tokens` (all under `vocab_size`) by counting.
    pub(crate) fn sort(&mut self, tokens: &[u32], vocab_size: usize) {
        self.offsets.clear();
        self.offsets.resize(vocab_size + 1, 0);
        for &token in tokens {
            self.offsets[token as usize + 1] += 1;
        }
        for token in 0..vocab_size {
            self.offsets[token + 1] += self.offsets[token];
        }
        self.places.clear();
        self.places.resize(tokens.len(), 0);
        for (place, &token) in tokens.iter().enumerate() {
            let next = &mut self.offsets[token as usize];
            self.places[*next as usize] = place as u32;
            *next += 1;
        }
        // Every offset has moved to the start of the next segment.
        self.offsets.rotate_right(1);
        self.offsets[0] = 0;
    }

    /// Where the places of each token start, and where those of the last one end.
    pub(crate) fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// All places, sorted by (token, place).
    pub(crate) fn all_places(&self) -> &[u32] {
        &self.places
    }

    fn places(&self, token: usize) -> &[u32] {
        &self.places[self.offsets[token] as usize..self.offsets[token + 1] as usize]
    }
}

/// Adds the rows of `dx` to the rows of their tokens in `gradient`, or to zero if it is `fresh`; the largest magnitude met.
pub(crate) fn scatter_add(
    simd: Simd,
    segments: &Segments,
    dx: &[f32],
    width: usize,
    (gradient, fresh): (&mut [f32], bool),
) -> u32 {
    gradient
        .par_chunks_mut(width)
        .enumerate()
        .map(|(token, row)| {
            if fresh {
                row.fill(0.0);
            }
            segments.places(token).iter().fold(0, |peak, &place| {
                let start = place as usize * width;
                peak.max(add_assign(simd, row, &dx[start..start + width]))
            })
        })
        .reduce(|| 0, u32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_list_places_in_order() {
        let mut segments = Segments::default();
        for tokens in [vec![3, 0, 3, 1, 0, 3], vec![], vec![4, 4, 4]] {
            segments.sort(&tokens, 5);
            for token in 0..5u32 {
                let expected: Vec<u32> =
                    (0..tokens.len() as u32).filter(|&place| tokens[place as usize] == token).collect();
                assert_eq!(segments.places(token as usize), expected, "token {token} of {tokens:?}");
            }
        }
    }
}
