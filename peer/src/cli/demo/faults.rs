//! What goes wrong in a demo, on purpose: real signals to real processes, at
//! moments that follow from the seed and from how far the run is, not from a clock.

use super::swarm::Swarm;
use crate::cli::Error;
use crate::cli::progress::Progress;
use crate::status::{MemberRole, RunStatus, Status};
use clap::Args;
use manta_protocol::Seed;
use manta_protocol::wire::limits::MEMBERS_MAX;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// Earliest and latest moment of a fault, as shares of the run's batches, in
/// thousandths: late enough that all are at work, early enough that whoever
/// comes back still finds work.
const EARLIEST: u64 = 100;
const LATEST: u64 = 300;
/// Members that must be there at any time, for two always agree on who is left.
const PRESENT_MIN: usize = 2;

/// Which faults are asked for.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct FaultArgs {
    /// Kill a peer in mid-run, not the first one
    #[arg(long)]
    pub(super) kill_one: bool,

    /// Freeze a peer in mid-run, and let it go on once the others have left it out
    #[arg(long)]
    pub(super) freeze_one: bool,

    /// Start one more peer in mid-run
    #[arg(long)]
    pub(super) join_late: bool,

    /// Kill the first peer, which has ordered the run, and start it again when
    /// the others are done
    #[arg(long)]
    pub(super) kill_owner: bool,
}

impl FaultArgs {
    /// Whether `peers` are enough for what is asked for.
    ///
    /// # Errors
    /// How many there must be.
    pub(super) fn check(self, peers: usize) -> Result<(), String> {
        let absent = [self.kill_one, self.freeze_one, self.kill_owner].into_iter().filter(|asked| *asked).count();
        let needed = if absent == 0 { 1 } else { PRESENT_MIN + absent };
        if peers < needed {
            return Err(format!("--peers {peers}: with so many of them lost at once there must be at least {needed}"));
        }
        if self.join_late && peers >= MEMBERS_MAX {
            return Err(format!("--peers {peers}: a run has at most {MEMBERS_MAX} members, so nobody can join late"));
        }
        Ok(())
    }
}

/// What happens to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    KillOne,
    FreezeOne,
    JoinLate,
    KillOwner,
}

/// Where a fault stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// It has happened; the others have yet to answer it.
    Struck,
    /// The others have gone on; a frozen or new peer has yet to become a member.
    Answered,
    Over,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// The peer's number in the demo.
    pub(super) peer: usize,
    /// It happens when so many thousandths of the batches are done.
    pub(super) at_share: u64,
    /// When it happened, in Unix milliseconds.
    pub(super) at_ms: Option<u64>,
    /// From then until the others had completed an exchange without the peer.
    pub(super) recovery_ms: Option<u64>,
    #[serde(skip)]
    stage: Stage,
}

/// All faults of a demo, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) list: Vec<Fault>,
}

impl Faults {
    /// Draws victims and moments.
    pub(super) fn draw(asked: FaultArgs, peers: usize, seed: u64) -> Self {
        let seed = Seed::from_number(seed);
        let draw = |what: &str, below: u64| seed.below(what, 0, below.max(1));
        // The first is the owner; the two victims differ.
        let others = peers.saturating_sub(1) as u64;
        let killed = 1 + draw("killed", others) as usize;
        let frozen = 1 + (killed + draw("frozen", others.saturating_sub(1)) as usize) % others.max(1) as usize;
        let kinds = [
            (asked.kill_one, Kind::KillOne, killed),
            (asked.freeze_one, Kind::FreezeOne, frozen),
            (asked.join_late, Kind::JoinLate, peers),
            (asked.kill_owner, Kind::KillOwner, 0),
        ];
        let fault = |(_, kind, peer): (bool, Kind, usize)| Fault {
            kind,
            peer,
            at_share: EARLIEST + draw(&format!("{kind:?}"), LATEST - EARLIEST),
            at_ms: None,
            recovery_ms: None,
            stage: Stage::Waiting,
        };
        let mut list: Vec<_> = kinds.into_iter().filter(|(asked, ..)| *asked).map(fault).collect();
        list.sort_by_key(|fault| fault.at_share);
        Self { list }
    }

    /// Whether a peer was killed for good.
    pub(super) fn is_killed(&self, peer: usize) -> bool {
        self.list.iter().any(|fault| fault.peer == peer && fault.kind == Kind::KillOne && fault.at_ms.is_some())
    }

    /// A fault that has not come to its end.
    pub(super) fn unfinished(&self) -> Option<&Fault> {
        self.list.iter().find(|fault| fault.stage != Stage::Over)
    }

    /// Whether something is about to happen, so that the run is to be watched closely.
    pub(super) fn are_pending(&self) -> bool {
        self.unfinished().is_some()
    }

    /// Whether the owner was killed.
    pub(super) fn owner_is_gone(&self) -> bool {
        self.list.iter().any(|fault| fault.kind == Kind::KillOwner && fault.at_ms.is_some())
    }

