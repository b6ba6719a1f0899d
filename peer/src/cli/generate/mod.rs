//! `manta generate`: a trained model continues a text.

pub(super) mod sample;

use super::Error;
use crate::checkpoint::read::{self, Checkpoint};
use crate::data::tokenizer::Codec;
use crate::device::{Chosen, Wanted, cache_of};
use crate::digits;
use crate::run::engine::{AnyEngine, Recipe};
use clap::Args;
use manta_gpu_kernels::{ArithmeticSpec, EngineOptions, OptimizerConfig};
use sample::{Sampler, Sampling};
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Let a trained model write.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  manta generate model --prompt 'fn main() {' --tokens 400
  manta generate model --prompt 'Once' --temperature 0      always the likeliest")]
pub(super) struct GenerateArgs {
    /// Folder of a model, as `manta train` saves it
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,

    /// Tokens to write
    #[arg(long, value_name = "N", default_value_t = 200)]
    tokens: usize,

    /// Above 1 more surprising, below 1 less; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = temperature, allow_negative_numbers = true)]
    temperature: f64,

    /// Draw from the K likeliest tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,

    /// Equal seeds write equal texts
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// What computes: auto, native, gpu, software, or a part of a device's name;
    /// the text is the same
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Wanted,

    /// Print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Generated<'a> {
    prompt: &'a str,
    text: &'a str,
    tokens: usize,
    seed: u64,
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 100".into()),
    }
}

/// `data_dir` keeps admissions of devices, if there is one.
pub(super) fn run(arguments: GenerateArgs, data_dir: Option<&Path>) -> Result<(), Error> {
    let GenerateArgs { folder, prompt, tokens, temperature, top_k, seed, device, json } = arguments;
    let chosen = Chosen::choose(&device, data_dir.map(cache_of).as_deref())?;
    tracing::info!(device = chosen.name(), kind = chosen.kind(), why = chosen.why, "computes on");
    let mut writer = Writer::load(&folder, Sampling { temperature, top_k, seed }, &chosen)?;
    let mut stdout = std::io::stdout().lock();
    if json {
        let text = writer.write(&prompt, tokens, |_| Ok(()))?;
        let generated = Generated { prompt: &prompt, text: &text, tokens, seed };
        writeln!(stdout, "{}", serde_json::to_string(&generated)?)?;
        return Ok(());
    }
    write!(stdout, "{prompt}")?;
    writer.write(&prompt, tokens, |piece| {
        write!(stdout, "{piece}")?;
        Ok(stdout.flush()?)
    })?;
    writeln!(stdout)?;
    Ok(())
}

/// A model that writes.
pub(super) struct Writer {
    engine: AnyEngine,
    checkpoint: Checkpoint,
    codec: Codec,
    sampler: Sampler,
}

impl Writer {
    /// The model in `folder`, on `chosen`.
    ///
    /// # Errors
    /// What is missing or damaged in the folder, or too large for the machine.
    pub(super) fn load(folder: &Path, sampling: Sampling, chosen: &Chosen) -> Result<Self, Error> {
        let mut checkpoint = read::read(folder)?;
        let codec = checkpoint.tokenizer.codec()?;
        if let Some(run) = &checkpoint.run {
            tracing::info!(steps = %run["steps_done"], parameters = %run["parameter_hash"], "a model trained by Manta");
        }
        let rest = ArithmeticSpec {
            micro_batch_sequences: 1,
            sequence_length: checkpoint.config.max_position_embeddings,
            ..ArithmeticSpec::default()
        };
        // Models that were trained here do with the digits of training; what others hold is not known.
        let is_ours = checkpoint.run.is_some();
        let digits = if is_ours { digits::of_training() } else { digits::of_any_model() };
        let arithmetic = digits::arithmetic(digits, rest);
        let recipe = Recipe {
            model: checkpoint.config.clone(),
            optimizer: OptimizerConfig::default(),
            arithmetic,
            options: EngineOptions::default(),
        };
        let mut engine = recipe.build(chosen.device.as_ref())?;
        engine.load_parameters(std::mem::take(&mut checkpoint.parameters))?;
        Ok(Self { engine, checkpoint, codec, sampler: Sampler::new(sampling) })
    }

