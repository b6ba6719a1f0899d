//! Which files a folder or a glob pattern means, in an order that is the same
//! on every machine: by the bytes of the path below the folder, `/` between
//! components.
//!
//! Hidden entries (names that begin with a dot) are skipped and symbolic links
//! are not followed, so that nothing outside the folder is read; both are counted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most files that one folder or pattern may hold.
pub(crate) const FILES_MAX: usize = 1_000_000;

/// What [`files_below`] found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The files, sorted.
    pub(crate) files: Vec<PathBuf>,
    /// Files and folders skipped because they are hidden.
    pub(crate) hidden: usize,
    /// Symbolic links, and things that are neither file nor folder.
    pub(crate) not_files: usize,
}

/// Why a folder could not be walked.
#[derive(Debug)]
pub(crate) enum WalkError {
    /// This folder cannot be listed.
    Unreadable { path: PathBuf, source: io::Error },
    /// There are more than [`FILES_MAX`] files.
    TooManyFiles,
}

/// A pattern such as `books/**/*.txt`: the folder before the first wildcard,
/// and what follows, component by component.
#[derive(Debug)]
pub(crate) struct Glob {
    base: PathBuf,
    components: Vec<String>,
}

impl Glob {
    /// Reads `pattern`; `None` if it has no wildcard (`*` or `?`).
    ///
    /// `*` stands for any characters within one component, `?` for one
    /// character, and a component `**` for any number of folders.
    pub(crate) fn parse(pattern: &str) -> Option<Self> {
        let is_separator = |c: char| c == '/' || (cfg!(windows) && c == '\\');
        let wildcard = pattern.find(['*', '?'])?;
        let start = pattern[..wildcard].rfind(is_separator).map_or(0, |index| index + 1);
        let base = if start == 0 { PathBuf::from(".") } else { PathBuf::from(&pattern[..start]) };
        let components = pattern[start..].split(is_separator).filter(|part| !part.is_empty() && *part != ".");
        Some(Self { base, components: components.map(String::from).collect() })
    }

    /// The folder that the pattern's files lie in.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// Whether the pattern means the file at `path`, given component by component below the base.
    pub(crate) fn matches(&self, path: &[String]) -> bool {
        // reachable[j]: the patterns so far can match exactly the first j components.
        let mut reachable = vec![false; path.len() + 1];
        reachable[0] = true;
        for pattern in &self.components {
            if pattern == "**" {
                let first = reachable.iter().position(|&is| is).unwrap_or(reachable.len());
                reachable[first..].fill(true);
            } else {
                for j in (0..path.len()).rev() {
                    reachable[j + 1] = reachable[j] && component_matches(pattern, &path[j]);
                }
                reachable[0] = false;
            }
        }
        reachable[path.len()]
    }
}

/// Matches `*` and `?` in one component, by going back to the last star only.
fn component_matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, start)) => {
                    retry = Some((star, start + 1));
                    p = star + 1;
                    n = start + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// The files below `folder` whose path (its components, relative to the folder) `keep` accepts.
///
/// # Errors
/// [`WalkError`] if a folder cannot be listed or there are too many files.
pub(crate) fn files_below(folder: &Path, keep: impl Fn(&[String]) -> bool) -> Result<Found, WalkError> {
    let mut found = Found::default();
    let mut sorted: Vec<(Vec<u8>, PathBuf)> = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), Vec::<String>::new(), Vec::<u8>::new())];
    while let Some((path, components, key)) = folders.pop() {
        let fail = |source| WalkError::Unreadable { path: path.clone(), source };
        for entry in fs::read_dir(&path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                found.hidden += 1;
                continue;
            }
            let mut key = key.clone();
            if !key.is_empty() {
                key.push(b'/');
            }
            key.extend_from_slice(name.as_encoded_bytes());
            let mut components = components.clone();
            components.push(name.to_string_lossy().into_owned());
            // The entry's own type: a link is a link here, whatever it points to.
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                folders.push((entry.path(), components, key));
            } else if !kind.is_file() {
                found.not_files += 1;
            } else if keep(&components) {
                if sorted.len() == FILES_MAX {
                    return Err(WalkError::TooManyFiles);
                }
                sorted.push((key, entry.path()));
            }
        }
    }
    sorted.sort();
    found.files = sorted.into_iter().map(|(_, path)| path).collect();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components(path: &str) -> Vec<String> {
        path.split('/').map(String::from).collect()
    }

    #[test]
    fn patterns_match_as_documented() {
        let cases = [
            ("*.txt", "a.txt", true),
            ("*.txt", ".txt", true),
            ("*.txt", "a.txt.gz", false),
            ("*.txt", "b/a.txt", false),
            ("?.txt", "é.txt", true),
            ("?.txt", "ab.txt", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXcXb", false),
            ("**/*.txt", "a.txt", true),
            ("**/*.txt", "b/c/a.txt", true),
            ("**/b/**/a.txt", "b/a.txt", true),
            ("**/b/**/a.txt", "x/b/y/z/a.txt", true),
            ("**/b/**/a.txt", "x/a.txt", false),
            ("**", "x/y/z", true),
            ("*/x?/**", "b/xy/z", true),
            ("*/x?/**", "b/x/z", false),
        ];
        for (pattern, path, expected) in cases {
            let glob = Glob::parse(pattern).unwrap();
            assert_eq!(glob.base(), Path::new("."), "{pattern}");
            assert_eq!(glob.matches(&components(path)), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_star_pattern_of_many_stars_ends_quickly() {
        let glob = Glob::parse(&"*a".repeat(200)).unwrap();
        assert!(!glob.matches(&components(&format!("{}b", "a".repeat(2000)))));
        let deep: Vec<String> = vec!["a".into(); 300];
        assert!(!Glob::parse(&"**/a/".repeat(200)).unwrap().matches(&vec!["b".to_string(); 300]));
        assert!(Glob::parse(&"**/a/".repeat(200)).unwrap().matches(&deep));
    }

    #[test]
    fn the_base_is_the_folder_before_the_first_wildcard() {
        let glob = Glob::parse("/data/books-*/x.txt").unwrap();
        assert_eq!(glob.base(), Path::new("/data/"));
        assert!(glob.matches(&components("books-a/x.txt")));
        assert!(Glob::parse("/data/books/x.txt").is_none());
    }
}
