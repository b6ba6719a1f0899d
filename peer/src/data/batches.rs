//! Which windows of the text a member of a run trains on, and how its loss is
//! judged.
//!
//! The draw is a pure function of the run's seed and of integers, so every
//! member (and every later auditor) can tell any batch. A run's batches are
//! numbered through from 0; each sequence of each batch draws its own start by a
//! keyed hash, uniformly over all starts that leave room for a whole window.
//! Draws are *with* replacement: windows may overlap or repeat as chance has it;
//! no epoch is kept. Who computes a batch, and when, changes nothing about it.

use super::tokens::Tokens;
use serde::{Deserialize, Serialize};

/// Most sequences of one batch.
pub(crate) const SEQUENCES_MAX: usize = 65_536;
/// Most validation windows, whatever the caller asks for.
pub(crate) const VALIDATION_WINDOWS_MAX: usize = 1 << 20;

/// The shape of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchShape {
    /// Sequences in a batch.
    pub(crate) sequences: usize,
    /// Tokens that each sequence predicts; a window has one more.
    pub(crate) length: usize,
}

/// Which batch of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchKey {
    /// The run's seed.
    pub(crate) seed: [u8; 32],
    /// The batch's number in the run, from 0.
    pub(crate) batch: u64,
}

/// Why there is no such batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    #[error(
        "the {part} part has {found} tokens; one window needs {needed}: give more text or a shorter sequence length"
    )]
    PartTooShort { part: &'static str, found: usize, needed: usize },
    #[error(
        "a batch of {sequences} sequences of {length} tokens; 1 to {SEQUENCES_MAX} sequences of 1 token or more are accepted"
    )]
    Shape { sequences: usize, length: usize },
}

/// Where the sequences of one batch start in the training part.
///
/// # Errors
/// [`BatchError`] if the part is shorter than a window or the shape makes no sense.
pub(crate) fn window_starts(
    training_tokens: usize,
    key: &BatchKey,
    shape: BatchShape,
) -> Result<Vec<usize>, BatchError> {
    let BatchShape { sequences, length } = shape;
    if !(1..=SEQUENCES_MAX).contains(&sequences) || length == 0 {
        return Err(BatchError::Shape { sequences, length });
    }
    let starts = number_of_starts("training", training_tokens, length)?;
    let mut hasher = blake3::Hasher::new_keyed(&key.seed);
    hasher.update(b"manta training window v2").update(&key.batch.to_le_bytes());
    let draw = |index: u64| {
        let mut word = [0; 8];
        hasher.clone().update(&index.to_le_bytes()).finalize_xof().fill(&mut word);
        // The high word of a 64 × 64 bit product: uniform up to starts / 2⁶⁴.
        ((u128::from(u64::from_le_bytes(word)) * starts as u128) >> 64) as usize
    };
    Ok((0..sequences as u64).map(draw).collect())
}

/// The windows of the validation part: one after the other, each predicting the
/// tokens after the last one's, so that all tokens but the first and a remainder
/// of less than `length` are predicted exactly once. If there are more than
/// `windows_max`, as many of them, evenly spaced.
///
/// # Errors
/// [`BatchError`] if the part is shorter than a window.
pub(crate) fn validation_starts(
    validation_tokens: usize,
    length: usize,
    windows_max: usize,
) -> Result<Vec<usize>, BatchError> {
    if length == 0 {
        return Err(BatchError::Shape { sequences: 1, length });
    }
    number_of_starts("validation", validation_tokens, length)?;
    let all = (validation_tokens - 1) / length;
    let chosen = all.min(windows_max.clamp(1, VALIDATION_WINDOWS_MAX));
    Ok((0..chosen).map(|index| (index as u128 * all as u128 / chosen as u128) as usize * length).collect())
}

/// The tokens of the windows at `starts`: for each, `length + 1` ids in a row.
///
/// # Panics
/// If a window does not lie within `text`: the starts are not for this text.
pub(crate) fn tokens(text: &Tokens, starts: &[usize], length: usize) -> Vec<u32> {
    starts.iter().flat_map(|&start| text.ids(start..start + length + 1)).collect()
}

/// Loss, in nats a token, of the model that knows only how often each of
/// `vocab_size` tokens occurs in `training` (every token counted once more), on
/// `validation`. A model that does not get below this has learnt nothing about order.
pub(crate) fn unigram_loss(training: &Tokens, validation: &Tokens, vocab_size: usize) -> f64 {
    let count = |text: &Tokens| {
        let mut counts = vec![0_u64; vocab_size];
        // Ids out of the vocabulary are refused elsewhere.
        text.ids(0..text.len()).for_each(|id| counts.get_mut(id as usize).into_iter().for_each(|count| *count += 1));
        counts
    };
    let (model, judged) = (count(training), count(validation));
    let total = (training.len() as f64 + vocab_size as f64).ln();
    let loss: f64 = model.iter().zip(judged).map(|(&seen, n)| n as f64 * (total - (seen as f64 + 1.0).ln())).sum();
    loss / validation.len().max(1) as f64
}

