//! `manta eval`: how well a model predicts a text.

use super::{Error, format};
use crate::checkpoint::read::{self, Checkpoint};
use crate::data::tokens::Tokens;
use crate::data::{batches, corpus};
use crate::device::{Chosen, Wanted, cache_of};
use crate::digits::{self, DigitsWish};
use crate::run::engine::{AnyEngine, Recipe};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use manta_gpu_kernels::{ArithmeticSpec, EngineOptions, Evaluation, Layout, OptimizerConfig};
use manta_protocol::run::spec::DigitsSpec;
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Tokens that the model sees at once, unless it was made for fewer.
const LENGTH_MAX: usize = 1024;
/// Tokens that are computed at once.
const TOKENS_AT_ONCE: usize = 2048;
/// Text that has no two tokens cannot be judged; this is enough for any tokenizer.
const TEXT_BYTES_MIN: u64 = 64;
/// Who waits longer sees how far it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Measure how well a model predicts a text.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  manta eval model --data book.txt
  manta eval model --data 'books/*.txt' --length 256 --json | tail -n 1

The text is cut into windows, one after the other; a token is predicted from those
before it in its window. Equal models and texts give equal numbers on any machine.")]
pub(super) struct EvalArgs {
    /// Folder of a model, in Hugging Face layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// A text file, a folder or a quoted glob such as 'books/**/*.txt'
    #[arg(long, value_name = "PATH")]
    data: PathBuf,

    /// Tokens of a window [default: what the model was made for, at most 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=131_072))]
    length: Option<u32>,

    /// Judge at most N windows, evenly spaced
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    windows: Option<u32>,

    /// 8-bit digits, 1 or 2, of the operands of exact products: of all, or of some of
    /// the classes activations, weights and attention. 1 judges as training computes,
    /// and is up to four times as fast
    #[arg(long, value_name = "DIGITS", default_value = "2")]
    digits: DigitsWish,

    /// What computes: auto, native, gpu, software, or a part of a device's name
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Wanted,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, PartialEq, Serialize)]
struct Report {
    /// Mean, nats a token.
    loss: f64,
    /// The same for each byte of the text.
    loss_per_byte: f64,
    /// Share of tokens that were the likeliest.
    accuracy: f64,
    /// Tokens that were predicted.
    tokens: u64,
    /// Of the whole text.
    text_tokens: usize,
    text_bytes: usize,
    /// Tokens of a window.
    length: usize,
    /// Digits of the operands of exact products.
    digits: DigitsSpec,
    parameters: usize,
    parameter_hash: String,
    device: String,
    seconds: f64,
}

