//! The journal on a disk that loses, tears and alters what was not synced, and on a real one.

use super::record::{HEADER_BYTES, RECORD_OVERHEAD_BYTES};
use super::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

/// What a fault does to the call that it hits.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// An append writes this share (in 256ths) of its bytes and fails; a sync or a replacement fails without effect.
    Before(u8),
    /// The call takes effect and then fails.
    After,
}

#[derive(Default)]
struct Platter {
    durable: Option<Vec<u8>>,
    unsynced: Vec<u8>,
    aside: Vec<Vec<u8>>,
    /// Calls until the fault.
    fault: Option<(usize, Fault)>,
}

/// A disk in memory, shared with the test that crashes it.
#[derive(Clone, Default)]
struct FaultyDisk(Rc<RefCell<Platter>>);

impl Platter {
    fn next(&mut self) -> Option<Fault> {
        let (calls, fault) = self.fault.as_mut()?;
        if *calls > 0 {
            *calls -= 1;
            return None;
        }
        let fault = *fault;
        self.fault = None;
        Some(fault)
    }
}

fn refused() -> io::Error {
    io::Error::other("a fault of the test")
}

impl Storage for FaultyDisk {
    fn path(&self) -> &Path {
        Path::new("faulty")
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let platter = self.0.borrow();
        // What was written and not synced shows as long as the machine runs.
        Ok(platter.durable.as_ref().map(|durable| [&durable[..], &platter.unsynced].concat()))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut platter = self.0.borrow_mut();
        let (written, result) = match platter.next() {
            None => (bytes.len(), Ok(())),
            Some(Fault::Before(share)) => (bytes.len() * usize::from(share) / 256, Err(refused())),
            Some(Fault::After) => (bytes.len(), Err(refused())),
        };
        platter.unsynced.extend_from_slice(&bytes[..written]);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut platter = self.0.borrow_mut();
        let fault = platter.next();
        if !matches!(fault, Some(Fault::Before(_))) {
            let unsynced = std::mem::take(&mut platter.unsynced);
            platter.durable.as_mut().expect("a journal was begun").extend(unsynced);
        }
        fault.map_or(Ok(()), |_| Err(refused()))
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut platter = self.0.borrow_mut();
        let fault = platter.next();
        if !matches!(fault, Some(Fault::Before(_))) {
            platter.durable = Some(bytes.to_vec());
            platter.unsynced.clear();
        }
        fault.map_or(Ok(()), |_| Err(refused()))
    }

    fn put_aside(&mut self, bytes: &[u8]) -> io::Result<PathBuf> {
        self.0.borrow_mut().aside.push(bytes.to_vec());
        Ok(PathBuf::from("aside"))
    }
}

/// What becomes of the bytes that were not synced.
#[derive(Clone, Debug)]
struct Crash {
    /// Only the process dies: they still show, and are still lost with the power.
    kill: bool,
    /// The share of them that reaches the disk, in 256ths; 256 is all.
    kept: usize,
    /// Bits altered in what is kept, by position.
    flips: Vec<(usize, u8)>,
    /// The last of the kept bytes are zero, as where a file was lengthened before it was written.
    zeros: usize,
}

const POWER_LOSS: Crash = Crash { kill: false, kept: 0, flips: Vec::new(), zeros: 0 };

