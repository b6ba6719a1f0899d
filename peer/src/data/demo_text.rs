//! The default text of the demo: Rust sources that cargo has unpacked to build
//! this program, so that no corpus is shipped.
//!
//! It is the `.rs` files below `src/` of [`CRATES`], in the versions of the lock
//! file this program was built with, in the order of crate name and path. The
//! registry's checksums fix their content, so the bytes are equal on every
//! machine with the same lock file.
//!
//! The sources lie in cargo's registry folder. If they do not (a vendored build),
//! cargo is asked; it is not asked first, because `cargo metadata --offline`
//! fails where the development dependencies were never downloaded.

use super::corpus::{CORPUS_BYTES_MIN, Corpus, CorpusError, Reader};
use super::walk::files_below;
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sorted; each is part of this program on every platform, in one version.
const CRATES: [&str; 17] = [
    "bytes",
    "http",
    "indicatif",
    "libp2p-core",
    "libp2p-gossipsub",
    "libp2p-identity",
    "libp2p-kad",
    "libp2p-request-response",
    "libp2p-swarm",
    "prometheus-client",
    "quinn",
    "quinn-proto",
    "rayon-core",
    "safetensors",
    "serde_core",
    "serde_json",
    "tempfile",
];

/// The text ends before the file that would make it longer than this many bytes.
const TEXT_BYTES_MAX: u64 = 6 * 1024 * 1024;

const LOCK_FILE: &str = include_str!("../../../Cargo.lock");

/// Why there is no demo text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoTextError {
    #[error(
        "the demo's text, the sources of the crates this program was built from, is not on this machine \
         (no {name} {version} in cargo's registry; {cargo}): pass --data PATH to train on a text of your own"
    )]
    SourcesAbsent { name: String, version: String, cargo: String },
    #[error("{0}; pass --data PATH to train on a text of your own")]
    Corpus(#[from] CorpusError),
}

/// Reads the demo text.
///
/// # Errors
/// [`DemoTextError`] if the sources are not on this machine or cannot be read.
pub(crate) fn read() -> Result<Corpus, DemoTextError> {
    read_crates(&registry_folders(), ask_cargo)
}

fn read_crates(
    registries: &[PathBuf],
    ask_cargo: impl Fn() -> Result<BTreeMap<(String, String), PathBuf>, String>,
) -> Result<Corpus, DemoTextError> {
    let mut asked = None;
    let mut reader = Reader::new(TEXT_BYTES_MAX);
    for (name, version) in pinned_versions() {
        let unpacked = registries.iter().map(|registry| registry.join(format!("{name}-{version}")).join("src"));
        let folder = match unpacked.into_iter().find(|folder| folder.is_dir()) {
            Some(folder) => folder,
            None => {
                let absent = |cargo| DemoTextError::SourcesAbsent { name: name.into(), version: version.into(), cargo };
                let known = asked.get_or_insert_with(&ask_cargo).as_ref().map_err(|error| absent(error.clone()))?;
                let folder = known.get(&(name.to_string(), version.to_string()));
                folder.ok_or_else(|| absent("cargo does not know it either".into()))?.join("src")
            }
        };
        if !add_sources(&folder, &mut reader)? {
            break;
        }
    }
    Ok(reader.finish(Path::new("demo text"), CORPUS_BYTES_MIN)?)
}

/// Appends the `.rs` files of a crate; `false` when the text is long enough.
fn add_sources(folder: &Path, reader: &mut Reader) -> Result<bool, CorpusError> {
    let is_rust = |path: &[String]| path.last().is_some_and(|name| name.ends_with(".rs"));
    let found = files_below(folder, is_rust).map_err(|error| CorpusError::from_walk(error, folder))?;
    for file in &found.files {
        match reader.add_file(file) {
            Err(CorpusError::TooLarge { .. }) => return Ok(false),
            added => added?,
        }
    }
    Ok(true)
}

/// `(name, version)` of each of [`CRATES`] in the lock file.
fn pinned_versions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let value = |line: &'static str, key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
    LOCK_FILE.split("[[package]]").filter_map(move |package| {
        let mut lines = package.lines().filter(|line| !line.is_empty());
        let name = value(lines.next()?, "name")?;
        let version = value(lines.next()?, "version")?;
        CRATES.contains(&name).then_some((name, version))
    })
}

/// Where cargo unpacks crates: one folder for each registry it has used.
fn registry_folders() -> Vec<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let Some(sources) = cargo_home.map(|home| home.join("registry").join("src")) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(sources) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    folders
}

/// The folders of all packages that this program is built from, by name and version.
fn ask_cargo() -> Result<BTreeMap<(String, String), PathBuf>, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(&cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", "host-tuple"])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .map_err(|error| format!("{} does not start: {error}", cargo.display()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata: {}", message.lines().next().unwrap_or("failed without a message")));
    }
    parse_metadata(&output.stdout)
}

fn parse_metadata(json: &[u8]) -> Result<BTreeMap<(String, String), PathBuf>, String> {
    let metadata: Value = serde_json::from_slice(json).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata: no list of packages")?;
    let folder = |package: &Value| {
        let name = package["name"].as_str()?.to_string();
        let version = package["version"].as_str()?.to_string();
        Some(((name, version), Path::new(package["manifest_path"].as_str()?).parent()?.to_path_buf()))
    };
    Ok(packages.iter().filter_map(folder).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_is_pinned_to_one_version() {
        let names: Vec<&str> = pinned_versions().map(|(name, _)| name).collect();
        assert_eq!(names, CRATES, "a crate left the lock file, or has several versions now");
    }

    #[test]
    fn the_text_is_rust_and_within_its_limit() {
        let corpus = read().unwrap();
        let bytes = corpus.bytes.len() as u64;
        assert!((4 << 20..=TEXT_BYTES_MAX).contains(&bytes), "{bytes} bytes");
        assert!(corpus.sources.files() > 100);
        let text = String::from_utf8(corpus.bytes).unwrap();
        for expected in ["impl Buf for", "pub struct Behaviour<TStore>", "impl<'de, R: Read<'de>> Deserializer<R>"] {
            assert!(text.contains(expected), "{expected}");
        }
    }

    #[test]
    fn without_sources_the_error_says_what_to_pass() {
        let error = read_crates(&[], || Err("no cargo here".into())).unwrap_err().to_string();
        assert!(
            error.contains("--data PATH") && error.contains("bytes 1.") && error.contains("no cargo here"),
            "{error}"
        );
        let error = read_crates(&[], || Ok(BTreeMap::new())).unwrap_err().to_string();
        assert!(error.contains("--data PATH"), "{error}");
    }

    #[test]
    fn a_vendored_build_is_found_through_cargo() {
        let registries = registry_folders();
        let vendored = || {
            let packages: Vec<Value> = pinned_versions()
                .filter_map(|(name, version)| {
                    let folder = format!("{name}-{version}");
                    let folder = registries.iter().map(|registry| registry.join(&folder)).find(|path| path.is_dir())?;
                    let manifest_path = folder.join("Cargo.toml");
                    Some(serde_json::json!({"name": name, "version": version, "manifest_path": manifest_path}))
                })
                .collect();
            parse_metadata(serde_json::json!({ "packages": packages }).to_string().as_bytes())
        };
        assert_eq!(read_crates(&[], vendored).unwrap().bytes, read().unwrap().bytes);
        assert!(parse_metadata(b"{}").is_err());
        assert!(parse_metadata(b"nonsense").is_err());
    }
}