    /// Lets happen what is due, given what all peers say: one at a time, the next
    /// only when the others have gone on.
    ///
    /// # Errors
    /// A signal that cannot be sent, or a peer that cannot be started.
    pub(super) async fn drive(
        &mut self,
        swarm: &mut Swarm,
        statuses: &[Option<Status>],
        run: &str,
        progress: &Progress,
    ) -> Result<(), Error> {
        let seen = runs_of(statuses, run);
        let Some(fault) = self.list.iter_mut().find(|fault| fault.stage != Stage::Over) else { return Ok(()) };
        let id = swarm.peer_ids().get(fault.peer).cloned().unwrap_or_default();
        let peer = fault.peer;
        match fault.stage {
            Stage::Waiting => {
                let due = |run: &RunStatus| run.batches_done * 1000 >= run.batches_target * fault.at_share;
                let under_way = |run: &RunStatus| run.batches_target > 0 && run.exchanges_done > 0;
                if seen.iter().any(|run| under_way(run) && due(run)) {
                    fault.strike(swarm, progress).await?;
                }
            }
            Stage::Struck => {
                let without = |run: &RunStatus| run.members.iter().all(|member| member.peer != id);
                // Whoever still answers, but for the victim itself.
                let survivors: Vec<_> =
                    (0..).zip(statuses).filter(|(index, _)| *index != peer).filter_map(|(_, s)| find(s, run)).collect();
                if survivors.is_empty() || !survivors.iter().all(|run| without(run)) {
                    return Ok(());
                }
                fault.stage = Stage::Over;
                if fault.kind == Kind::FreezeOne {
                    swarm.thaw(peer)?;
                    progress.say(&format!("the others go on without peer {peer}; it thaws"));
                    fault.stage = Stage::Answered;
                }
            }
            Stage::Answered => {
                let full = |run: &&RunStatus| {
                    run.members.iter().any(|member| member.peer == id && member.role == MemberRole::Full)
                };
                let own = statuses.get(peer).and_then(|status| find(status, run));
                if !id.is_empty() && own.as_ref().is_some_and(full) {
                    progress.say(&format!("peer {peer} trains with the others"));
                    fault.stage = Stage::Over;
                }
            }
            Stage::Over => {}
        }
        Ok(())
    }
}

impl Fault {
    async fn strike(&mut self, swarm: &mut Swarm, progress: &Progress) -> Result<(), Error> {
        let peer = self.peer;
        self.at_ms = Some(unix_ms());
        self.stage = Stage::Struck;
        match self.kind {
            Kind::KillOne | Kind::KillOwner => {
                swarm.kill(peer).await?;
                progress.say(&format!("peer {peer} was killed"));
            }
            Kind::FreezeOne => {
                swarm.freeze(peer)?;
                progress.say(&format!("peer {peer} was frozen"));
            }
            Kind::JoinLate => {
                swarm.join().await?;
                progress.say(&format!("peer {peer} was started, and looks for work"));
                self.stage = Stage::Answered;
            }
        }
        Ok(())
    }
}

/// The run of this id, as far as it is known.
fn runs_of<'a>(statuses: &'a [Option<Status>], run: &str) -> Vec<&'a RunStatus> {
    statuses.iter().filter_map(|status| find(status, run)).collect()
}

fn find<'a>(status: &'a Option<Status>, run: &str) -> Option<&'a RunStatus> {
    status.as_ref()?.runs.iter().find(|found| found.run == run)
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: FaultArgs = FaultArgs { kill_one: true, freeze_one: true, join_late: true, kill_owner: true };

    #[test]
    fn victims_and_moments_follow_from_the_seed() {
        for seed in 0..200 {
            let faults = Faults::draw(ALL, 5, seed).list;
            assert_eq!(faults, Faults::draw(ALL, 5, seed).list);
            assert!(faults.is_sorted_by_key(|fault| fault.at_share));
            assert!(faults.iter().all(|fault| (EARLIEST..LATEST).contains(&fault.at_share)));
            let victim = |kind| faults.iter().find(|fault| fault.kind == kind).expect("it was asked for").peer;
            let (killed, frozen) = (victim(Kind::KillOne), victim(Kind::FreezeOne));
            assert!((1..5).contains(&killed) && (1..5).contains(&frozen) && killed != frozen);
            assert_eq!((victim(Kind::KillOwner), victim(Kind::JoinLate)), (0, 5));
        }
        let victims =
            (0..50).map(|seed| Faults::draw(ALL, 5, seed).list[0].peer).collect::<std::collections::BTreeSet<_>>();
        assert!(victims.len() > 2, "{victims:?}");
        assert!(Faults::draw(FaultArgs::default(), 1, 0).list.is_empty());
    }

    #[test]
    fn too_few_peers_are_refused() {
        let kill = FaultArgs { kill_one: true, ..FaultArgs::default() };
        assert!(kill.check(2).is_err_and(|error| error.contains("at least 3")));
        assert_eq!(kill.check(3), Ok(()));
        assert_eq!(ALL.check(5), Ok(()));
        assert!(ALL.check(4).is_err());
        let join = FaultArgs { join_late: true, ..FaultArgs::default() };
        assert_eq!(join.check(1), Ok(()));
        assert!(join.check(MEMBERS_MAX).is_err());
    }
}
