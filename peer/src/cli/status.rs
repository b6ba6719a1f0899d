//! `manta status`.

use super::{Error, format, invite, ledger};
use crate::api::PeerFile;
use crate::http::client::PeerClient;
use crate::metrics::state_name;
use crate::status::{MemberRole, MembershipStatus, OrderState, Relation, RunStatus, Status};
use clap::Args;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// Departures of a run that are shown.
const DEPARTURES_SHOWN: usize = 5;

/// Show what the running peer knows and does.
#[derive(Args, Debug)]
#[command(after_help = "\
The same, live, is the peer's page; `manta status` prints its address.
Scripts read `manta status --json`, Prometheus reads /metrics.")]
pub(super) struct StatusArgs {
    /// Print the whole status as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: StatusArgs, data_dir: &Path) -> Result<(), Error> {
    let file = PeerFile::read(data_dir)?;
    let status = PeerClient::of(&file).status().await?;
    let text = match arguments.json {
        true => format!("{}\n", serde_json::to_string(&status)?),
        false => format!("page        http://{}/\n{}", file.http, text(&status)),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = write_peer(&mut text, status);
    let _ = write_membership(&mut text, status, invite::now_ms());
    if let Some(ledger) = status.ledger.as_ref().filter(|ledger| !ledger.ledger.is_empty()) {
        text.push_str("\nLedger\n");
        let _ = ledger::write_summary(&mut text, ledger);
    }
    let _ = write_listings(&mut text, status);
    let _ = write_work(&mut text, status);
    text
}

fn write_peer(text: &mut String, status: &Status) -> std::fmt::Result {
    writeln!(text, "peer        {}", status.peer_id)?;
    writeln!(text, "network     {}", status.network)?;
    writeln!(text, "version     {}", status.version)?;
    writeln!(text, "device      {}\n            {}", status.device, status.device_reason)?;
    for address in &status.addresses {
        writeln!(text, "listens on  {address}")?;
    }
    writeln!(text, "connected   {} peers", status.connected_peers.len())?;
    let (sent, received) = (status.traffic.bytes_sent(), status.traffic.bytes_received());
    writeln!(text, "traffic     {} sent, {} received", format::bytes(sent), format::bytes(received))?;
    writeln!(text, "stored      {} of runs", format::bytes(status.stored_bytes))?;
    if status.membership.founder.is_none() {
        writeln!(text, "join with   manta up --join {}", status.ticket)?;
    }
    Ok(())
}

fn write_membership(text: &mut String, status: &Status, now_ms: u64) -> std::fmt::Result {
    let MembershipStatus { founder, expires_at_ms, dismissed, invitations } = &status.membership;
    if let Some(founder) = founder {
        let own = if *founder == status.peer_id { " (this peer)" } else { "" };
        writeln!(text, "members     by invitation of {}{own}", format::short(founder))?;
    }
    if let Some(expires_at_ms) = expires_at_ms {
        let left = Duration::from_millis(expires_at_ms.saturating_sub(now_ms));
        writeln!(text, "invited     for another {}", format::duration_long(left))?;
    }
    if *dismissed {
        writeln!(text, "            SHUT OUT: the invitation has ended or was revoked; ask the founder for a new one")?;
    }
    if !invitations.is_empty() {
        write!(text, "\nInvitations\n{}", invite::list(&status.membership, now_ms))?;
    }
    Ok(())
}

fn write_listings(text: &mut String, status: &Status) -> std::fmt::Result {
    writeln!(text, "\nMachines on offer: {}", status.listings.len())?;
    for listing in &status.listings {
        let own = match listing.relation {
            _ if listing.peer == status.peer_id => " (this peer)",
            Relation::Own => " (your own)",
            Relation::Invited => " (invited)",
            Relation::Itself | Relation::Stranger => "",
        };
        let state = if listing.busy { "busy" } else { "free" };
        let (id, memory) = (format::short(&listing.peer), format::bytes(listing.memory_bytes));
        let region = if listing.region.is_empty() { String::new() } else { format!("  {}", listing.region) };
        writeln!(text, "  {id}  {state}  {memory}  {}{region}{own}", listing.device)?;
    }
    Ok(())
}

fn write_work(text: &mut String, status: &Status) -> std::fmt::Result {
    if !status.orders.is_empty() {
        writeln!(text, "\nOrders")?;
    }
    for order in &status.orders {
        let state = match order.state {
            OrderState::Reading => "reading",
            OrderState::Searching => "searching",
            OrderState::Matched => "matched",
            OrderState::Failed => "failed",
        };
        let run = order.run.as_deref().map_or("", format::short);
        writeln!(text, "  {}  {state}  {run}  {}", order.order, order.message)?;
    }
    if !status.runs.is_empty() {
        writeln!(text, "\nRuns")?;
    }
    for run in &status.runs {
        let loss = format::loss(run.losses.last().copied());
        writeln!(
            text,
            "  {}  {}  {} of {} batches, round {}  loss {loss}  {} tokens/s  view {}: {}",
            format::short(&run.run),
            state_name(run.state),
            run.batches_done,
            run.batches_target,
            run.rounds_done,
            format::rate(run.tokens_per_s),
            run.view,
            members(run),
        )?;
        for departure in run.left.iter().rev().take(DEPARTURES_SHOWN).rev() {
            let (peer, view) = (format::short(&departure.peer), departure.view);
            writeln!(text, "            {peer} left before view {view}: {}", departure.reason)?;
        }
        if let Some(paused) = &run.paused {
            writeln!(text, "            {paused}")?;
        }
        if let Some(trouble) = &run.device_trouble {
            writeln!(text, "            {trouble}")?;
        }
        if let Some(failure) = &run.failure {
            writeln!(text, "            {failure}")?;
        }
    }
    Ok(())
}

/// How many take part, and how many come in.
fn members(run: &RunStatus) -> String {
    let listening = run.members.iter().filter(|member| member.role == MemberRole::Listening).count();
    let full = run.members.len() - listening;
    if listening == 0 { format!("{full} members") } else { format!("{full} members, {listening} listening") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{DepartureStatus, InvitationStatus, ListingStatus, MemberStatus, OrderStatus, RunState};
    use manta_protocol::membership::Role;

    #[test]
    fn membership_is_shown_where_there_is_any() {
        let invitation = InvitationStatus {
            serial: "0123456789".into(),
            role: Role::Own,
            expires_at_ms: 0,
            revoked: false,
            used_by: vec!["bbbbbbbb00".into()],
        };
        let membership = MembershipStatus {
            founder: Some("ffffffff00".into()),
            expires_at_ms: Some(invite::now_ms() + 867_600_000),
            dismissed: true,
            invitations: vec![invitation],
        };
        let listing = ListingStatus { peer: "bbbbbbbb00".into(), relation: Relation::Own, ..ListingStatus::default() };
        let status = Status { membership, listings: vec![listing], ..Status::default() };
        let shown = text(&status);
        for part in ["by invitation of ffffffff", "for another 10 days", "SHUT OUT", "01234567  own", "(your own)"] {
            assert!(shown.contains(part), "`{part}` in\n{shown}");
        }
        let open = text(&Status::default());
        assert!(!open.contains("members") && !open.contains("Invitations"), "{open}");
    }

    #[test]
    fn everything_that_matters_is_in_the_text() {
        let status = Status {
            peer_id: "aaaaaaaabbbb".into(),
            network: "manta".into(),
            ticket: "TICKET".into(),
            listings: vec![ListingStatus { peer: "aaaaaaaabbbb".into(), busy: true, ..ListingStatus::default() }],
            orders: vec![OrderStatus { order: 3, message: "waiting for 2 more".into(), ..OrderStatus::default() }],
            runs: vec![RunStatus {
                run: "0123456789".into(),
                state: RunState::Failed,
                rounds_done: 2,
                batches_done: 30,
                batches_target: 600,
                view: 3,
                members: vec![
                    MemberStatus::default(),
                    MemberStatus { role: MemberRole::Listening, ..MemberStatus::default() },
                ],
                left: vec![DepartureStatus {
                    peer: "ccccccccdd".into(),
                    reason: "a member was lost".into(),
                    view: 3,
                    at_ms: 0,
                }],
                paused: Some("waits until more".into()),
                losses: vec![5.0, 4.5],
                failure: Some("peer bbbb was lost".into()),
                ..RunStatus::default()
            }],
            ..Status::default()
        };
        let text = text(&status);
        for part in [
            "peer        aaaaaaaabbbb",
            "manta up --join TICKET",
            "aaaaaaaa  busy",
            "(this peer)",
            "3  reading    waiting for 2 more",
            "01234567  failed  30 of 600 batches, round 2  loss 4.500",
            "view 3: 1 members, 1 listening",
            "cccccccc left before view 3: a member was lost",
            "waits until more",
            "peer bbbb was lost",
        ] {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
    }
}
