//! `manta stop`.

use super::Error;
use crate::api::PeerFile;
use crate::http::client::PeerClient;
use clap::Args;
use std::path::Path;

/// Stop a run or an order.
#[derive(Args, Debug)]
#[command(after_help = "`manta status` lists runs and orders.")]
pub(super) struct StopArgs {
    /// Id of a run (its beginning is enough), or number of an order
    #[arg(value_name = "RUN|ORDER")]
    id: String,
}

pub(super) async fn run(arguments: StopArgs, data_dir: &Path) -> Result<(), Error> {
    let client = PeerClient::of(&PeerFile::read(data_dir)?);
    let id = resolve(&arguments.id, client.status().await?.runs.iter().map(|run| run.run.as_str()))?;
    client.stop(&id).await?;
    println!("stopped {id}");
    Ok(())
}

/// The run whose id begins like this; anything else is for the peer to judge.
fn resolve<'a>(id: &str, runs: impl Iterator<Item = &'a str>) -> Result<String, String> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("`{id}` is neither the id of a run nor the number of an order; see `manta status`"));
    }
    // Short decimal numbers are orders; ids are shown with eight digits.
    if id.len() < 8 && id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(id.to_owned());
    }
    let lower = id.to_ascii_lowercase();
    let found: Vec<&str> = runs.filter(|run| run.starts_with(&lower)).collect();
    match found.as_slice() {
        [run] => Ok((*run).to_owned()),
        [] => Ok(lower),
        several => Err(format!("`{id}` is the beginning of {} runs; give more digits", several.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_runs_and_numbers_of_orders() {
        let runs = ["abcdef0123", "abcd000000", "12345678ff"];
        let resolve = |id| resolve(id, runs.into_iter());
        assert_eq!(resolve("abcde"), Ok("abcdef0123".into()));
        assert_eq!(resolve("ABCDE"), Ok("abcdef0123".into()));
        assert_eq!(resolve("12345678"), Ok("12345678ff".into()));
        assert_eq!(resolve("12"), Ok("12".into()), "an order's number");
        assert_eq!(resolve("ffff"), Ok("ffff".into()), "the peer knows better");
        assert!(resolve("abcd").is_err_and(|e| e.contains("2 runs")));
        for bad in ["", "x/../y", "run"] {
            assert!(resolve(bad).is_err_and(|e| e.contains("manta status")), "{bad}");
        }
    }
}
