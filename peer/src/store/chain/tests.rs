//! What a chain on disk survives, and what it refuses.

use super::*;

fn block(height: u64) -> Vec<u8> {
    (0..1 + height % 300).map(|at| (at * 7 + height) as u8).collect()
}

fn filled(folder: &Path, heights: u64) -> ChainStore {
    let mut store = ChainStore::open(folder).unwrap();
    store.begin(b"genesis").unwrap();
    for height in 1..=heights {
        store.append(height, &block(height)).unwrap();
    }
    store
}

#[test]
fn blocks_come_back_over_file_borders_and_openings() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    // Syncing each of 4,100 blocks is slow on some disks: all but the border is written at once.
    let mut image = Vec::new();
    for height in 1..=HEIGHTS_PER_FILE - 2 {
        image.extend_from_slice(&record(height, &block(height)));
    }
    filled(&folder, 0);
    fs::write(folder.join("blocks-0000000001"), image).unwrap();
    for height in HEIGHTS_PER_FILE - 1..HEIGHTS_PER_FILE + 3 {
        let mut store = ChainStore::open(&folder).unwrap();
        assert_eq!(store.last_height(), height - 1);
        store.append(height, &block(height)).unwrap();
        assert!(matches!(store.append(height, &block(height)), Err(ChainError::Unfit { .. })), "not twice");
    }
    let mut store = ChainStore::open(&folder).unwrap();
    let read = store.read(HEIGHTS_PER_FILE - 3, usize::MAX).unwrap();
    let expected: Vec<_> = (HEIGHTS_PER_FILE - 3..HEIGHTS_PER_FILE + 3).map(block).collect();
    assert_eq!(read, expected);
    assert_eq!(store.read(1, 1).unwrap(), [block(1)], "at least one");
    assert_eq!(store.read(HEIGHTS_PER_FILE + 3, 1000).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(store.genesis().unwrap().as_deref(), Some(&b"genesis"[..]));
}

#[test]
fn a_torn_last_block_is_cut_off_and_other_damage_is_an_error() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    filled(&folder, 5);
    let path = folder.join("blocks-0000000001");
    let good = fs::read(&path).unwrap();
    let last = good.len() - record(5, &block(5)).len();
    for length in last..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        let mut store = ChainStore::open(&folder).unwrap();
        assert_eq!(store.last_height(), 4, "torn to {length} bytes");
        store.append(5, &block(5)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), good);
    }
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        fs::write(&path, &good).unwrap();
        let mut store = ChainStore::open(&folder).unwrap();
        fs::write(&path, &flipped).unwrap();
        assert!(matches!(store.read(1, usize::MAX), Err(ChainError::Damaged { .. })), "byte {at} is flipped");
        match ChainStore::open(&folder) {
            Ok(store) => assert!(at >= last && store.last_height() == 4, "byte {at} is flipped"),
            Err(error) => assert!(at < last, "byte {at} is flipped: {error}"),
        }
    }
}

#[test]
fn more_than_a_torn_block_behind_the_last_whole_one_is_damage() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    filled(&folder, 2);
    let path = folder.join("blocks-0000000001");
    let good = fs::read(&path).unwrap();
    fs::write(&path, [&good[..], &vec![0; 2 * BLOCK_BYTES_MAX]].concat()).unwrap();
    assert!(matches!(ChainStore::open(&folder), Err(ChainError::Damaged { .. })));
}

#[test]
fn snapshots_and_genesis_are_whole_or_an_error() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    let mut store = ChainStore::open(&folder).unwrap();
    assert_eq!(store.genesis().unwrap(), None);
    assert_eq!(store.snapshot().unwrap(), None);
    store.begin(b"first").unwrap();
    store.keep_snapshot(3, b"three").unwrap();
    store.keep_snapshot(9, b"nine").unwrap();
    assert_eq!(store.snapshot().unwrap(), Some((9, b"nine".to_vec())));
    for name in [GENESIS, STATE] {
        let path = folder.join(name);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 0x80;
            fs::write(&path, &flipped).unwrap();
            assert!(store.document(name).is_err(), "{name}: byte {at} is flipped");
            fs::write(&path, &good[..at]).unwrap();
            assert!(store.document(name).is_err(), "{name}: only {at} bytes");
        }
        fs::write(&path, &good).unwrap();
    }
    // One document does not pass for another.
    fs::copy(folder.join(STATE), folder.join(GENESIS)).unwrap();
    assert!(store.genesis().is_err());
}

