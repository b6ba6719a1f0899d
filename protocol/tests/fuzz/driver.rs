//! Runs a function over a corpus and over mutations of it: always the same
//! ones, so that a failure on one machine is one on all.
//!
//! `MANTA_FUZZ_CASES=1000000 cargo test --release --test fuzz` looks further.

use manta_protocol::Seed;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Longest input; what mutations make longer is cut.
const INPUT_BYTES_MAX: usize = 4_096;

/// Numbers that lengths and counters break at.
const EDGES: [u64; 12] = [
    0,
    1,
    0x17,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// A stream of draws.
pub(crate) struct Dice {
    stream: blake3::OutputReader,
}

impl Dice {
    pub(crate) fn new(seed: Seed) -> Self {
        Self { stream: blake3::Hasher::new_keyed(seed.0.as_bytes()).finalize_xof() }
    }

    /// A number below `bound`; zero if there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let mut bytes = [0; 8];
        self.stream.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % (bound as u64).max(1)) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.fill(&mut bytes);
        bytes
    }
}

/// A change that knows what the bytes mean; `None` if they mean nothing to it.
pub(crate) type Change = fn(&mut Dice, &[u8]) -> Option<Vec<u8>>;

/// The inputs of `fuzz/corpus/<name>` of the package in `package`, by name of file.
pub(crate) fn corpus(package: &str, name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(package).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a corpus can be listed").path()).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        (name, std::fs::read(path).expect("a corpus can be read"))
    };
    let inputs: Vec<_> = paths.iter().map(read).collect();
    assert!(!inputs.is_empty(), "{} is empty: write it as tests/fuzz says", folder.display());
    inputs
}

/// Replays the corpus, then runs `cases` mutations of it.
pub(crate) fn fuzz(package: &str, name: &str, cases: u64, target: fn(&[u8]), change: Option<Change>) {
    let corpus = corpus(package, name);
    for (file, input) in &corpus {
        attempt(&format!("fuzz/corpus/{name}/{file}"), input, target);
    }
    let asked = std::env::var("MANTA_FUZZ_CASES").ok().map(|text| text.parse().expect("MANTA_FUZZ_CASES is a number"));
    for case in 0..asked.unwrap_or(cases) {
        let mut dice = Dice::new(Seed::from_number(case).child(name, 0));
        let input = mutated(&mut dice, &corpus, change);
        attempt(&format!("case {case} of {name}"), &input, target);
    }
}

fn attempt(what: &str, input: &[u8], target: fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let digits: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{what} fails; its {} bytes are\n{digits}", input.len());
        std::panic::resume_unwind(panic);
    }
}

fn mutated(dice: &mut Dice, corpus: &[(String, Vec<u8>)], change: Option<Change>) -> Vec<u8> {
    let (_, mut input) = corpus[dice.below(corpus.len())].clone();
    for _ in 0..=dice.below(5) {
        let meant = change.filter(|_| dice.below(4) > 0).and_then(|change| change(dice, &input));
        match meant {
            Some(changed) => input = changed,
            None => mutate(dice, &mut input, corpus),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn mutate(dice: &mut Dice, input: &mut Vec<u8>, corpus: &[(String, Vec<u8>)]) {
    let at = dice.below(input.len() + 1);
    let length = (1 + dice.below(16)).min(input.len() - at);
    match dice.below(10) {
        0 if at < input.len() => input[at] ^= 1 << dice.below(8),
        1 if at < input.len() => input[at] = dice.below(256) as u8,
        2 => input.truncate(at),
        3 => drop(input.drain(at..at + length)),
        4 => {
            let piece = input[at..at + length].to_vec();
            let to = dice.below(input.len() + 1);
            input.splice(to..to, piece);
        }
        5 => {
            let (_, other) = &corpus[dice.below(corpus.len())];
            input.truncate(at);
            input.extend_from_slice(&other[dice.below(other.len() + 1)..]);
        }
        6 | 7 => {
            // An attack on a length or a counter.
            let edge = EDGES[dice.below(EDGES.len())];
            let mut bytes = edge.to_le_bytes()[..1 << dice.below(4)].to_vec();
            if dice.below(2) == 0 {
                bytes.reverse();
            }
            input[at..].iter_mut().zip(bytes).for_each(|(byte, new)| *byte = new);
        }
        8 => {
            let piece = dice.bytes(length.max(1));
            input.splice(at..at, piece);
        }
        _ => {
            let count = 1 + dice.below(256);
            input.extend(dice.bytes(count));
        }
    }
}
