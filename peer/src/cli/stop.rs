//! `manta stop`.

use super::Error;
use crate::api::PeerFile;
use crate::http::client::PeerClient;
use crate::status::Status;
use clap::Args;
use std::path::Path;

/// Stop a run or an order, or leave somebody else's run.
#[derive(Args, Debug)]
#[command(after_help = "\
A run that was ordered here ends for all its members; what it has learnt is saved.
Somebody else's run goes on without this machine.
`manta status` lists runs and orders.")]
pub(super) struct StopArgs {
    /// Id of a run (its beginning is enough), or number of an order
    #[arg(value_name = "RUN|ORDER")]
    id: String,
}

pub(super) async fn run(arguments: StopArgs, data_dir: &Path) -> Result<(), Error> {
    let client = PeerClient::of(&PeerFile::read(data_dir)?);
    let id = resolve(&arguments.id, &client.status().await?)?;
    client.stop(&id).await?;
    println!("stopped {id}");
    Ok(())
}

/// The run whose id begins like this, or that the order of this number became;
/// anything else is for the peer to judge.
fn resolve(id: &str, status: &Status) -> Result<String, String> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("`{id}` is neither the id of a run nor the number of an order; see `manta status`"));
    }
    // Short decimal numbers are orders; ids are shown with eight digits.
    if id.len() < 8 && id.bytes().all(|byte| byte.is_ascii_digit()) {
        let order = status.orders.iter().find(|order| id.parse() == Ok(order.order));
        return Ok(order.and_then(|order| order.run.clone()).unwrap_or_else(|| id.to_owned()));
    }
    let lower = id.to_ascii_lowercase();
    let runs = status.runs.iter().map(|run| run.run.as_str());
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
    use crate::status::{OrderStatus, RunStatus};

    #[test]
    fn beginnings_of_runs_and_numbers_of_orders() {
        let run = |run: &str| RunStatus { run: run.into(), ..RunStatus::default() };
        let matched = OrderStatus { order: 7, run: Some("abcdef0123".into()), ..OrderStatus::default() };
        let status = Status {
            runs: ["abcdef0123", "abcd000000", "12345678ff"].map(run).into(),
            orders: vec![matched, OrderStatus { order: 12, ..OrderStatus::default() }],
            ..Status::default()
        };
        let resolve = |id| resolve(id, &status);
        assert_eq!(resolve("abcde"), Ok("abcdef0123".into()));
        assert_eq!(resolve("ABCDE"), Ok("abcdef0123".into()));
        assert_eq!(resolve("12345678"), Ok("12345678ff".into()));
        assert_eq!(resolve("12"), Ok("12".into()), "an order without a run");
        assert_eq!(resolve("7"), Ok("abcdef0123".into()), "an order that became a run");
        assert_eq!(resolve("ffff"), Ok("ffff".into()), "the peer knows better");
        assert!(resolve("abcd").is_err_and(|e| e.contains("2 runs")));
        for bad in ["", "x/../y", "run"] {
            assert!(resolve(bad).is_err_and(|e| e.contains("manta status")), "{bad}");
        }
    }
}
