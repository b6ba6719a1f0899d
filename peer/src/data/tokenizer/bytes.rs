//! The byte-level tokenizer: a token is a byte, its id the byte's value.
//!
//! Its vocabulary is exactly the 256 bytes, without special tokens: nothing in
//! training marks the end of a text. It is written as a Hugging Face
//! `tokenizer.json` (byte-level BPE without merges, over the printable
//! stand-ins for bytes of GPT-2's `bytes_to_unicode`), so that the Python
//! `tokenizers` and `transformers` libraries give the same ids.

use serde_json::{Map, Value, json};

/// Number of distinct tokens.
pub(super) const VOCAB_SIZE: usize = 256;

/// The content of `tokenizer.json`.
pub(super) fn tokenizer_json() -> Value {
    let vocabulary: Map<String, Value> =
        (0..=255_u8).zip(printable_bytes()).map(|(byte, c)| (c.to_string(), json!(byte))).collect();
    // One object a step: split nothing, stand in for bytes, and look each up.
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": [],
        },
    })
}

/// GPT-2's printable stand-in for each byte: itself if it is a visible Latin-1
/// character, else the next unused character from U+0100.
fn printable_bytes() -> [char; 256] {
    let mut unused = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        visible @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(visible),
        // The range is not exhausted: 68 bytes are not visible.
        _ => unused.next().unwrap_or(char::REPLACEMENT_CHARACTER),
    })
}

/// Turns bytes that arrive one by one into printable text: a character is given
/// out when it is complete, and what can never be one becomes U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Utf8Stream {
    /// The beginning of a character: at most three bytes between calls.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// The text that `bytes` complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let incomplete = match self.pending.utf8_chunks().last() {
            // An unfinished character is one that more bytes could still make valid.
            Some(chunk) if std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none()) => {
                chunk.invalid().len()
            }
            _ => 0,
        };
        let rest = self.pending.split_off(self.pending.len() - incomplete);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    /// What remains at the end: nothing, or U+FFFD for an unfinished character.
    pub(crate) fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_vocabulary_is_the_256_bytes_once_each() {
        let json = tokenizer_json();
        let vocabulary = json["model"]["vocab"].as_object().unwrap();
        assert_eq!(vocabulary.len(), 256);
        let ids: BTreeSet<u64> = vocabulary.values().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(ids, (0..256).collect());
        // Known stand-ins of GPT-2's table: newline, space, NUL, 0xAD and a visible one.
        for (character, byte) in [("Ċ", 10), ("Ġ", 32), ("Ā", 0), ("Ń", 0xad), ("a", 97), ("é", 0xe9)] {
            assert_eq!(vocabulary[character], byte, "{character}");
        }
    }

    #[test]
    fn characters_come_out_when_complete() {
        let mut stream = Utf8Stream::default();
        let pushed: Vec<String> = "aé🦀".bytes().map(|byte| stream.push(&[byte])).collect();
        assert_eq!(pushed, ["a", "", "é", "", "", "", "🦀"]);
        assert_eq!(stream.push(b"\xe2\x82z\xff"), "\u{fffd}z\u{fffd}");
        assert_eq!(stream.push(b"\xf0\x9f"), "");
        assert_eq!(stream.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_pieces_print_as_the_whole_would(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..12)) {
            let mut stream = Utf8Stream::default();
            let mut text: String = pieces.iter().map(|piece| stream.push(piece)).collect();
            text += &stream.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }
    }
}
