//! Whether a model fits this machine, and how long its steps take: told before work starts.

use super::{Error, format};
use crate::host;
use crate::preset::Preset;
use crate::run::order::member_bytes;
use manta_gpu_kernels::model::cost::{
    multiply_adds_per_token, optimizer_multiply_adds, recomputed_multiply_adds_per_token,
};
use manta_gpu_kernels::{
    ArithmeticSpec, EngineOptions, Layout, MemoryPlan, OptimizerKind, measure_multiply_adds_per_s,
};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// How long the processor's products are measured, in milliseconds.
const MEASURE_MS: u64 = 300;
/// The part of a step's time in which its products are computed, on a processor with 8-bit dot products. A measured
/// step with the products of the preset `small` and 8,192 tokens (`manta bench`) spends 55 % there, and a part of the 12 %
/// of attention; 4,095 tokens a second were measured where 4,785 are predicted from the rate of a square product.
const PRODUCT_SHARE: f64 = 0.5;

/// What training a preset takes on this machine's processor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Fit {
    preset: &'static str,
    vocab_size: usize,
    parameters: u64,
    /// Memory of a member of a run, besides the text, as it would train here.
    memory_bytes: u64,
    /// Of it where activations are kept, and where they are computed again.
    memory_keeping_bytes: u64,
    memory_recomputing_bytes: u64,
    /// Whether they would be computed again here.
    recomputes: bool,
    /// Memory that can be had here now.
    available_bytes: u64,
    fits: bool,
    /// Tokens of one member's part of a step.
    tokens_per_step: u64,
    multiply_adds_per_step: u64,
    /// Of the 8-bit product on all threads, measured now.
    multiply_adds_per_s: u64,
    /// Predicted from these.
    step_seconds: f64,
    tokens_per_s: f64,
}

impl Fit {
    /// Measures the processor for a moment, and predicts.
    ///
    /// # Errors
    /// A vocabulary that no model has, or threads that cannot be started.
    pub(super) fn of(preset: &Preset, vocab_size: usize, optimizer: OptimizerKind) -> Result<Self, Error> {
        let rate = measure_multiply_adds_per_s(MEASURE_MS, 0)?;
        Self::predict((preset, vocab_size, optimizer), rate, host::available_memory_bytes())
    }

