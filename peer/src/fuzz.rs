//! What is fuzzed of the peer: what strangers send, and files that somebody has
//! changed. Each is a function of bytes that must not panic; `peer/fuzz` hands
//! them to libFuzzer, the tests below run them over a corpus and its mutations.

use crate::api::PeerFile;
use crate::checkpoint::read::read;
use crate::checkpoint::sample::write_model;
use crate::checkpoint::write::Foreign;
use crate::data::manifest::{CHUNK_BYTES, Manifest};
use crate::net::addresses;
use crate::net::frame::{FrameCodec, MAX_FRAME_BYTES};
use crate::net::ticket::{Ticket, text_of_body};
use crate::store::journal::{Journal, Storage};
use crate::store::state_file::{StateFolder, StateOf};
use futures::executor::block_on;
use futures::io::Cursor;
use libp2p::StreamProtocol;
use libp2p::request_response::Codec as _;
use manta_protocol::RunId;
use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

/// A folder for files of one process' cases.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path()
}

/// A line of text, or the body of a ticket, to which the right checksum is added.
pub fn ticket(bytes: &[u8]) {
    let by_text = std::str::from_utf8(bytes).ok().map(str::to_owned);
    for text in by_text.into_iter().chain([text_of_body(bytes)]) {
        if let Ok(ticket) = text.parse::<Ticket>() {
            assert_eq!(ticket.to_string(), text.trim(), "there is one text for a ticket");
            let _ = ticket.dial_addresses();
        }
    }
}

/// The list of a data set's chunks.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    assert_eq!(manifest.encode(), bytes, "one manifest has one encoding");
    let lengths: Vec<_> = (0..manifest.chunks.len()).map(|index| manifest.chunk_bytes(index)).collect();
    assert!(lengths.iter().all(|length| (1..=CHUNK_BYTES).contains(length)), "no chunk is empty or too long");
    let total: usize = lengths.iter().sum();
    assert_eq!(total as u64, manifest.training_bytes + manifest.validation_bytes);
}

/// A direct message as it comes from a stream, and the answer to one.
pub fn frame(bytes: &[u8]) {
    let protocol = StreamProtocol::new("/manta/fuzz/frame/1");
    let mut codec = FrameCodec;
    if let Ok(frame) = block_on(codec.read_request(&protocol, &mut Cursor::new(bytes))) {
        assert!(frame.len() <= MAX_FRAME_BYTES && bytes[4..].starts_with(&frame));
    }
    if let Ok(answer) = block_on(codec.read_response(&protocol, &mut Cursor::new(bytes))) {
        let mut written = Cursor::new(Vec::new());
        block_on(codec.write_response(&protocol, &mut written, answer)).expect("memory takes all");
        assert_eq!(written.into_inner(), bytes[..1], "one answer has one byte");
    }
}

/// An address from a listing, and what may be dialled of it.
pub fn address(bytes: &[u8]) {
    let Some(address) = addresses::from_bytes(bytes) else { return };
    let _ = addresses::ip(&address);
    let (bare, named) = addresses::split_peer(address.clone());
    let again = named.map_or(bare.clone(), |peer| bare.with(libp2p::multiaddr::Protocol::P2p(peer)));
    assert_eq!(again, address, "an address is its two parts");
    let peer = libp2p::PeerId::from(libp2p::identity::Keypair::ed25519_from_bytes([7; 32]).expect("a key").public());
    let dialable = addresses::dialable(&peer, [address], true);
    assert!(dialable.iter().all(|address| addresses::split_peer(address.clone()).1.is_none()));
}

/// The files of a model that are fuzzed, by number.
const MODEL_FILES: [&str; 4] = ["config.json", "tokenizer.json", "manta-run.json", "model.safetensors"];

/// A folder with a small model, and the content of its files.
fn sample_model() -> (PathBuf, Vec<Vec<u8>>) {
    let path = folder().join("model");
    write_model(&path, Foreign::Refuse).expect("a small model can be written");
    let files = MODEL_FILES.iter().map(|file| fs::read(path.join(file)).expect("a model's file"));
    (path.clone(), files.collect())
}