#[test]
fn recoveries_come_back_in_their_order_and_are_whole_or_an_error() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    let mut store = filled(&folder, 4);
    assert_eq!(store.recoveries().unwrap(), Vec::new());
    for (height, text) in [(3, "early"), (6, "late"), (5, "")] {
        assert!(matches!(store.append_recovery(height, text.as_bytes()), Err(ChainError::Unfit { .. })), "{height}");
    }
    // A second one at the same height replaces a committee that never decided.
    store.append_recovery(5, b"first").unwrap();
    store.append_recovery(5, b"second").unwrap();
    store.append(5, &block(5)).unwrap();
    store.append(6, &block(6)).unwrap();
    store.append_recovery(7, b"third").unwrap();
    let expected = vec![(5, b"first".to_vec()), (5, b"second".to_vec()), (7, b"third".to_vec())];
    let path = folder.join(RECOVERIES);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        for damaged in [&flipped[..], &good[..at]] {
            fs::write(&path, damaged).unwrap();
            assert!(ChainStore::open(&folder).unwrap().recoveries().is_err(), "byte {at}");
        }
    }
    fs::write(&path, &good).unwrap();
    // What a crash left half written beside it means nothing.
    fs::write(folder.join(".writing-1234"), &good[..9]).unwrap();
    let mut store = ChainStore::open(&folder).unwrap();
    assert_eq!((store.last_height(), store.recoveries().unwrap()), (6, expected));
    store.begin(b"another").unwrap();
    assert_eq!(store.recoveries().unwrap(), Vec::new());
}

#[test]
fn another_ledger_puts_the_former_aside() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    let mut store = filled(&folder, 3);
    store.keep_snapshot(3, b"three").unwrap();
    store.begin(b"second").unwrap();
    assert_eq!((store.last_height(), store.snapshot().unwrap()), (0, None));
    store.append(1, b"new").unwrap();
    assert_eq!(ChainStore::open(&folder.with_extension("left")).unwrap().last_height(), 3);
    store.begin(b"third").unwrap();
    assert_eq!(ChainStore::open(&folder.with_extension("left")).unwrap().last_height(), 1);
}

#[test]
fn the_log_has_the_records_of_its_latest_height_whole() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    let mut store = filled(&folder, 1);
    assert_eq!(store.log().unwrap(), Vec::<Vec<u8>>::new());
    for (height, text) in [(1, "a"), (1, "b"), (2, "c"), (2, "longer"), (2, "last")] {
        store.append_log(height, text.as_bytes()).unwrap();
    }
    let good = fs::read(folder.join(LOG)).unwrap();
    let read = |bytes: &[u8]| {
        fs::write(folder.join(LOG), bytes).unwrap();
        ChainStore::open(&folder).unwrap().log()
    };
    let of = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(read(&good).unwrap(), of(&["c", "longer", "last"]));
    let last = good.len() - record(2, b"last").len();
    for length in last..good.len() {
        assert_eq!(read(&good[..length]).unwrap(), of(&["c", "longer"]), "torn to {length} bytes");
        let mut store = ChainStore::open(&folder).unwrap();
        store.append_log(2, b"last").unwrap();
        assert_eq!(fs::read(folder.join(LOG)).unwrap(), good);
    }
    for at in 0..last {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        let found = read(&flipped);
        assert!(matches!(found, Err(ChainError::Damaged { .. })), "byte {at} is flipped: {found:?}");
    }
    // A crash while another height's first record takes the place of these.
    fs::write(folder.join(LOG), &good).unwrap();
    ChainStore::open(&folder).unwrap().append(2, b"block").unwrap();
    let other = record(3, b"d");
    let overwritten = [&other[..], &good[other.len()..]].concat();
    assert_eq!(read(&overwritten).unwrap(), of(&["d"]));
    let mut store = ChainStore::open(&folder).unwrap();
    store.append_log(4, b"e").unwrap();
    assert_eq!(ChainStore::open(&folder).unwrap().log().unwrap(), of(&["e"]));
    let long = vec![0; LOG_RECORD_BYTES_MAX + 1];
    assert!(matches!(store.append_log(4, &long), Err(ChainError::LongRecord { .. })));
}

#[test]
fn documents_that_never_got_their_names_are_swept_away() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ledger");
    let mut store = filled(&folder, 2);
    store.keep_snapshot(2, b"two").unwrap();
    let unnamed = folder.join(format!("{UNNAMED}abc"));
    fs::write(&unnamed, b"half a snap").unwrap();
    let store = ChainStore::open(&folder).unwrap();
    assert!(!unnamed.exists());
    assert_eq!((store.last_height(), store.snapshot().unwrap()), (2, Some((2, b"two".to_vec()))));
}
