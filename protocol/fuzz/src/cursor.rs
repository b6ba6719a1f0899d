//! Reads values from fuzzed bytes. Any bytes are a value; when they run out, zeros follow.

/// A place in fuzzed bytes.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes.split_off_first().copied().unwrap_or(0)
    }

    /// A value below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    /// True for one byte in `out_of`.
    pub(crate) fn rarely(&mut self, out_of: u8) -> bool {
        self.byte() % out_of == out_of - 1
    }

    /// At most `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        self.bytes.split_off(..count.min(self.bytes.len())).unwrap_or_default()
    }

    /// Mostly `near` or a neighbour of it, sometimes a number that tends to break things.
    pub(crate) fn number(&mut self, near: u64) -> u64 {
        let byte = self.byte();
        match byte {
            0..=127 => near,
            128..=159 => near.saturating_add(1),
            160..=191 => near.saturating_sub(1),
            192..=207 => near.saturating_add(u64::from(byte & 15)),
            208..=223 => near.saturating_sub(u64::from(byte & 15)),
            224..=239 => u64::from(self.byte()),
            240..=242 => u64::MAX,
            243..=245 => u64::MAX - 1,
            246..=247 => i64::MAX as u64,
            248..=249 => 1 << self.below(64),
            250..=251 => u64::from(u32::MAX),
            252 => u64::from(u32::MAX) + 1,
            253 => (1 << self.below(64)) - 1,
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// The same for 32 bits.
    pub(crate) fn number32(&mut self, near: u32) -> u32 {
        let number = self.number(u64::from(near));
        u32::try_from(number).unwrap_or(u32::MAX - (u64::MAX - number).min(9) as u32)
    }
}
