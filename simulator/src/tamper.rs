//! Deliberately broken rules: each must be caught by a checker, or nobody would
//! know that the checkers see anything.

/// A rule that is broken, by machine 1 unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// Adds contributions in the reverse order of ranks.
    WrongOrder,
    /// Leaves the last contribution out of its sums.
    SkipContribution,
    /// Adds its own contribution twice.
    DoubleCount,
    /// Adds up all values that it holds, the lost members', too, when only the remaining ones' count.
    StaleSums,
    /// Divides the sum by one batch too many.
    WrongDivisor,
    /// Reports a hash that is not that of its parameters.
    LieAboutHash,
    /// Makes one optimiser step with a wrong sum.
    CorruptStep,
    /// Starts from other parameters than the rest.
    WrongStart,
    /// Says that it cannot compute when asked for its second contribution.
    GiveUp,
    /// Vanishes after its second contribution: nothing is sent or taken any more.
    Crash,
    /// Falls silent after its second contribution, while its transport still takes messages.
    Freeze,
    /// Never ends its second contribution, though it goes on to say that it is alive.
    Hang,
    /// Does not send one of its chunks of the second exchange, and nobody notices.
    LoseChunk,
    /// Goes on after a restart from the journal record before its last one.
    ForgetJournal,
    /// Tells members of a view that no quorum has agreed on.
    TwoQuorums,
    /// Proposes views in which a batch that counts is to be done again.
    CountAgain,
    /// Loads a checkpoint whose hash is wrong.
    TornCheckpoint,
    /// Forgets at a restart which runs are over; all machines do.
    ForgetEnds,
}
