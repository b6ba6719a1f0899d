//! Makes a byte-level BPE tokenizer of a corpus (Sennrich et al., 2016; as GPT-2
//! splits words): equal texts and sizes give equal files.

use super::TokenizerError;
use super::codec::pieces;
use std::ops::RangeInclusive;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, TokenizerBuilder};

/// Id 0: what ends a text, for models that are trained to.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
/// Sizes of a vocabulary: 256 bytes, the end of text, and merges.
pub(crate) const VOCAB_SIZES: RangeInclusive<usize> = 258..=1 << 17;
/// Pairs that occur less often are not merged.
const OCCURRENCES_MIN: u64 = 2;

/// The content of a `tokenizer.json` for `text`, of at most `vocab_size` tokens:
/// fewer if the text has no more pairs to merge.
///
/// # Errors
/// The library's own.
pub(crate) fn train(text: &str, vocab_size: usize) -> Result<Vec<u8>, TokenizerError> {
    let failed = |error: tokenizers::Error| TokenizerError::Unreadable(error.to_string());
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(None)
        .with_decoder(Some(byte_level))
        .build()
        .map_err(failed)?;
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(OCCURRENCES_MIN)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    tokenizer.train(&mut trainer, pieces(text).map(|piece| &text[piece])).map_err(failed)?;
    Ok((tokenizer.to_string(true).map_err(failed)? + "\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::*;
    use crate::checkpoint::SpecialTokens;
    use manta_protocol::Hash;

    #[test]
    fn equal_texts_give_equal_tokenizers() {
        let text: String = (0..4000).map(|i| format!("word{} and {}\n", i % 37, i * i % 101)).collect();
        let first = train(&text, 320).unwrap();
        assert!((0..3).all(|_| train(&text, 320).unwrap() == first));
        // Golden: the same on every machine.
        assert_eq!(Hash::of(&first).short(), "8e1c6909");
        let tokenizer = Tokenizer::of_files(first, None, SpecialTokens::default()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 320);
        let tokens = tokenizer.codec().unwrap().encode_corpus(text.clone().into_bytes()).unwrap();
        assert!(tokens.len() * 2 < text.len(), "{} tokens of {} bytes", tokens.len(), text.len());
    }

    #[test]
    fn a_text_without_pairs_gives_the_bytes() {
        let trained = train("abc", 1000).unwrap();
        let tokenizer = Tokenizer::of_files(trained, None, SpecialTokens::default()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 257);
    }
}