/// One file of a model: its number (see [`MODEL_FILES`]), then its bytes. The
/// others are good, and values follow on the header of the parameters.
pub fn model(bytes: &[u8]) {
    static GOOD: OnceLock<(PathBuf, Vec<Vec<u8>>)> = OnceLock::new();
    let (path, good) = GOOD.get_or_init(sample_model);
    let Some((number, content)) = bytes.split_first() else { return };
    let number = usize::from(*number) % MODEL_FILES.len();
    let mut content = content.to_vec();
    if MODEL_FILES[number] == "model.safetensors" {
        content.resize(good[number].len().max(content.len()), 0);
    }
    let file = path.join(MODEL_FILES[number]);
    fs::write(&file, &content).expect("a temporary file");
    if let Ok(checkpoint) = read(path) {
        assert!(checkpoint.parameters.iter().all(|value| value.is_finite()));
        assert!(checkpoint.config.validate().is_ok());
    }
    fs::write(&file, &good[number]).expect("a temporary file");
}

/// A journal's disk that is memory.
#[derive(Clone, Default)]
struct Memory {
    content: Rc<RefCell<Vec<u8>>>,
}

impl Storage for Memory {
    fn path(&self) -> &Path {
        Path::new("journal")
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let content = self.content.borrow().clone();
        Ok((!content.is_empty()).then_some(content))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.borrow_mut().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        *self.content.borrow_mut() = bytes.to_vec();
        Ok(())
    }

    fn put_aside(&mut self, _: &[u8]) -> io::Result<PathBuf> {
        Ok("aside".into())
    }
}

/// The journal of promises: damaged anywhere, it is refused or keeps what it says.
pub fn journal(bytes: &[u8]) {
    let memory = Memory { content: Rc::new(RefCell::new(bytes.to_vec())) };
    let Ok(mut journal) = Journal::open_on(memory.clone()) else { return };
    let entries: Vec<_> = journal.iter().map(|(key, value)| (*key, value.to_vec())).collect();
    let key = [9; 32];
    journal.put(&key, b"a promise").expect("a journal that was opened can be written");
    drop(journal);
    let again = Journal::open_on(memory).expect("what was written can be read");
    assert_eq!(again.get(&key), Some(&b"a promise"[..]));
    assert!(entries.iter().all(|(old, value)| *old == key || again.get(old) == Some(value)));
}

/// The state that [`state_file`] asks for, and its file.
fn sample_state() -> &'static (StateFolder, StateOf, PathBuf) {
    // Each save syncs the disk.
    static SAMPLE: OnceLock<(StateFolder, StateOf, PathBuf)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let path = folder().join("states");
        let states = StateFolder::open(&path).expect("a temporary folder");
        let of = StateOf { run: RunId([7; 32]), exchange: 3 };
        states.save(of, &[&[1.0, 2.0, 3.0], &[0.0, -1.0, 0.5]]).expect("a small state can be saved");
        let file = fs::read_dir(&path).expect("a folder").next().expect("one file").expect("one file").path();
        (states, of, file)
    })
}

/// A state of a run on the disk: its content is hashed, so changed ones are refused.
pub fn state_file(bytes: &[u8]) {
    let (states, of, file) = sample_state();
    fs::write(file, bytes).expect("a temporary file");
    let Ok(Some(vectors)) = states.load(*of) else { return };
    let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
    states.save(*of, &vectors).expect("what was loaded can be saved");
    assert_eq!(fs::read(file).expect("the state"), bytes, "one state has one file");
}

/// The file by which commands find the peer that runs.
pub fn peer_file(bytes: &[u8]) {
    let path = folder().join("peer");
    fs::create_dir_all(&path).expect("a temporary folder");
    fs::write(path.join("peer.json"), bytes).expect("a temporary file");
    if let Ok(file) = PeerFile::read(&path) {
        file.write(&path).expect("what was read can be written");
        let again = PeerFile::read(&path).expect("what was written can be read");
        assert_eq!((again.http, again.ticket), (file.http, file.ticket));
    }
}

#[cfg(test)]
#[path = "../../protocol/tests/fuzz/driver.rs"]
mod driver;

#[cfg(test)]
mod tests {
    use super::driver::{corpus, fuzz};
    use super::*;
    use crate::data::tokenizer::Tokenizer;

    const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

