//! Random numbers, and text that can be learnt in seconds.

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Uniform in −1..1.
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// English-like sentences from a small grammar.
pub(crate) fn text(bytes: usize) -> Vec<u32> {
    const SUBJECTS: [&str; 8] = ["the fox", "a heron", "my sister", "the miller", "an otter", "he", "she", "the rain"];
    const VERBS: [&str; 6] = ["sees", "follows", "greets", "forgets", "paints", "carries"];
    const OBJECTS: [&str; 8] =
        ["the river", "a lantern", "seven stones", "the old bridge", "nothing", "its shadow", "bread", "a quiet song"];
    const ENDINGS: [&str; 5] = ["", " at dawn", " in the valley", " without a word", " again and again"];
    let mut random = Random(26);
    let mut pick = |words: &[&'static str]| words[random.below(words.len())];
    let mut text = String::new();
    while text.len() < bytes {
        text += &format!("{} {} {}{}.\n", pick(&SUBJECTS), pick(&VERBS), pick(&OBJECTS), pick(&ENDINGS));
    }
    text.bytes().take(bytes).map(u32::from).collect()
}
