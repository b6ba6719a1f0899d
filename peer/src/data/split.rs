//! Cuts a text into a training part and a validation part.
//!
//! The text is cut into contiguous blocks; of every [`GROUP_BLOCKS`] blocks in a
//! row, one, chosen by a hash keyed with the whole text, goes to validation.
//! So the split depends on the content alone, each part keeps the text's order,
//! validation samples the whole text, and every byte lies in exactly one part.
//! (The parts are disjoint as positions: a text that repeats itself has the
//! same sentences in both.)

/// The two parts of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) training: Vec<u8>,
    pub(crate) validation: Vec<u8>,
}

/// Where a block may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockEnd {
    /// Anywhere: for tokens that are bytes.
    Byte,
    /// Not within a character of UTF-8.
    Character,
}

/// One block of this many goes to validation.
const GROUP_BLOCKS: usize = 20;
/// Long texts are cut into blocks of this many bytes, short ones into smaller ones,
const BLOCK_BYTES_MAX: usize = 16 * 1024;
/// but not below this: a block must hold whole training windows.
const BLOCK_BYTES_MIN: usize = 1024;
/// Blocks that a short text is cut into, at least.
const BLOCKS_MIN: usize = 64;

/// Which blocks of a text are for validation.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    text_bytes: usize,
    block_bytes: usize,
    /// Ascending.
    validation_blocks: Vec<usize>,
}

/// Splits `text`. The validation part is about a twentieth of it.
///
/// A text of at least [`super::corpus::CORPUS_BYTES_MIN`] bytes gives two parts
/// of at least 1 KiB; one of fewer than 2 KiB has no validation part.
pub(crate) fn split(mut text: Vec<u8>, block_end: BlockEnd) -> Parts {
    let plan = Plan::new(text.len(), blake3::hash(&text).as_bytes());
    let mut validation = Vec::new();
    let mut kept = 0;
    let mut next = 0;
    // In place, for the text may be most of the memory.
    for &block in &plan.validation_blocks {
        let mut range = plan.block(block);
        if block_end == BlockEnd::Character {
            range = after_character(&text, range.start)..after_character(&text, range.end);
        }
        text.copy_within(next..range.start, kept);
        kept += range.start - next;
        next = range.end;
        validation.extend_from_slice(&text[range]);
    }
    text.copy_within(next.., kept);
    text.truncate(kept + plan.text_bytes - next);
    Parts { training: text, validation }
}

/// The first place from `place` on, at most three bytes behind, where no character goes on.
fn after_character(text: &[u8], place: usize) -> usize {
    let goes_on = |byte: &&u8| **byte & 0xc0 == 0x80;
    place + text[place..].iter().take(3).take_while(goes_on).count()
}

impl Plan {
    fn new(text_bytes: usize, content_hash: &[u8; 32]) -> Self {
        let block_bytes = (text_bytes / BLOCKS_MIN).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        // The last block takes the remainder, so that no block is short.
        let blocks = text_bytes / block_bytes;
        let mut plan = Self { text_bytes, block_bytes, validation_blocks: Vec::new() };
        if blocks < 2 {
            return plan;
        }
        let groups = (blocks / GROUP_BLOCKS).max(1);
        for group in 0..groups {
            let first = group * GROUP_BLOCKS;
            let end = if group + 1 == groups { blocks } else { first + GROUP_BLOCKS };
            let hash = blake3::keyed_hash(content_hash, &(group as u64).to_le_bytes());
            let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
            let chosen = u64::from_le_bytes([a, b, c, d, e, f, g, h]) % (end - first) as u64;
            plan.validation_blocks.push(first + chosen as usize);
        }
        plan
    }

    fn block(&self, index: usize) -> std::ops::Range<usize> {
        let last = self.text_bytes / self.block_bytes - 1;
        let end = if index == last { self.text_bytes } else { (index + 1) * self.block_bytes };
        index * self.block_bytes..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manta_protocol::ids::Hash;
    use proptest::prelude::*;

    /// Bytes that tell their position: no window of eight occurs twice.
    fn numbered(bytes: usize) -> Vec<u8> {
        (0..bytes.div_ceil(8) as u64).flat_map(u64::to_le_bytes).take(bytes).collect()
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()
    }

    #[test]
    fn parts_are_disjoint_complete_and_in_order() {
        for kibibytes in [2, 16, 17, 63, 64, 65, 333, 1024, 1339, 5000] {
            let text = numbered(kibibytes * 1024);
            let block_bytes = Plan::new(text.len(), &[0; 32]).block_bytes;
            let Parts { training, validation } = split(text.clone(), BlockEnd::Byte);
            assert_eq!(training.len() + validation.len(), text.len());
            assert!(validation.len() >= block_bytes && training.len() >= block_bytes, "{kibibytes} KiB");
            assert!(block_bytes.is_multiple_of(8), "no number is cut in two");
            let (training, validation) = (numbers(&training), numbers(&validation));
            assert!(training.is_sorted() && validation.is_sorted());
            let mut all = [training, validation].concat();
            all.sort_unstable();
            assert_eq!(all, numbers(&text), "{kibibytes} KiB");
        }
    }

    #[test]
    fn validation_is_about_a_twentieth() {
        let text = numbered(6 << 20);
        let validation = split(text.clone(), BlockEnd::Byte).validation.len();
        assert!((text.len() / 22..text.len() / 18).contains(&validation), "{validation}");
    }

    #[test]
    fn the_split_of_a_given_text_is_pinned() {
        let Parts { training, validation } = split(numbered(1 << 20), BlockEnd::Byte);
        assert_eq!(Hash::of(&training).short(), "15a27e9c");
        assert_eq!(Hash::of(&validation).short(), "6bd7ea6f");
    }

    #[test]
    fn another_text_has_another_choice() {
        let text = numbered(1 << 20);
        let mut other = text.clone();
        other[0] ^= 1;
        let plan = |text: &[u8]| Plan::new(text.len(), blake3::hash(text).as_bytes());
        assert_ne!(plan(&text), plan(&other));
    }

    #[test]
    fn characters_stay_whole() {
        for text in ["é🦀a".repeat(20_000), "€".repeat(30_000), "plain".repeat(30_000)] {
            let Parts { training, validation } = split(text.clone().into_bytes(), BlockEnd::Character);
            assert_eq!(training.len() + validation.len(), text.len());
            let parts = [training, validation].map(|part| String::from_utf8(part).expect("whole characters"));
            let count = |text: &str| text.chars().filter(|c| *c != 'x').count();
            assert_eq!(count(&parts[0]) + count(&parts[1]), count(&text));
            assert!(parts[1].len() >= 1024);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_length_is_split_without_loss(text in prop::collection::vec(any::<u8>(), 0..40_000)) {
            let Parts { training, validation } = split(text.clone(), BlockEnd::Byte);
            prop_assert_eq!(training.len() + validation.len(), text.len());
            prop_assert_eq!(validation.is_empty(), text.len() < 2 * BLOCK_BYTES_MIN);
            let histogram = |parts: &[&[u8]]| {
                let mut counts = [0; 256];
                parts.iter().for_each(|part| part.iter().for_each(|&byte| counts[usize::from(byte)] += 1));
                counts
            };
            prop_assert_eq!(histogram(&[&training, &validation]), histogram(&[&text]));
        }
    }
}