    /// Continues `prompt` by `count` tokens, or until the model ends the text; gives each piece of text to `emit`
    /// when it is complete, and all of it in the end. The model sees as much of
    /// what was before as it was trained to.
    ///
    /// # Errors
    /// An empty prompt, a model whose numbers are out of range, or `emit`'s own.
    pub(super) fn write(
        &mut self,
        prompt: &str,
        count: usize,
        mut emit: impl FnMut(&str) -> Result<(), Error>,
    ) -> Result<String, Error> {
        let mut context = self.codec.encode(prompt)?;
        if prompt.is_empty() {
            return Err("the prompt is empty; give the model something to continue, such as --prompt 'The '".into());
        }
        let longest = self.checkpoint.config.max_position_embeddings;
        let vocabulary = self.checkpoint.tokenizer.vocab_size();
        let ends = self.checkpoint.tokenizer.special_tokens().eos;
        let (mut stream, mut text) = (self.codec.stream(), String::new());
        for _ in 0..count {
            let seen = &context[context.len().saturating_sub(longest)..];
            let logits = self.engine.next_token_logits(seen)?;
            // A model may have more outputs than its tokenizer has tokens.
            let token = u32::try_from(self.sampler.draw(&logits[..vocabulary.min(logits.len())])?)?;
            if ends.contains(&token) {
                break;
            }
            context.push(token);
            let piece = stream.push(token)?;
            emit(&piece)?;
            text += &piece;
        }
        let rest = stream.finish()?;
        emit(&rest)?;
        Ok(text + &rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::write::{Foreign, Model, write};
    use crate::data::tokenizer::Tokenizer;
    use crate::preset::Preset;
    use manta_gpu_kernels::Layout;

    fn native() -> Chosen {
        Chosen::native("a test")
    }

    fn save_model(folder: &Path) {
        let config = Preset::find("nano").expect("a preset").model(256);
        let value = |index: usize| (index * 7919 % 1000) as f32 / 5000.0 - 0.1;
        let parameters: Vec<f32> = (0..Layout::new(&config).len()).map(value).collect();
        let run = serde_json::json!({});
        let model = Model { config: &config, parameters: &parameters, tokenizer: &Tokenizer::Bytes, run: &run };
        write(folder, Foreign::Refuse, model).expect("writes");
    }

    #[test]
    fn a_saved_model_writes_the_same_text_for_the_same_seed() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("model");
        save_model(&folder);
        let load =
            |seed| Writer::load(&folder, Sampling { temperature: 1.0, top_k: 0, seed }, &native()).expect("loads");
        let text = |seed| {
            let mut pieces = String::new();
            // Longer than the 64 tokens that the model can see.
            let text = load(seed).write("fn main", 80, |piece| {
                pieces += piece;
                Ok(())
            });
            let text = text.expect("writes");
            assert_eq!(text, pieces);
            text
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        let error = load(0).write("", 1, |_| Ok(())).expect_err("nothing to continue").to_string();
        assert!(error.contains("--prompt"), "{error}");
    }

    #[test]
    fn a_folder_without_a_model_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let sampling = Sampling { temperature: 1.0, top_k: 0, seed: 0 };
        let error = Writer::load(folder.path(), sampling, &native()).err().expect("nothing there").to_string();
        assert!(error.contains("config.json"), "{error}");
    }

    #[test]
    fn temperatures_are_finite_and_not_negative() {
        assert_eq!(temperature("0.5"), Ok(0.5));
        for bad in ["-1", "NaN", "inf", "warm", "101"] {
            assert!(temperature(bad).is_err(), "{bad}");
        }
    }
}
