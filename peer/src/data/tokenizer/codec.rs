//! Text into tokens and back.
//!
//! What a token is follows from files that a user names: they are read by the
//! `tokenizers` library, with truncation and padding taken out, for a corpus is
//! neither. Long texts are encoded in pieces that end with a line, so that
//! memory stays bounded; equal texts give equal tokens.

use super::TokenizerError;
use super::bytes::{self, Utf8Stream};
use crate::data::tokens::{IdWidth, Tokens};
use std::ops::Range;
use tokenizers::Tokenizer as Library;

/// Bytes of a piece of a long text, about.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that are encoded at once.
const PIECES_AT_ONCE: usize = 64;
/// Tokens after which a stream of text forgets all but the last few.
const STREAM_TOKENS_MAX: usize = 64;
const STREAM_TOKENS_KEPT: usize = 8;

/// What works with text.
#[derive(Clone, Debug)]
pub(crate) struct Codec(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Bytes,
    Library(Box<Library>),
}

fn unreadable(error: impl std::fmt::Display) -> TokenizerError {
    TokenizerError::Unreadable(error.to_string())
}

impl Codec {
    pub(super) fn bytes() -> Self {
        Self(Inner::Bytes)
    }

    /// The codec of a `tokenizer.json`.
    pub(super) fn of_json(content: &[u8]) -> Result<Self, TokenizerError> {
        let mut library = Library::from_bytes(content).map_err(unreadable)?;
        library.with_truncation(None).map_err(unreadable)?;
        library.with_padding(None);
        Ok(Self(Inner::Library(Box::new(library))))
    }

    /// The largest id and one.
    pub(super) fn vocab_size(&self) -> usize {
        match &self.0 {
            Inner::Bytes => bytes::VOCAB_SIZE,
            Inner::Library(library) => library.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1),
        }
    }

    pub(super) fn has_token(&self, id: u32) -> bool {
        match &self.0 {
            Inner::Bytes => (id as usize) < bytes::VOCAB_SIZE,
            Inner::Library(library) => library.id_to_token(id).is_some(),
        }
    }

    /// The tokens of a short text, with those around it that the tokenizer adds for a model.
    ///
    /// # Errors
    /// A character that the vocabulary has no token for.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match &self.0 {
            Inner::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Inner::Library(library) => Ok(library.encode_fast(text, true).map_err(unreadable)?.get_ids().to_vec()),
        }
    }

    /// The text of tokens; special ones give none.
    ///
    /// # Errors
    /// The library's own.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let mut stream = self.stream();
        let mut text = String::new();
        for id in ids {
            text += &stream.push(*id)?;
        }
        Ok(text + &stream.finish()?)
    }

    /// The tokens of a corpus, in pieces, without special tokens.
    ///
    /// # Errors
    /// Text that is not UTF-8, or has a character that the vocabulary has no token for.
    pub(crate) fn encode_corpus(&self, text: Vec<u8>) -> Result<Tokens, TokenizerError> {
        let library = match &self.0 {
            Inner::Bytes => return Ok(Tokens::from(text)),
            Inner::Library(library) => library,
        };
        let text = std::str::from_utf8(&text).map_err(unreadable)?;
        let mut tokens = Tokens::new(IdWidth::of_vocabulary(self.vocab_size()));
        let pieces: Vec<&str> = pieces(text).map(|piece| &text[piece]).collect();
        for pieces in pieces.chunks(PIECES_AT_ONCE) {
            let encodings = library.encode_batch_fast(pieces.to_vec(), false).map_err(unreadable)?;
            encodings.iter().for_each(|encoding| tokens.extend(encoding.get_ids()));
        }
        Ok(tokens)
    }

    /// Turns tokens that come one by one into text.
    pub(crate) fn stream(&self) -> TextStream<'_> {
        match &self.0 {
            Inner::Bytes => TextStream::Bytes(Utf8Stream::default()),
            Inner::Library(library) => TextStream::Library { library, ids: Vec::new(), given: 0 },
        }
    }
}

/// Text is cut after the line in which a piece is full; within a line only if it is too long.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == text.len() {
            return None;
        }
        let full = text.floor_char_boundary(start.saturating_add(PIECE_BYTES));
        let rest = &text.as_bytes()[full..text.len().min(full.saturating_add(PIECE_BYTES))];
        let end = if full == text.len() {
            full
        } else {
            rest.iter().position(|byte| *byte == b'\n').map_or(full, |newline| full + newline + 1)
        };
        Some(std::mem::replace(&mut start, end)..end)
    })
}

/// Text as its tokens come: a character is given out when it is complete.
#[derive(Debug)]
pub(crate) enum TextStream<'a> {
    Bytes(Utf8Stream),
    Library {
        library: &'a Library,
        /// The last tokens.
        ids: Vec<u32>,
        /// Bytes of their text that were given out.
        given: usize,
    },
}

