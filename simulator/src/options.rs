//! What to simulate, and the command line that says so.

use crate::faults::Fault;
use crate::network::Conditions;
use crate::workload::Break;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Machines.
    pub peers: usize,
    /// Members of each run, at most 16.
    pub members: u16,
    /// Rounds of each run.
    pub rounds: u32,
    /// Runs that are ordered at the same time, by different users.
    pub orders: usize,
    /// Everything else is drawn from this.
    pub seed: u64,
    /// The links; `None` draws them from the seed.
    pub conditions: Option<Conditions>,
    /// A rule that machine 1 breaks.
    pub broken: Option<Break>,
    /// What goes wrong from outside.
    pub fault: Option<Fault>,
}

impl Options {
    /// The command line that gives this history again.
    pub fn replay(&self) -> String {
        let Self { peers, members, rounds, orders, seed, conditions, broken, fault } = self;
        let mut line = format!(
            "manta-sim run --peers {peers} --members {members} --rounds {rounds} --orders {orders} --seed {seed}"
        );
        if let Some(links) = conditions {
            line += &format!(
                " --latency-us {} --jitter-us {} --loss-per-million {} --uplink-bytes-per-s {} --skew-ms {}",
                links.latency_us_max,
                links.jitter_us_max,
                links.loss_per_million,
                links.uplink_bytes_per_s,
                links.skew_ms_max
            );
        }
        if let Some(rule) = broken.and_then(|rule| clap::ValueEnum::to_possible_value(&rule)) {
            line += &format!(" --break {}", rule.get_name());
        }
        if let Some(fault) = fault.and_then(|fault| clap::ValueEnum::to_possible_value(&fault)) {
            line += &format!(" --fault {}", fault.get_name());
        }
        line
    }
}
