//! Token ids in a row, as narrow as their vocabulary allows: a text of bytes is
//! itself, others take two or four bytes a token.

use std::ops::Range;

/// Bytes of an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IdWidth {
    /// Vocabularies of up to 256.
    #[default]
    One,
    /// Of up to 65,536.
    Two,
    /// Larger ones.
    Four,
}

impl IdWidth {
    /// The narrowest that holds all ids of a vocabulary of this size.
    pub(crate) fn of_vocabulary(vocab_size: usize) -> Self {
        match vocab_size {
            0..=0x100 => Self::One,
            0x101..=0x1_0000 => Self::Two,
            _ => Self::Four,
        }
    }

    /// The number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// Token ids, little-endian.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    width: IdWidth,
    bytes: Vec<u8>,
}

/// Each byte is a token.
impl From<Vec<u8>> for Tokens {
    fn from(bytes: Vec<u8>) -> Self {
        Self { width: IdWidth::One, bytes }
    }
}

impl Tokens {
    /// None yet.
    pub(crate) fn new(width: IdWidth) -> Self {
        Self { width, bytes: Vec::new() }
    }

    /// Appends ids, which must fit the width.
    pub(crate) fn extend(&mut self, ids: &[u32]) {
        self.bytes.reserve(ids.len() * self.width.bytes());
        ids.iter().for_each(|id| self.bytes.extend_from_slice(&id.to_le_bytes()[..self.width.bytes()]));
    }

    /// Appends ids as they travel; whole ones in the end.
    pub(crate) fn extend_from_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.width.bytes()
    }

    /// As they travel.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The ids at these places.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn ids(&self, places: Range<usize>) -> impl Iterator<Item = u32> {
        let width = self.width.bytes();
        self.bytes[places.start * width..places.end * width].chunks_exact(width).map(move |bytes| {
            let mut id = [0; 4];
            id[..width].copy_from_slice(bytes);
            u32::from_le_bytes(id)
        })
    }

    /// The largest id; `None` without tokens.
    pub(crate) fn max_id(&self) -> Option<u32> {
        self.ids(0..self.len()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_from_every_width() {
        for (vocab_size, width, ids) in [
            (256, IdWidth::One, [0, 255, 7]),
            (257, IdWidth::Two, [256, 0, 1]),
            (1 << 16, IdWidth::Two, [65_535, 258, 3]),
            ((1 << 16) + 1, IdWidth::Four, [65_536, 1, 0xffff]),
        ] {
            assert_eq!(IdWidth::of_vocabulary(vocab_size), width);
            let mut tokens = Tokens::new(width);
            tokens.extend(&ids[..1]);
            tokens.extend(&ids[1..]);
            assert_eq!((tokens.len(), tokens.as_bytes().len()), (3, 3 * width.bytes()));
            assert_eq!(tokens.ids(0..3).collect::<Vec<_>>(), ids);
            assert_eq!(tokens.ids(1..2).collect::<Vec<_>>(), ids[1..2]);
            assert_eq!(tokens.max_id(), ids.into_iter().max());
            let mut travelled = Tokens::new(width);
            travelled.extend_from_bytes(tokens.as_bytes());
            assert_eq!(travelled, tokens);
        }
        assert_eq!(Tokens::from(vec![5, 200]).ids(0..2).collect::<Vec<_>>(), [5, 200]);
        assert_eq!(Tokens::default().max_id(), None);
    }
}