impl FaultyDisk {
    fn crash(&self, crash: &Crash) {
        let mut platter = self.0.borrow_mut();
        platter.fault = None;
        if crash.kill {
            return;
        }
        let mut tail = std::mem::take(&mut platter.unsynced);
        tail.truncate(tail.len() * crash.kept / 256);
        let length = tail.len();
        tail[length - crash.zeros.min(length)..].fill(0);
        for (at, bit) in &crash.flips {
            if let Some(byte) = tail.get_mut(at % length.max(1)) {
                *byte ^= 1 << (bit % 8);
            }
        }
        if let Some(durable) = &mut platter.durable {
            durable.extend(tail);
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8, Vec<u8>),
    Remove(u8),
}

type State = BTreeMap<Key, Vec<u8>>;

fn key(name: u8) -> Key {
    [name; 32]
}

fn state<S: Storage>(journal: &Journal<S>) -> State {
    journal.iter().map(|(key, value)| (*key, value.to_vec())).collect()
}

fn apply<S: Storage>(journal: &mut Journal<S>, change: &Change) -> Result<(), JournalError> {
    match change {
        Change::Put(name, value) => journal.put(&key(*name), value),
        Change::Remove(name) => journal.remove(&key(*name)),
    }
}

fn expect(state: &State, change: &Change) -> State {
    let mut state = state.clone();
    match change {
        Change::Put(name, value) => state.insert(key(*name), value.clone()),
        Change::Remove(name) => state.remove(&key(*name)),
    };
    state
}

fn changes(longest: usize) -> impl Strategy<Value = Vec<Change>> {
    let put = (0..5_u8, any::<u8>(), 0..=longest).prop_map(|(name, fill, length)| {
        let value = (0..length).map(|at| fill.wrapping_add((at / 7) as u8)).collect();
        Change::Put(name, value)
    });
    prop::collection::vec(prop_oneof![4 => put, 1 => (0..5_u8).prop_map(Change::Remove)], 1..24)
}

fn crashes() -> impl Strategy<Value = Crash> {
    let flips = prop::collection::vec((any::<usize>(), any::<u8>()), 0..4);
    (prop::bool::weighted(0.3), 0..=256_usize, flips, 0..100_usize).prop_map(|(kill, kept, flips, zeros)| {
        let zeros = if zeros < 60 { 0 } else { zeros };
        Crash { kill, kept, flips, zeros }
    })
}

fn faults() -> impl Strategy<Value = Option<(usize, Fault)>> {
    let fault = prop_oneof![any::<u8>().prop_map(Fault::Before), Just(Fault::After)];
    prop::option::weighted(0.8, (0..60_usize, fault))
}

/// Changes until a fault or the end, then a crash; gives what may be found afterwards: the
/// acknowledged state, and the one after the change that was under way.
fn live_and_crash(disk: &FaultyDisk, changes: &[Change], crash: &Crash) -> Vec<State> {
    let Ok(mut journal) = Journal::open_on(disk.clone()) else {
        disk.crash(crash);
        return Vec::new();
    };
    let mut acknowledged = state(&journal);
    let mut possible = vec![acknowledged.clone()];
    for change in changes {
        let next = expect(&acknowledged, change);
        if apply(&mut journal, change).is_ok() {
            acknowledged = next;
            possible = vec![acknowledged.clone()];
            assert_eq!(state(&journal), acknowledged);
            continue;
        }
        assert_eq!(state(&journal), acknowledged, "a change that failed is not shown");
        if possible.len() == 1 && next != acknowledged {
            possible.push(next);
        }
        let error = journal.put(&key(200), b"after a failure").expect_err("nothing more is promised");
        assert!(matches!(error, JournalError::Poisoned { .. }), "{error}");
        break;
    }
    disk.crash(crash);
    possible
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_crash_leaves_the_last_acknowledged_state_or_the_one_under_way(
        lives in prop::collection::vec((changes(300), faults(), crashes()), 1..4),
    ) {
        let disk = FaultyDisk::default();
        let mut possible = vec![State::new()];
        for (changes, fault, crash) in lives {
            let found = state(&Journal::open_on(disk.clone()).expect("no crash makes it unreadable"));
            prop_assert!(possible.contains(&found), "{found:?} is none of {possible:?}");
            disk.0.borrow_mut().fault = fault;
            possible = live_and_crash(&disk, &changes, &crash);
            if possible.is_empty() {
                possible.push(found);
            }
        }
        let found = state(&Journal::open_on(disk.clone()).expect("no crash makes it unreadable"));
        prop_assert!(possible.contains(&found), "{found:?} is none of {possible:?}");
        disk.crash(&POWER_LOSS);
        let again = state(&Journal::open_on(disk.clone()).expect("no crash makes it unreadable"));
        prop_assert_eq!(again, found, "what was shown stays");
    }

    #[test]
    fn damage_before_the_last_record_is_an_error_at_its_place(
        changes in changes(300), record in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let disk = FaultyDisk::default();
        let mut journal = Journal::open_on(disk.clone()).expect("a new one");
        let mut begins = Vec::new();
        for change in &changes {
            let begin = journal.file_bytes;
            apply(&mut journal, change).expect("no fault");
            if journal.file_bytes > begin {
                begins.push(begin);
            }
        }
        prop_assume!(begins.len() > 1);
        let which = record.index(begins.len() - 1);
        let (begin, end) = (begins[which], begins[which + 1]);
        let at = begin + byte.index(end - begin);
        disk.0.borrow_mut().durable.as_mut().expect("begun")[at] ^= 1 << bit;
        let before = disk.0.borrow().durable.clone();
        match Journal::open_on(disk.clone()) {
            Err(JournalError::DamagedMiddle { offset, .. }) => prop_assert_eq!(offset, begin),
            Err(other) => prop_assert!(false, "{other}"),
            Ok(_) => prop_assert!(false, "the damage at {at} went unnoticed"),
        }
        prop_assert_eq!(&disk.0.borrow().durable, &before, "nothing was altered");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_crash_about_a_compaction_loses_nothing(
        changes in changes(VALUE_BYTES_MAX), more in changes(VALUE_BYTES_MAX), fault in faults(), crash in crashes(),
    ) {
        let disk = FaultyDisk::default();
        let begun = live_and_crash(&disk, &changes, &POWER_LOSS);
        disk.0.borrow_mut().fault = fault.map(|(calls, fault)| (calls % 20, fault));
        let mut possible = live_and_crash(&disk, &more, &crash);
        if possible.is_empty() {
            possible = begun;
        }
        let found = state(&Journal::open_on(disk.clone()).expect("no crash makes it unreadable"));
        prop_assert!(possible.contains(&found));
    }
}

#[test]
fn the_file_is_written_anew_when_most_of_it_is_out_of_date() {
    let disk = FaultyDisk::default();
    let mut journal = Journal::open_on(disk.clone()).unwrap();
    let (mut longest, mut shrunk) = (0, 0);
    for round in 0..100_u8 {
        let before = journal.file_bytes;
        journal.put(&key(1), &vec![round; 100_000]).unwrap();
        shrunk += usize::from(journal.file_bytes < before);
        longest = longest.max(journal.file_bytes);
        assert_eq!(journal.file_bytes, disk.0.borrow().durable.as_ref().unwrap().len());
    }
    assert!(shrunk >= 5, "{shrunk}");
    assert!(longest <= DEAD_BYTES_MIN + 3 * 100_100, "{longest}");
    assert_eq!(journal.get(&key(1)), Some(&[99; 100_000][..]));
}

#[test]
fn a_failed_compaction_spoils_no_change_that_was_acknowledged() {
    let disk = FaultyDisk::default();
    let mut journal = Journal::open_on(disk.clone()).unwrap();
    let value = |round: u8| vec![round; VALUE_BYTES_MAX / 2];
    let mut round = 0;
    // Each change makes two calls; the third is the writing anew.
    while journal.poisoned.is_none() {
        round += 1;
        disk.0.borrow_mut().fault = Some((2, Fault::Before(0)));
        journal.put(&key(1), &value(round)).expect("the change itself is durable");
        assert!(round < 100, "it is written anew at some time");
    }
    assert!(journal.put(&key(2), b"next").unwrap_err().to_string().contains("restart this peer"));
    assert_eq!(Journal::open_on(disk).unwrap().get(&key(1)), Some(&value(round)[..]));
}

#[test]
fn values_that_imitate_records_do_not_hide_a_torn_end() {
    // A stranger's value that holds a whole journal, so that its records stand in ours.
    let foreign = FaultyDisk::default();
    let mut other = Journal::open_on(foreign.clone()).unwrap();
    (0..20).for_each(|name| other.put(&key(name), &[name; 50]).unwrap());
    let imitation = foreign.0.borrow().durable.clone().unwrap();
    let disk = FaultyDisk::default();
    let mut journal = Journal::open_on(disk.clone()).unwrap();
    journal.put(&key(1), b"promised").unwrap();
    disk.0.borrow_mut().fault = Some((1, Fault::Before(0)));
    journal.put(&key(2), &imitation).unwrap_err();
    disk.crash(&Crash { kept: 250, ..POWER_LOSS });
    let again = Journal::open_on(disk.clone()).unwrap();
    assert_eq!(state(&again), State::from([(key(1), b"promised".to_vec())]));
    assert!(disk.0.borrow().aside[0].len() > imitation.len() / 2, "the torn end is kept for whoever wants to look");
}

#[test]
fn the_bounds_hold() {
    let mut journal = Journal::open_on(FaultyDisk::default()).unwrap();
    let error = journal.put(&key(1), &vec![0; VALUE_BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(error, JournalError::ValueTooLong { found_bytes } if found_bytes == VALUE_BYTES_MAX + 1));
    let name = |number: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    };
    (0..KEYS_MAX).for_each(|number| journal.put(&name(number), b"").unwrap());
    assert!(matches!(journal.put(&name(KEYS_MAX), b""), Err(JournalError::Full { keys: KEYS_MAX, live_bytes: 0 })));
    journal.put(&name(0), b"a known key has room").unwrap();
    journal.remove(&name(1)).unwrap();
    journal.put(&name(KEYS_MAX), b"").unwrap();
    let full = LIVE_BYTES_MAX / VALUE_BYTES_MAX;
    let value = vec![7; VALUE_BYTES_MAX];
    journal.put(&name(0), b"").unwrap();
    (2..2 + full).for_each(|number| journal.put(&name(number), &value).unwrap());
    assert!(matches!(journal.put(&name(0), b"x"), Err(JournalError::Full { live_bytes: LIVE_BYTES_MAX, .. })));
}

#[test]
fn a_real_journal_is_locked_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::open(&path).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(matches!(&error, JournalError::InUse(named) if *named == path), "{error}");
    journal.put(&key(1), b"one").unwrap();
    journal.put(&key(2), b"two").unwrap();
    journal.put(&key(1), b"one again").unwrap();
    journal.remove(&key(2)).unwrap();
    let written = fs::metadata(&path).unwrap().len();
    journal.put(&key(1), b"one again").unwrap();
    journal.remove(&key(2)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), written, "what is so already is not written again");
    drop(journal);
    let again = Journal::open(&path).unwrap();
    assert_eq!(state(&again), State::from([(key(1), b"one again".to_vec())]));
    let compact = HEADER_BYTES + RECORD_OVERHEAD_BYTES + b"one again".len();
    assert_eq!(fs::metadata(&path).unwrap().len(), compact as u64);
}