/// `data_dir` keeps admissions of devices, if there is one.
pub(super) fn run(arguments: &EvalArgs, data_dir: Option<&Path>) -> Result<(), Error> {
    let data = arguments.data.to_str().ok_or_else(|| format!("{}: rename it to UTF-8", arguments.data.display()))?;
    let text = corpus::read_at_least(data, TEXT_BYTES_MIN)?.bytes;
    let checkpoint = read::read(&arguments.folder)?;
    let chosen = Chosen::choose(&arguments.device, data_dir.map(cache_of).as_deref())?;
    let windows_max = arguments.windows.map_or(usize::MAX, |windows| windows as usize);
    let length = arguments.length.map(|length| length as usize);
    let digits = arguments.digits.over(digits::of_any_model());
    let report = judge(checkpoint, text, &chosen, digits, length, windows_max)?;
    let text = if arguments.json { serde_json::to_string(&report)? + "\n" } else { report.text() };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Judges the model; a bar shows how far it is if that takes its time.
fn judge(
    mut checkpoint: Checkpoint,
    text: Vec<u8>,
    chosen: &Chosen,
    digits: DigitsSpec,
    length: Option<usize>,
    windows_max: usize,
) -> Result<Report, Error> {
    let started = Instant::now();
    let text_bytes = text.len();
    let tokens = checkpoint.tokenizer.codec()?.encode_corpus(text)?;
    let longest = checkpoint.config.max_position_embeddings;
    if let Some(length) = length.filter(|length| *length > longest) {
        return Err(format!("--length {length}: the model sees at most {longest} tokens").into());
    }
    // A short text is one window.
    let length = length.unwrap_or(LENGTH_MAX.min(longest)).min(tokens.len().saturating_sub(1));
    if length < 2 {
        return Err(format!("the text has {} tokens; at least 3 are needed", tokens.len()).into());
    }
    let recipe = Recipe {
        model: checkpoint.config.clone(),
        optimizer: OptimizerConfig::default(),
        arithmetic: digits::arithmetic(
            digits,
            ArithmeticSpec {
                micro_batch_sequences: (TOKENS_AT_ONCE / length).max(1),
                sequence_length: length,
                ..ArithmeticSpec::default()
            },
        ),
        options: EngineOptions { memory_bytes_max: crate::host::available_memory_bytes(), ..EngineOptions::default() },
    };
    let mut engine = recipe.build(chosen.device.as_ref())?;
    engine.load_parameters(std::mem::take(&mut checkpoint.parameters))?;
    let found = evaluate(&mut engine, &tokens, &recipe.arithmetic, windows_max, started)?;
    let loss = found.loss.nats_per_token();
    Ok(Report {
        loss,
        loss_per_byte: loss * tokens.len() as f64 / text_bytes as f64,
        accuracy: found.hits as f64 / found.loss.tokens as f64,
        tokens: found.loss.tokens,
        text_tokens: tokens.len(),
        text_bytes,
        length,
        digits,
        parameters: Layout::new(&checkpoint.config).len(),
        parameter_hash: blake3::Hash::from_bytes(engine.parameter_hash()?).to_hex().to_string(),
        device: chosen.name(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn evaluate(
    engine: &mut AnyEngine,
    tokens: &Tokens,
    arithmetic: &ArithmeticSpec,
    windows_max: usize,
    started: Instant,
) -> Result<Evaluation, Error> {
    let length = arithmetic.sequence_length;
    let starts = batches::validation_starts(tokens.len(), length, windows_max)?;
    let bar = ProgressBar::with_draw_target(Some(starts.len() as u64), ProgressDrawTarget::hidden());
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} windows, {eta} left")?);
    let (mut sum, mut shown) = (Evaluation::default(), false);
    for starts in starts.chunks(arithmetic.micro_batch_sequences) {
        sum = sum + engine.evaluate(&batches::tokens(tokens, starts, length), starts.len())?;
        if !shown && started.elapsed() > PATIENCE {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            shown = true;
        }
        bar.inc(starts.len() as u64);
    }
    bar.finish_and_clear();
    Ok(sum)
}

impl Report {
    /// For people.
    fn text(&self) -> String {
        let rows = [
            ("loss", format!("{:.4} nats a token, {:.4} a byte", self.loss, self.loss_per_byte)),
            ("accuracy", format!("{:.2} % of tokens are the likeliest", 100.0 * self.accuracy)),
            ("tokens", format!("{} predicted, in windows of {}", format::grouped(self.tokens), self.length)),
            (
                "text",
                format!(
                    "{} as {} tokens",
                    format::bytes(self.text_bytes as u64),
                    format::grouped(self.text_tokens as u64)
                ),
            ),
            ("model", format!("{} parameters, {}", format::grouped(self.parameters as u64), self.parameter_hash)),
            ("time", format!("{:.1} s on {}", self.seconds, self.device)),
        ];
        rows.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::sample::{config, parameters, write_model};
    use crate::checkpoint::write::Foreign;
    use manta_gpu_kernels::reference::{Batch, Decoder};

    fn evaluated(text: &[u8], length: Option<usize>, windows: usize) -> Result<Report, Error> {
        evaluated_with(digits::of_any_model(), text, length, windows)
    }

    fn evaluated_with(digits: DigitsSpec, text: &[u8], length: Option<usize>, windows: usize) -> Result<Report, Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("model");
        write_model(&folder, Foreign::Refuse).expect("writes");
        let checkpoint = read::read(&folder).expect("reads");
        judge(checkpoint, text.to_vec(), &Chosen::native("a test"), digits, length, windows)
    }

    #[test]
    fn the_numbers_are_those_of_the_reference() {
        let text: Vec<u8> = (0..199_u32).map(|i| (i * i / 7 % 90) as u8 + 33).collect();
        let report = evaluated(&text, Some(16), usize::MAX).expect("judges");
        assert_eq!((report.tokens, report.text_tokens, report.text_bytes, report.length), (192, 199, 199, 16));
        assert_eq!(report.parameters, Layout::new(&config()).len());
        let ids: Vec<u32> = text.iter().map(|byte| u32::from(*byte)).collect();
        let decoder = Decoder::<f64>::new(&config(), &parameters(&config()));
        let batch = Batch { inputs: &ids[..192], targets: &ids[1..193], sequences: 12 };
        let (loss, vocabulary) = (decoder.loss(batch), config().vocab_size);
        // Seven more bits than one digit has, whose distance is within 0.06 (docs/models.md).
        assert!((report.loss - loss).abs() < 0.06 / 128.0, "{} {loss}", report.loss);
        let coarse = evaluated_with(digits::of_training(), &text, Some(16), usize::MAX).expect("judges");
        assert!((coarse.loss - loss).abs() < 0.06 && coarse.loss != report.loss, "{} {loss}", coarse.loss);
        assert!((report.loss_per_byte - report.loss).abs() < 1e-12, "a byte is a token");
        let logits = decoder.logits(&ids[..192], 12);
        let likeliest = |row: &[f64]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id);
        let hits = logits.chunks(vocabulary).zip(&ids[1..]).filter(|(row, id)| likeliest(row) == Some(**id as usize));
        let accuracy = hits.count() as f64 / 192.0;
        assert!((report.accuracy - accuracy).abs() < 0.03, "{} {accuracy}", report.accuracy);
        let again = evaluated(&text, Some(16), usize::MAX).expect("judges");
        assert_eq!((again.loss, again.parameter_hash), (report.loss, report.parameter_hash));
    }

    #[test]
    fn short_texts_are_one_window_and_tiny_ones_are_refused() {
        let text = [b'x'; 40];
        assert_eq!(evaluated(&text, None, usize::MAX).expect("judges").length, 39);
        assert_eq!(evaluated(&[b'x'; 400], Some(16), 2).expect("judges").tokens, 32);
        let refused = |text: &[u8], length| evaluated(text, length, 1).expect_err("refused").to_string();
        assert!(refused(b"xy", None).contains("at least 3"));
        assert!(refused(&text, Some(65)).contains("at most 64"));
    }
}