    fn predict(
        (preset, vocab_size, optimizer): (&Preset, usize, OptimizerKind),
        rate: u64,
        available_bytes: u64,
    ) -> Result<Self, Error> {
        let course = preset.course(vocab_size);
        course.model.validate()?;
        let arithmetic = ArithmeticSpec {
            micro_batch_sequences: course.micro_batch_sequences as usize,
            sequence_length: course.sequence_length,
            ..ArithmeticSpec::default()
        };
        let parameters = Layout::new(&course.model).len() as u64;
        let member_bytes = |engine_bytes| member_bytes(engine_bytes, parameters, false);
        let memory_bytes_max = available_bytes.saturating_sub(member_bytes(0));
        let options = EngineOptions { memory_bytes_max, ..EngineOptions::default() };
        let plan = MemoryPlan::of(&course.model, &arithmetic, optimizer, &options);
        let memory_bytes = member_bytes(plan.bytes());
        let tokens_per_step = arithmetic.micro_batch_tokens() as u64 * u64::from(course.micro_batches);
        let (model, length) = (&course.model, course.sequence_length);
        let again = if plan.recomputes { recomputed_multiply_adds_per_token(model, length) } else { 0 };
        let multiply_adds_per_step = tokens_per_step * (multiply_adds_per_token(model, length) + again)
            + optimizer_multiply_adds(model, optimizer);
        let step_seconds = multiply_adds_per_step as f64 / rate.max(1) as f64 / PRODUCT_SHARE;
        Ok(Self {
            preset: preset.name,
            vocab_size,
            parameters,
            memory_bytes,
            memory_keeping_bytes: member_bytes(plan.keeping_bytes),
            memory_recomputing_bytes: member_bytes(plan.recomputing_bytes),
            recomputes: plan.recomputes,
            available_bytes,
            fits: memory_bytes <= available_bytes,
            tokens_per_step,
            multiply_adds_per_step,
            multiply_adds_per_s: rate,
            step_seconds,
            tokens_per_s: tokens_per_step as f64 / step_seconds,
        })
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { preset, vocab_size, .. } = self;
        writeln!(f, "preset {preset}, {vocab_size} tokens in the vocabulary, on the processor:")?;
        writeln!(f, "  parameters  {}", format::grouped(self.parameters))?;
        let (needed, available) = (format::bytes(self.memory_bytes), format::bytes(self.available_bytes));
        match self.fits {
            true if self.recomputes => writeln!(
                f,
                "  memory      {needed} of {available} that can be had now, and the text: it fits with activations computed \
                 again on the way back; to keep them takes {}",
                format::bytes(self.memory_keeping_bytes)
            )?,
            true => writeln!(
                f,
                "  memory      {needed} of {available} that can be had now, and the text: it fits; {} if \
                 activations are computed again (manta up --recompute always)",
                format::bytes(self.memory_recomputing_bytes)
            )?,
            false => writeln!(
                f,
                "  memory      {needed} even where activations are computed again, and only {available} can be had now: it \
                 does not fit; take a smaller preset or vocabulary, or order the run from a peer on a larger machine"
            )?,
        }
        let length = match self.step_seconds {
            short if short < 10.0 => format!("{short:.2} s"),
            long => format::duration(Duration::from_secs_f64(long.min(1e9))),
        };
        writeln!(
            f,
            "  step        about {length} for {} tokens a member, {} tokens/s: {:.1} billion multiply-adds, of which this \
             processor does {:.1} billion a second, and half of a step's time goes elsewhere",
            format::grouped(self.tokens_per_step),
            format::rate(self.tokens_per_s),
            self.multiply_adds_per_step as f64 / 1e9,
            self.multiply_adds_per_s as f64 / 1e9,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_with_advice() {
        let base = Preset::find("base").unwrap();
        let fit = |available| Fit::predict((&base, 50_000, OptimizerKind::Adamw), 100_000_000_000, available).unwrap();
        let roomy = fit(24 << 30);
        assert!(roomy.fits, "124M parameters train in 24 GiB: {roomy}");
        assert!(roomy.to_string().contains("it fits"));
        // Just too little for the activations of all blocks.
        let close = fit(roomy.memory_keeping_bytes - 1);
        assert!(!roomy.recomputes && close.recomputes && close.fits, "{close}");
        assert!(close.memory_bytes < roomy.memory_bytes && close.memory_bytes == roomy.memory_recomputing_bytes);
        // The forward pass without the head, one block and each one's last product: under a third of all.
        let more = close.step_seconds / roomy.step_seconds;
        assert!((1.1..4.0 / 3.0).contains(&more), "{more}");
        assert!(close.to_string().contains("computed again"), "{close}");
        let muon = Fit::predict((&base, 50_000, OptimizerKind::Muon), 100_000_000_000, 24 << 30).unwrap();
        assert!(muon.memory_bytes > roomy.memory_bytes && muon.step_seconds > roomy.step_seconds, "{muon}");
        let tight = fit(1 << 30);
        assert!(!tight.fits && tight.to_string().contains("smaller preset"), "{tight}");
        // Three products a weight and token, the head among them, and twice that time.
        let floor = 3.0 * 123e6 * roomy.tokens_per_step as f64 / 1e11 * 2.0;
        assert!((floor..1.2 * floor).contains(&roomy.step_seconds), "{floor} {roomy}");
        assert!(
            Fit::predict((&base, 1, OptimizerKind::Adamw), 1, 1)
                .is_err_and(|error| error.to_string().contains("vocab_size"))
        );
    }
}