    #[test]
    fn what_strangers_send_is_read_without_panic() {
        fuzz(PACKAGE, "ticket", 20_000, ticket, None);
        fuzz(PACKAGE, "manifest", 20_000, manifest, None);
        fuzz(PACKAGE, "frame", 20_000, frame, None);
        fuzz(PACKAGE, "address", 20_000, address, None);
    }

    #[test]
    fn files_that_somebody_has_changed_are_read_without_panic() {
        fuzz(PACKAGE, "model", 1_500, model, None);
        fuzz(PACKAGE, "journal", 5_000, journal, None);
        fuzz(PACKAGE, "state_file", 500, state_file, None);
        fuzz(PACKAGE, "peer_file", 1_000, peer_file, None);
    }

    #[test]
    fn good_files_of_the_corpus_are_accepted() {
        let first = |name: &str| corpus(PACKAGE, name).swap_remove(0).1;
        assert!(Manifest::decode(&first("manifest")).is_ok());
        assert!(text_of_body(&first("ticket")).parse::<Ticket>().is_ok());
        assert!(addresses::from_bytes(&first("address")).is_some());
        let memory = Memory { content: Rc::new(RefCell::new(first("journal"))) };
        assert_eq!(Journal::open_on(memory).map(|journal| journal.iter().count()).ok(), Some(1));
    }

    /// The corpora, made anew after a change of a format:
    /// `cargo test --release -p manta-peer -- --ignored write_corpus`.
    #[test]
    #[ignore = "writes the corpora"]
    fn write_corpus() {
        let put = |target: &str, name: &str, bytes: &[u8]| {
            assert!(bytes.len() < 4_096, "{target}/{name} is small");
            let folder = Path::new(PACKAGE).join("fuzz/corpus").join(target);
            fs::create_dir_all(&folder).expect("the folder of a corpus");
            fs::write(folder.join(name), bytes).expect("a file of a corpus");
        };
        for text in ["/ip4/192.0.2.1/udp/4001/quic-v1", "/ip6/2001:db8::1/tcp/4001", "/dns4/example.org/tcp/1"] {
            let address: libp2p::Multiaddr = text.parse().expect("an address");
            put("address", &text[1..4], &address.to_vec());
        }
        put("ticket", "body-1", &sample_ticket());
        put("ticket", "text", text_of_body(&sample_ticket()).as_bytes());
        let data = crate::data::DataSet { training: vec![1; CHUNK_BYTES + 9].into(), validation: vec![2; 300].into() };
        put("manifest", "small", &Manifest::of(&data, &Tokenizer::Bytes).encode());
        put("frame", "hello", &[&[0, 0, 0, 5][..], b"hello"].concat());
        put("frame", "huge", &[255, 255, 255, 255, 0]);
        let (_, files) = sample_model();
        for (number, (name, content)) in (0u8..).zip(MODEL_FILES.iter().zip(files)) {
            let content = match *name {
                // The whole one is long.
                "tokenizer.json" => {
                    br#"{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}"#.to_vec()
                }
                "model.safetensors" => {
                    let length = content.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
                    content[..8 + length as usize].to_vec()
                }
                _ => content,
            };
            put("model", name, &[&[number], &content[..]].concat());
        }
        let memory = Memory::default();
        let mut journal = Journal::open_on(memory.clone()).expect("a new journal");
        journal.put(&[1; 32], b"an older promise").expect("memory takes all");
        journal.put(&[1; 32], b"a newer promise").expect("memory takes all");
        put("journal", "one-key", &memory.content.borrow());
        put("state_file", "two-vectors", &fs::read(&sample_state().2).expect("the state"));
        let peer = PeerFile {
            http: ([127, 0, 0, 1], 4040).into(),
            control_token: "token".into(),
            peer_id: RunId([7; 32]).to_string(),
            ticket: text_of_body(&sample_ticket()),
            process_id: 7,
        };
        put("peer_file", "small", &serde_json::to_vec(&peer).expect("a file of ours"));
    }

    /// The body of an open swarm's ticket with one address.
    fn sample_ticket() -> Vec<u8> {
        let address: libp2p::Multiaddr = "/ip4/192.0.2.1/udp/4001/quic-v1".parse().expect("an address");
        [&[1][..], &[2; 32], &[3; 32], &[1, address.len() as u8], address.as_ref()].concat()
    }
}