impl TextStream<'_> {
    /// The text that this token completes.
    ///
    /// # Errors
    /// The library's own.
    pub(crate) fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let (library, ids, given) = match self {
            // The vocabulary has no others.
            Self::Bytes(stream) => return Ok(stream.push(&[id as u8])),
            Self::Library { library, ids, given } => (library, ids, given),
        };
        ids.push(id);
        let text = library.decode(ids, true).map_err(unreadable)?;
        if text.ends_with('\u{fffd}') && ids.len() < 2 * STREAM_TOKENS_MAX {
            return Ok(String::new());
        }
        let piece = text.get(*given..).unwrap_or_default().to_owned();
        *given = text.len();
        if ids.len() > STREAM_TOKENS_MAX {
            ids.drain(..ids.len() - STREAM_TOKENS_KEPT);
            *given = library.decode(ids, true).map_err(unreadable)?.len();
        }
        Ok(piece)
    }

    /// What remains at the end.
    ///
    /// # Errors
    /// The library's own.
    pub(crate) fn finish(self) -> Result<String, TokenizerError> {
        match self {
            Self::Bytes(stream) => Ok(stream.finish()),
            Self::Library { library, ids, given } => {
                let text = library.decode(&ids, true).map_err(unreadable)?;
                Ok(text.get(given..).unwrap_or_default().to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::train::train;
    use super::*;

    const TEXT: &str = "Ein Bär, zwei Bären — drei 🦀🦀 und\n\tein Haus.\n";

    fn trained() -> Codec {
        Codec::of_json(&train(&TEXT.repeat(20), 300).unwrap()).unwrap()
    }

    #[test]
    fn text_comes_back_from_its_tokens() {
        for codec in [Codec::bytes(), trained()] {
            let ids = codec.encode(TEXT).unwrap();
            assert_eq!(codec.decode(&ids).unwrap(), TEXT);
            assert!(ids.iter().all(|id| (*id as usize) < codec.vocab_size()));
        }
        // Longer than what a stream remembers.
        let (codec, long) = (trained(), TEXT.repeat(40));
        let ids = codec.encode(&long).unwrap();
        assert!(ids.len() > 3 * STREAM_TOKENS_MAX && ids.len() < long.len() / 2, "{}", ids.len());
        assert_eq!(codec.decode(&ids).unwrap(), long);
    }

    #[test]
    fn a_character_is_given_out_when_it_is_complete() {
        let codec = Codec::of_json(&train("abcabc\nabc", 260).unwrap()).unwrap();
        let ids = codec.encode("a🦀b").unwrap();
        assert_eq!(ids.len(), 6, "the crab is four bytes that were never seen together");
        let mut stream = codec.stream();
        let texts: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(texts, ["a", "", "", "", "🦀", "b"]);
        assert_eq!(stream.finish().unwrap(), "");
        assert_eq!(codec.decode(&ids[..3]).unwrap(), "a\u{fffd}");
    }

    #[test]
    fn pieces_cover_the_text_and_end_with_lines() {
        let lines = "Zeile mit Umlaut ä und Crab 🦀\n".repeat(6000);
        let one_line = "é".repeat(2 * PIECE_BYTES);
        for text in ["", "x", &lines, &one_line, &(one_line.clone() + &lines)] {
            let mut end = 0;
            for piece in pieces(text) {
                assert!(piece.start == end && piece.end > end && piece.len() <= 2 * PIECE_BYTES + 4, "{piece:?}");
                end = piece.end;
                assert!(text.is_char_boundary(end));
            }
            assert_eq!(end, text.len());
        }
        let ends = pieces(&lines).map(|piece| &lines[piece.end - 1..piece.end]).collect::<Vec<_>>();
        assert!(ends.len() >= 3 && ends.iter().all(|end| *end == "\n"), "{ends:?}");
    }

    #[test]
    fn a_corpus_has_the_tokens_of_its_pieces() {
        let (codec, text) = (trained(), TEXT.repeat(3000));
        let tokens = codec.encode_corpus(text.clone().into_bytes()).unwrap();
        let expected: Vec<u32> = pieces(&text).flat_map(|piece| codec.encode(&text[piece]).unwrap()).collect();
        assert_eq!(tokens.ids(0..tokens.len()).collect::<Vec<_>>(), expected);
        assert!(codec.encode_corpus(vec![b'a', 0xff]).is_err());
        let bytes = Codec::bytes().encode_corpus(vec![b'a', 0xff]).unwrap();
        assert_eq!(bytes.ids(0..2).collect::<Vec<_>>(), [97, 255]);
    }
}
