//! Files on a real disk: what is read, what is skipped, what is refused.

use super::*;

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn read_path(path: &Path) -> Result<Corpus, CorpusError> {
    read(path.to_str().unwrap())
}

fn long(text: &str) -> String {
    text.repeat(CORPUS_BYTES_MIN as usize / text.len() + 1)
}

#[test]
fn a_folder_is_read_in_the_order_of_path_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let first = long("first");
    for (name, content) in [("b/z.txt", "2"), ("b-c.txt", "1"), ("B.txt", first.as_str()), ("c.txt", "é3")] {
        write(folder.path(), name, content);
    }
    let corpus = read_path(folder.path()).unwrap();
    assert_eq!(String::from_utf8(corpus.bytes).unwrap(), format!("{first}\n\n1\n\n2\n\né3"));
    assert_eq!(corpus.sources.files(), 4);
}

#[test]
fn hidden_binary_and_linked_entries_are_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret.txt", "secret");
    let text = long("text ");
    write(folder.path(), "a.txt", &text);
    write(folder.path(), ".hidden/a.txt", "hidden");
    write(folder.path(), ".hidden.txt", "hidden");
    write(folder.path(), "nul.bin", b"a\0b");
    // A character cut at the end of what is sniffed is text; a bad byte after it is not.
    write(folder.path(), "late.bin", [long("x").as_bytes(), b"\xff"].concat());
    let mut cut = "x".repeat(SNIFF_BYTES as usize - 1);
    cut.push('é');
    write(folder.path(), "cut.txt", &cut);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret.txt"), folder.path().join("link.txt")).unwrap();
    }
    let corpus = read_path(folder.path()).unwrap();
    assert_eq!(String::from_utf8(corpus.bytes).unwrap(), format!("{text}\n\n{cut}"));
    assert_eq!((corpus.sources.skipped_hidden, corpus.sources.skipped_binary), (2, 2));
    assert_eq!(corpus.sources.skipped_not_files, if cfg!(unix) { 2 } else { 0 });
}

#[test]
fn a_pattern_reads_the_files_it_matches() {
    let folder = tempfile::tempdir().unwrap();
    let text = long("text ");
    write(folder.path(), "a/b/one.txt", &text);
    write(folder.path(), "a/two.txt", "2");
    write(folder.path(), "a/three.md", "3");
    let pattern = |rest: &str| format!("{}/{rest}", folder.path().display());
    assert_eq!(read(&pattern("**/*.txt")).unwrap().bytes, format!("{text}\n\n2").as_bytes());
    assert_eq!(read(&pattern("a/?/*")).unwrap().bytes, text.as_bytes());
    assert!(matches!(read(&pattern("*.txt")), Err(CorpusError::NoMatch { .. })));
    assert!(matches!(read(&pattern("no/*.txt")), Err(CorpusError::Missing { .. })));
    // A name that exists is that file, even with a star in it.
    #[cfg(unix)]
    {
        write(folder.path(), "s*r.txt", long("star"));
        write(folder.path(), "sr.txt", "no");
        assert_eq!(read(&pattern("s*r.txt")).unwrap().bytes, long("star").as_bytes());
    }
}

#[test]
fn refusals_name_the_path_and_what_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(matches!(read_path(&at("none.txt")), Err(CorpusError::Missing { .. })));
    assert!(matches!(read_path(folder.path()), Err(CorpusError::Empty { .. })));
    write(folder.path(), "empty.txt", "");
    assert!(matches!(read_path(&at("empty.txt")), Err(CorpusError::Empty { .. })));
    assert!(matches!(read_path(folder.path()), Err(CorpusError::Empty { .. })));
    write(folder.path(), "small.txt", "small");
    let error = read_path(&at("small.txt")).unwrap_err();
    assert!(matches!(error, CorpusError::TooSmall { found: 5, .. }));
    assert!(error.to_string().contains("small.txt") && error.to_string().contains("16384"), "{error}");
    write(folder.path(), "binary", [long("x").as_bytes(), b"\xff"].concat());
    assert!(matches!(read_path(&at("binary")), Err(CorpusError::NotText { offset: 16385, .. })));
    #[cfg(unix)]
    assert!(matches!(read("/dev/null"), Err(CorpusError::NotAFile { .. })));
}

#[test]
fn the_limit_counts_all_files_together() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.txt", "12345");
    write(folder.path(), "b.txt", "6789");
    let mut reader = Reader::new(10);
    reader.add_file(&folder.path().join("a.txt")).unwrap();
    let error = reader.add_file(&folder.path().join("b.txt")).unwrap_err();
    assert!(matches!(error, CorpusError::TooLarge { limit: 10, .. }), "{error}");
    assert_eq!(reader.bytes, b"12345");
}

#[test]
fn a_file_changed_after_the_reading_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.txt", long("a"));
    write(folder.path(), "b.txt", long("b"));
    let corpus = read_path(folder.path()).unwrap();
    corpus.sources.check_unchanged().unwrap();
    write(folder.path(), "b.txt", "shorter");
    let error = corpus.sources.check_unchanged().unwrap_err();
    assert!(matches!(&error, CorpusError::Changed { path } if path.ends_with("b.txt")), "{error}");
    fs::remove_file(folder.path().join("a.txt")).unwrap();
    let error = corpus.sources.check_unchanged().unwrap_err();
    assert!(matches!(&error, CorpusError::Changed { path } if path.ends_with("a.txt")), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_whose_size_does_not_tell_its_content_is_refused_as_changing() {
    // Files of procfs say zero bytes and hold some, like a file that grows while it is read.
    let mut reader = Reader::new(CORPUS_BYTES_MAX);
    let error = reader.add_file(Path::new("/proc/version")).unwrap_err();
    assert!(matches!(error, CorpusError::Changed { .. }), "{error}");
    assert!(reader.bytes.is_empty());
}