/// How many starts leave room for a window of `length + 1` tokens.
fn number_of_starts(part: &'static str, tokens: usize, length: usize) -> Result<usize, BatchError> {
    let needed = length.saturating_add(1);
    match tokens.checked_sub(length) {
        Some(starts) if starts > 0 => Ok(starts),
        _ => Err(BatchError::PartTooShort { part, found: tokens, needed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: BatchKey = BatchKey { seed: [3; 32], batch: 6 };
    const SHAPE: BatchShape = BatchShape { sequences: 4, length: 16 };

    #[test]
    fn the_draw_is_pinned() {
        assert_eq!(window_starts(1_000_000, &KEY, SHAPE).unwrap(), [987_438, 403_003, 985_479, 543_636]);
        assert_eq!(
            window_starts(1 << 32, &BatchKey { batch: u64::MAX, ..KEY }, SHAPE).unwrap(),
            [3_043_784_832, 3_425_657_447, 2_720_688_954, 4_137_964_196]
        );
    }

    #[test]
    fn every_part_of_the_key_changes_the_draw() {
        let starts = |key: BatchKey| window_starts(1_000_000, &key, SHAPE).unwrap();
        let keys =
            [KEY, BatchKey { seed: [4; 32], ..KEY }, BatchKey { batch: 7, ..KEY }, BatchKey { batch: 6 << 32, ..KEY }];
        let draws: std::collections::BTreeSet<Vec<usize>> = keys.into_iter().map(starts).collect();
        assert_eq!(draws.len(), keys.len());
    }

    #[test]
    fn a_longer_batch_begins_like_a_shorter_one() {
        let of = |sequences| window_starts(1_000_000, &KEY, BatchShape { sequences, ..SHAPE }).unwrap();
        assert_eq!(of(9)[..4], of(4));
    }

    #[test]
    fn starts_are_spread_evenly() {
        let shape = BatchShape { sequences: 16_000, length: 16 };
        let mut buckets = [0; 16];
        for start in window_starts(1_600 + 16, &KEY, shape).unwrap() {
            buckets[start / 100] += 1;
        }
        // Expected 1000 each, standard deviation 31.
        assert!(buckets.iter().all(|n| (850..1150).contains(n)), "{buckets:?}");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let short = BatchError::PartTooShort { part: "training", found: 16, needed: 17 };
        assert_eq!(window_starts(16, &KEY, SHAPE), Err(short));
        assert_eq!(window_starts(17, &KEY, SHAPE), Ok(vec![0; 4]));
        let too_long = BatchShape { sequences: 1, length: usize::MAX };
        assert!(matches!(window_starts(16, &KEY, too_long), Err(BatchError::PartTooShort { .. })));
        for (sequences, length) in [(0, 1), (1, 0), (SEQUENCES_MAX + 1, 1)] {
            let shape = BatchShape { sequences, length };
            assert_eq!(window_starts(100, &KEY, shape), Err(BatchError::Shape { sequences, length }));
        }
        assert!(matches!(validation_starts(16, 16, 10), Err(BatchError::PartTooShort { part: "validation", .. })));
        assert!(matches!(validation_starts(16, 0, 10), Err(BatchError::Shape { .. })));
    }

    #[test]
    fn validation_predicts_each_token_once() {
        let text = Tokens::from((0..=200).collect::<Vec<u8>>());
        for length in [1, 7, 16, 199, 200] {
            let starts = validation_starts(text.len(), length, usize::MAX).unwrap();
            let windows = tokens(&text, &starts, length);
            let targets: Vec<u32> = windows.chunks(length + 1).flat_map(|window| window[1..].to_vec()).collect();
            let expected: Vec<u32> = (1..=200).take(200 / length * length).collect();
            assert_eq!(targets, expected, "length {length}");
        }
        assert_eq!(validation_starts(1001, 10, 4).unwrap(), [0, 250, 500, 750]);
        assert_eq!(validation_starts(1001, 10, 0).unwrap(), [0]);
    }

    #[test]
    fn the_unigram_loss_of_known_texts() {
        // 255 bytes never seen and one seen 256 times: p = 257 / 512 and 1 / 512.
        let of = |text: &[u8]| Tokens::from(text.to_vec());
        let loss = unigram_loss(&of(&[b'a'; 256]), &of(b"ab"), 256);
        let expected = -((257.0_f64 / 512.0).ln() + (1.0_f64 / 512.0).ln()) / 2.0;
        assert!((loss - expected).abs() < 1e-12, "{loss} {expected}");
        let uniform: Vec<u8> = (0..=255).cycle().take(256 * 100).collect();
        let uniform = of(&uniform);
        assert!((unigram_loss(&uniform, &uniform, 256) - 256.0_f64.ln()).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn windows_lie_within_the_text(
            text in prop::collection::vec(any::<u8>(), 2..500),
            length in 1..400_usize,
            batch in any::<u64>(),
        ) {
            let shape = BatchShape { sequences: 8, length };
            let key = BatchKey { batch, ..KEY };
            match window_starts(text.len(), &key, shape) {
                Ok(starts) => {
                    let ids = tokens(&Tokens::from(text.clone()), &starts, length);
                    prop_assert_eq!(ids.len(), 8 * (length + 1));
                    for (start, window) in starts.into_iter().zip(ids.chunks(length + 1)) {
                        let expected: Vec<u32> = text[start..][..=length].iter().map(|&b| u32::from(b)).collect();
                        prop_assert_eq!(window, expected);
                    }
                }
                Err(_) => prop_assert!(text.len() <= length),
            }
        }
    }
}