#[test]
fn a_torn_end_of_a_real_journal_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for number in 1..=2 {
        let mut journal = Journal::open(&path).unwrap();
        journal.put(&key(1), b"kept").unwrap();
        journal.put(&key(2), b"torn").unwrap();
        drop(journal);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(state(&journal), State::from([(key(1), b"kept".to_vec())]));
        let aside = fs::read(folder.path().join(format!("journal.damaged-{number}"))).unwrap();
        assert_eq!(aside, bytes[bytes.len() - (RECORD_OVERHEAD_BYTES + 4)..bytes.len() - 3]);
        journal.remove(&key(1)).unwrap();
    }
}

#[test]
fn what_is_no_journal_is_left_alone_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    drop(Journal::open(&path).unwrap());
    let good = fs::read(&path).unwrap();
    let mut salted = good.clone();
    salted[20] ^= 1;
    let mut newer = good.clone();
    newer[8..12].copy_from_slice(&(record::VERSION + 1).to_le_bytes());
    let mut endless = good.clone();
    endless.resize(good.len() + record::RECORD_BYTES_MAX + 1, 0);
    for (content, part) in [
        (Vec::new(), "is not a journal"),
        (b"hello".to_vec(), "is not a journal"),
        (salted, "are damaged"),
        (newer, "this release reads 1"),
        (endless, "damaged at byte 36 of"),
    ] {
        fs::write(&path, &content).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(&path.display().to_string()), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
#[ignore = "a measurement, not a check"]
fn time_of_a_promise() {
    // Not in a folder that may be in memory.
    let folder = tempfile::tempdir_in(".").unwrap();
    let mut journal = Journal::open(&folder.path().join("journal")).unwrap();
    for length in [100, 10_000, 1_000_000] {
        let mut times_ms: Vec<f64> = (0..50_u8)
            .map(|round| {
                let begun = std::time::Instant::now();
                journal.put(&key(1), &vec![round; length]).unwrap();
                begun.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times_ms.sort_by(f64::total_cmp);
        println!("{length} bytes: median {:.2} ms, worst {:.2} ms", times_ms[25], times_ms[49]);
    }
}
