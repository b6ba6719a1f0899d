//! How text becomes tokens: byte by byte, or as a Hugging Face `tokenizer.json` says.
//!
//! A [`Tokenizer`] is what travels and rests: files, cheap to clone, that nobody
//! but who encodes or decodes has to understand. A [`Codec`] is what works with text.

mod bytes;
mod codec;
pub(crate) mod train;

use crate::checkpoint::SpecialTokens;
pub(crate) use codec::Codec;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use std::sync::Arc;

/// Largest vocabulary: as of a model.
const VOCAB_SIZE_MAX: usize = 1 << 20;

/// The tokenizer of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tokenizer {
    /// One token a byte: its id is the byte's value. No special tokens.
    Bytes,
    /// As files say.
    Files(Arc<TokenizerFiles>),
}

/// The files of a tokenizer, as they lie in a model's folder, with what the
/// configuration says of its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizerFiles {
    /// Content of `tokenizer.json`.
    tokenizer: ByteBuf,
    /// Content of `tokenizer_config.json`, if there is one.
    config: Option<ByteBuf>,
    special: SpecialTokens,
    /// The largest id and one.
    vocab_size: u32,
}

/// Why files are no tokenizer, or none for their model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenizerError {
    #[error("not a tokenizer that can be used: {0}")]
    Unreadable(String),
    #[error("the configuration's `{field}` is {id}, and the tokenizer has no such token")]
    NoSuchToken { field: &'static str, id: u32 },
}

impl Tokenizer {
    /// The tokenizer whose `tokenizer.json` and `tokenizer_config.json` have these contents.
    ///
    /// # Errors
    /// [`TokenizerError`] if the library cannot read it, or it has no token that `special` names.
    pub(crate) fn of_files(
        content: Vec<u8>,
        config: Option<Vec<u8>>,
        special: SpecialTokens,
    ) -> Result<Self, TokenizerError> {
        let json: Value = serde_json::from_slice(&content)
            .map_err(|error| TokenizerError::Unreadable(format!("not the expected JSON: {error}")))?;
        if json == bytes::tokenizer_json() {
            return Ok(Self::Bytes);
        }
        drop(json);
        let codec = Codec::of_json(&content)?;
        let named = special.bos.map(|id| ("bos_token_id", id)).into_iter();
        let mut named = named.chain(special.eos.iter().map(|id| ("eos_token_id", *id)));
        if let Some((field, id)) = named.find(|(_, id)| !codec.has_token(*id)) {
            return Err(TokenizerError::NoSuchToken { field, id });
        }
        let vocab_size = codec.vocab_size();
        if !(1..=VOCAB_SIZE_MAX).contains(&vocab_size) {
            let problem = format!("its ids reach {vocab_size}; up to {VOCAB_SIZE_MAX} are accepted");
            return Err(TokenizerError::Unreadable(problem));
        }
        let files = TokenizerFiles {
            tokenizer: ByteBuf::from(content),
            config: config.map(ByteBuf::from),
            special,
            vocab_size: vocab_size as u32,
        };
        Ok(Self::Files(Arc::new(files)))
    }

    /// The largest id and one: a model needs at least as many outputs.
    pub(crate) fn vocab_size(&self) -> usize {
        match self {
            Self::Bytes => bytes::VOCAB_SIZE,
            Self::Files(files) => files.vocab_size as usize,
        }
    }

    /// Tokens with a meaning to the model.
    pub(crate) fn special_tokens(&self) -> SpecialTokens {
        match self {
            Self::Bytes => SpecialTokens::default(),
            Self::Files(files) => files.special.clone(),
        }
    }

    /// What turns text into tokens and back.
    ///
    /// # Errors
    /// [`TokenizerError::Unreadable`] if the files came from elsewhere and are damaged.
    pub(crate) fn codec(&self) -> Result<Codec, TokenizerError> {
        match self {
            Self::Bytes => Ok(Codec::bytes()),
            Self::Files(files) => Codec::of_json(&files.tokenizer),
        }
    }

    /// The content of `tokenizer.json`.
    pub(crate) fn tokenizer_json(&self) -> Vec<u8> {
        match self {
            Self::Bytes => format!("{:#}\n", bytes::tokenizer_json()).into_bytes(),
            Self::Files(files) => files.tokenizer.to_vec(),
        }
    }

    /// The content of `tokenizer_config.json` for sequences of `length_max` tokens.
    pub(crate) fn config_json(&self, length_max: usize) -> Vec<u8> {
        if let Self::Files(files) = self
            && let Some(config) = &files.config
        {
            return config.to_vec();
        }
        let config = json!({
            "add_prefix_space": false,
            "clean_up_tokenization_spaces": false,
            "model_max_length": length_max,
            "tokenizer_class": "PreTrainedTokenizerFast",
        });
        format!("{config:#}\n").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_tokenizer_is_known_by_its_file() {
        let content = Tokenizer::Bytes.tokenizer_json();
        let read = |content: Vec<u8>| Tokenizer::of_files(content, None, SpecialTokens::default());
        assert_eq!(read(content.clone()), Ok(Tokenizer::Bytes));
        let mut json: Value = serde_json::from_slice(&content).unwrap();
        json["added_tokens"] = json!([{
            "id": 300, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }]);
        let other = read(serde_json::to_vec(&json).unwrap()).unwrap();
        // The library gives an added token the next free id, whatever the file says.
        assert_eq!(other.vocab_size(), 257);
    }

    #[test]
    fn files_that_are_no_tokenizer_or_lack_a_token_are_refused() {
        let read = |content: &[u8], special| Tokenizer::of_files(content.to_vec(), None, special);
        for content in [&b"{"[..], b"{}", b"[1]", b"{\"model\": {\"type\": \"BPE\"}}"] {
            let error = read(content, SpecialTokens::default()).unwrap_err();
            assert!(matches!(error, TokenizerError::Unreadable(_)), "{error}");
        }
        let trained = train::train("to be or not to be\n", 280).unwrap();
        let special = |bos, eos: &[u32]| SpecialTokens { bos, eos: eos.to_vec() };
        let tokens = read(&trained, special(Some(0), &[0])).unwrap().vocab_size() as u32;
        let absent = |special| read(&trained, special).unwrap_err();
        assert_eq!(
            absent(special(Some(tokens), &[])),
            TokenizerError::NoSuchToken { field: "bos_token_id", id: tokens }
        );
        assert_eq!(absent(special(None, &[0, 999])), TokenizerError::NoSuchToken { field: "eos_token_id", id: 999 });
    }
}
