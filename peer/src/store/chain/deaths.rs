//! A process that writes a ledger is killed at each point and each time that it
//! passes it; what is on the disk is then what it had acknowledged, or that and
//! the write that was under way, whole.

use super::*;
use crate::store::fault::POINTS;
use std::process::{Command, Stdio};

/// Says to the other process where, and at which point.
const FOLDER: &str = "MANTA_TEST_CHAIN_FOLDER";
const DIE_AT: &str = "MANTA_TEST_CHAIN_DIE_AT";

/// What a chain is asked to keep.
#[derive(Clone, Copy, Debug)]
enum Write {
    Begin(&'static [u8]),
    Log(u64, &'static [u8]),
    Block(u64, &'static [u8]),
    Snapshot(u64, &'static [u8]),
}

/// A short life: two heights, a snapshot, another ledger with its first height.
const LIFE: [Write; 11] = [
    Write::Begin(b"genesis"),
    Write::Log(1, b"signed"),
    Write::Log(1, b"signed again"),
    Write::Block(1, b"first"),
    Write::Snapshot(1, b"state after the first"),
    Write::Log(2, b"once more"),
    Write::Block(2, b"second"),
    Write::Snapshot(2, b"state after the second"),
    Write::Begin(b"another genesis"),
    Write::Log(1, b"signed elsewhere"),
    Write::Block(1, b"first elsewhere"),
];

fn carry_out(store: &mut ChainStore, write: Write) -> Result<(), ChainError> {
    match write {
        Write::Begin(genesis) => store.begin(genesis),
        Write::Log(height, record) => store.append_log(height, record),
        Write::Block(height, block) => store.append(height, block),
        Write::Snapshot(height, state) => store.keep_snapshot(height, state),
    }
}

/// All that a chain keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    genesis: Option<Vec<u8>>,
    snapshot: Option<Snapshot>,
    blocks: Vec<Vec<u8>>,
    log: Vec<Vec<u8>>,
    log_height: u64,
}

impl Kept {
    /// What is kept after these writes.
    fn after(writes: &[Write]) -> Self {
        let mut kept = Self::default();
        for write in writes {
            match *write {
                Write::Begin(genesis) => kept = Self { genesis: Some(genesis.into()), ..Self::default() },
                Write::Log(height, record) => {
                    if kept.log_height != height {
                        kept.log.clear();
                    }
                    kept.log.push(record.into());
                    kept.log_height = height;
                }
                Write::Block(_, block) => kept.blocks.push(block.into()),
                Write::Snapshot(height, state) => kept.snapshot = Some((height, state.into())),
            }
        }
        kept
    }

    fn read(store: &mut ChainStore, log_height: u64) -> Self {
        Self {
            genesis: store.genesis().unwrap(),
            snapshot: store.snapshot().unwrap(),
            blocks: store.read(1, usize::MAX).unwrap(),
            log: store.log().unwrap(),
            log_height,
        }
    }
}

/// How many of the life's writes are whole on the disk, the first `acknowledged` at least.
fn written(folder: &Path, acknowledged: usize) -> usize {
    let mut store = ChainStore::open(folder).unwrap();
    let whole = |count: usize| {
        let expected = Kept::after(&LIFE[..count]);
        (Kept::read(&mut store, expected.log_height) == expected).then_some(count)
    };
    let found = (acknowledged..=(acknowledged + 1).min(LIFE.len())).find_map(whole);
    // What a write takes the place of may be gone before it is there: a former ledger
    // is beside it then, and the log of a height that is decided is of no use.
    let cleared = |count: usize| match LIFE[count] {
        Write::Begin(_) => Kept::default(),
        _ => Kept { log: Vec::new(), ..Kept::after(&LIFE[..count]) },
    };
    found.unwrap_or_else(|| {
        let expected = cleared(acknowledged);
        assert_eq!(Kept::read(&mut store, expected.log_height), expected, "after {acknowledged} writes");
        acknowledged
    })
}

/// The process that dies, started by the test below.
#[test]
#[ignore = "a part of the test below"]
fn a_process_that_writes_a_ledger() {
    let (Ok(folder), Ok(die_at)) = (std::env::var(FOLDER), std::env::var(DIE_AT)) else { return };
    let fault = FaultPoint::new(Some(die_at.parse().unwrap()));
    let mut store = ChainStore::open(Path::new(&folder)).unwrap().dying(fault);
    for write in LIFE {
        carry_out(&mut store, write).unwrap();
        println!("\nacknowledged");
    }
}

#[test]
fn a_process_that_is_killed_at_any_point_leaves_what_it_has_acknowledged() {
    for (point, ..) in POINTS {
        let deaths = (0..).take_while(|passes| is_survived(&format!("{point}:{passes}"))).count();
        assert!(deaths > 0, "{point} was never come to");
    }
}

/// Lets a process die there; `false` if it lives to the end.
fn is_survived(death: &str) -> bool {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["store::chain::deaths::a_process_that_writes_a_ledger", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, &folder)
        .env(DIE_AT, death)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let acknowledged = text.lines().filter(|line| *line == "acknowledged").count();
    if output.status.success() {
        assert_eq!(acknowledged, LIFE.len(), "{death}: {text}");
        return false;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("as it was told to") && !errors.contains("panicked"), "{death}: {errors}");
    let written = written(&folder, acknowledged);
    // It can go on from there, and comes to the same end.
    let mut store = ChainStore::open(&folder).unwrap();
    for write in &LIFE[written..] {
        carry_out(&mut store, *write).unwrap();
    }
    let end = Kept::after(&LIFE);
    assert_eq!(Kept::read(&mut store, end.log_height), end, "{death}");
    let is_swept = fs::read_dir(&folder).unwrap().all(|entry| {
        let name = entry.unwrap().file_name();
        !name.to_string_lossy().starts_with(UNNAMED)
    });
    assert!(is_swept, "{death}");
    true
}
