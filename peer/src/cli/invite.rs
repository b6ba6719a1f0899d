//! `manta invite` and `manta revoke`.

use super::{Error, format, parse};
use crate::api::{InvitationRequest, PeerFile};
use crate::http::client::PeerClient;
use crate::status::{InvitationStatus, MembershipStatus};
use clap::Args;
use manta_protocol::membership::Role;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Make a ticket that invites another machine.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  manta invite --own                    a ticket for another machine of yours
  manta invite --expires 30d            a ticket for somebody else
  manta invite --list                   who was invited, and who came

The other machine joins with `manta up --join TICKET`. Whoever has the ticket is
invited: send it like a password. `manta revoke` takes it back.")]
pub(super) struct InviteArgs {
    /// The machine is yours: it may see the text that you train on
    #[arg(long)]
    own: bool,

    /// How long the invitation, and what came of it, stands
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = parse::duration)]
    expires: Duration,

    /// Show the invitations that stand instead of making one
    #[arg(long, conflicts_with_all = ["own", "expires"])]
    list: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Take an invitation back.
#[derive(Args, Debug)]
#[command(after_help = "`manta invite --list` shows serials, and the peers that have used them.")]
pub(super) struct RevokeArgs {
    /// Serial of an invitation, or id of a peer that has used one; the beginning is enough
    #[arg(value_name = "SERIAL|PEER")]
    id: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn invite(arguments: InviteArgs, data_dir: &Path) -> Result<(), Error> {
    let client = PeerClient::of(&PeerFile::read(data_dir)?);
    if arguments.list {
        let membership = client.status().await?.membership;
        match arguments.json {
            true => println!("{}", serde_json::to_string(&membership)?),
            false => print!("{}", list(&membership, now_ms())),
        }
        return Ok(());
    }
    let role = if arguments.own { Role::Own } else { Role::Guest };
    let issued = client.invite(&InvitationRequest { role, lifetime_s: arguments.expires.as_secs() }).await?;
    if arguments.json {
        println!("{}", serde_json::to_string(&issued)?);
        return Ok(());
    }
    let effect = match role {
        Role::Own => "Your text may go to any machine that joins with this ticket:",
        Role::Guest => "Whoever has this ticket is invited:",
    };
    let length = format::duration_long(arguments.expires);
    println!(
        "{effect}\n  manta up --join {}\n\nIt stands for {length}. To take it back:\n  manta revoke {}",
        issued.ticket,
        format::short(&issued.serial)
    );
    Ok(())
}

pub(super) async fn revoke(arguments: RevokeArgs, data_dir: &Path) -> Result<(), Error> {
    if arguments.id.is_empty() || !arguments.id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let id = arguments.id;
        return Err(format!("`{id}` is neither a serial nor the id of a peer; see `manta invite --list`").into());
    }
    let revoked = PeerClient::of(&PeerFile::read(data_dir)?).revoke(&arguments.id).await?;
    if arguments.json {
        println!("{}", serde_json::to_string(&revoked)?);
        return Ok(());
    }
    for serial in &revoked.serials {
        println!("revoked {}", format::short(serial));
    }
    for peer in &revoked.peers {
        println!("peer {} had used it", format::short(peer));
    }
    Ok(())
}

/// What stands, for people.
pub(super) fn list(membership: &MembershipStatus, now_ms: u64) -> String {
    let mut text = String::new();
    if membership.invitations.is_empty() {
        text.push_str("Nobody is invited; `manta invite` makes a ticket\n");
    }
    for invitation in &membership.invitations {
        // Writing into a string does not fail.
        let _ = writeln!(text, "  {}", line(invitation, now_ms));
    }
    text
}

fn line(invitation: &InvitationStatus, now_ms: u64) -> String {
    let InvitationStatus { serial, role, expires_at_ms, revoked, used_by } = invitation;
    let role = match role {
        Role::Own => "own  ",
        Role::Guest => "guest",
    };
    let left = Duration::from_millis(expires_at_ms.saturating_sub(now_ms));
    let state = match (revoked, left.is_zero()) {
        (true, _) => "revoked".into(),
        (false, true) => "expired".into(),
        (false, false) => format!("{} left", format::duration_long(left)),
    };
    let used = match used_by.as_slice() {
        [] => "not used yet".into(),
        peers => format!("used by {}", peers.iter().map(|peer| format::short(peer)).collect::<Vec<_>>().join(", ")),
    };
    format!("{}  {role}  {state}  {used}", format::short(serial))
}

/// Unix time.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invitations_are_listed_with_their_state_and_users() {
        let invitation = |serial: &str, role, expires_at_ms, revoked, used_by: &[&str]| InvitationStatus {
            serial: serial.into(),
            role,
            expires_at_ms,
            revoked,
            used_by: used_by.iter().map(|peer| (*peer).into()).collect(),
        };
        let day = 86_400_000;
        let membership = MembershipStatus {
            invitations: vec![
                invitation("0123456789", Role::Own, 8 * day, false, &["aaaaaaaabb", "ccccccccdd"]),
                invitation("abcdef0123", Role::Guest, 8 * day, true, &[]),
                invitation("ffffffff00", Role::Guest, day, false, &[]),
            ],
            ..MembershipStatus::default()
        };
        let text = list(&membership, day);
        for part in [
            "01234567  own    7 days left  used by aaaaaaaa, cccccccc",
            "abcdef01  guest  revoked  not used yet",
            "ffffffff  guest  expired  not used yet",
        ] {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
        assert!(list(&MembershipStatus::default(), 0).contains("manta invite"));
    }
}
