//! Where things lie: the data directory, and paths as the peer needs them.

use super::Error;
use std::path::{Path, PathBuf};

/// The flag's folder, else the environment's `MANTA_DATA_DIR`, else the
/// platform's folder for a user's data; absolute.
///
/// # Errors
/// When the environment names no home either.
pub(super) fn data_dir(flag: Option<PathBuf>) -> Result<PathBuf, Error> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = flag.or_else(|| variable("MANTA_DATA_DIR")).or_else(|| user_data_dir(variable));
    let folder = folder.ok_or("there is no home folder to keep data in; name one with `--data-dir DIR`")?;
    absolute(&folder)
}

fn user_data_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if cfg!(windows) {
        return Some(variable("LOCALAPPDATA")?.join("manta"));
    }
    if cfg!(target_os = "macos") {
        return Some(variable("HOME")?.join("Library/Application Support/manta"));
    }
    // The XDG base directory specification ignores relative paths.
    let xdg = variable("XDG_DATA_HOME").filter(|folder| folder.is_absolute());
    Some(xdg.or_else(|| Some(variable("HOME")?.join(".local/share")))?.join("manta"))
}

/// The path as another process, with another working folder, would name it.
/// Wildcards stay as they are.
///
/// # Errors
/// When the path is empty or there is no working folder.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| format!("`{}` cannot be used as a path: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_and_paths_become_absolute() {
        let folder = data_dir(Some("here".into())).expect("a folder");
        assert!(folder.is_absolute() && folder.ends_with("here"), "{}", folder.display());
        let pattern = absolute(Path::new("books/**/*.txt")).expect("a path");
        assert!(pattern.ends_with("books/**/*.txt"), "{}", pattern.display());
        assert!(absolute(Path::new("")).is_err());
    }

    #[cfg(all(unix, not(target_os = "macos")))]
    #[test]
    fn linux_follows_the_xdg_base_directories() {
        let with = |xdg: Option<&'static str>| {
            user_data_dir(move |name| match name {
                "XDG_DATA_HOME" => xdg.map(PathBuf::from),
                "HOME" => Some("/home/ann".into()),
                _ => None,
            })
        };
        assert_eq!(with(None), Some("/home/ann/.local/share/manta".into()));
        assert_eq!(with(Some("/data")), Some("/data/manta".into()));
        assert_eq!(with(Some("relative")), Some("/home/ann/.local/share/manta".into()));
        assert_eq!(user_data_dir(|_| None), None);
    }
}
