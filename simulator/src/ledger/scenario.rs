//! Scenario files of ledgers: options and faults as TOML, as those of runs are.
//! An unknown key is an error that names it and what is accepted.

use super::options::{Break, Options, Recovery};
use crate::options::{Faults, Links};
use crate::scenario::{FaultTable, Which, read_text};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Scenario {
    /// For people.
    #[serde(rename = "about")]
    _about: Option<String>,
    seed: Option<u64>,
    peers: Option<usize>,
    heights: Option<u64>,
    founders: Option<usize>,
    twins: Option<usize>,
    liars: Option<usize>,
    #[serde(default)]
    links: Links,
    faults: Option<Which>,
    #[serde(default)]
    fault: Vec<FaultTable>,
    #[serde(default)]
    recovery: Vec<Recovery>,
    #[serde(rename = "break")]
    broken: Option<Break>,
}

/// The options that a scenario's text gives.
///
/// # Errors
/// Where the text is wrong, and what is accepted there.
pub fn parse(text: &str) -> Result<Options, String> {
    let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
    let listed = scenario.fault.into_iter().map(FaultTable::wish).collect::<Result<Vec<_>, _>>()?;
    let faults = match (scenario.faults, listed.is_empty()) {
        (Some(_), false) => return Err("either faults = … or [[fault]] tables, not both".into()),
        (Some(Which::Drawn), true) => Some(Faults::Drawn),
        (Some(Which::Kinds(kinds)), true) => Some(Faults::Kinds(kinds)),
        (None, false) => Some(Faults::Listed(listed)),
        (None, true) => None,
    };
    Ok(Options {
        seed: scenario.seed.unwrap_or(1),
        words: Vec::new(),
        peers: scenario.peers,
        heights: scenario.heights,
        founders: scenario.founders,
        twins: scenario.twins,
        liars: scenario.liars,
        links: scenario.links,
        faults,
        recoveries: scenario.recovery,
        broken: scenario.broken,
        verify_all: false,
    })
}

/// The options that a scenario file gives.
///
/// # Errors
/// The file cannot be read, or what is wrong in it.
pub fn read(path: &Path) -> Result<Options, String> {
    parse(&read_text(path)?).map_err(|problem| format!("{}: {problem}", path.display()))
}
