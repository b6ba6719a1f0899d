//! `manta tokenize`: makes a tokenizer of a corpus, and shows what one does.

use super::Error;
use crate::checkpoint::read::read_tokenizer_at;
use crate::data::corpus;
use crate::data::tokenizer::Codec;
use crate::data::tokenizer::train::{VOCAB_SIZES, train};
use clap::{Args, Subcommand};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Make a tokenizer of a corpus, or look at what one does.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  manta tokenize train --data 'books/**/*.txt' --vocab 4096 --out tokenizer.json
  manta train --data books --tokenizer tokenizer.json --out model
  manta tokenize encode tokenizer.json --text 'Once upon a time'
  manta tokenize decode model 12 7 301")]
pub(super) struct TokenizeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a byte-level BPE tokenizer; equal texts and sizes give equal files
    Train(TrainArgs),
    /// Show the tokens of a text
    Encode(EncodeArgs),
    /// Show the text of tokens
    Decode(DecodeArgs),
}

#[derive(Args, Debug)]
struct TrainArgs {
    /// A text file, a folder or a quoted glob such as 'books/**/*.txt'
    #[arg(long, value_name = "PATH")]
    data: PathBuf,

    /// Tokens of the vocabulary, at most: with the 256 bytes and the end of text
    #[arg(long, value_name = "N", value_parser = vocab_size)]
    vocab: usize,

    /// The file to write: a Hugging Face `tokenizer.json`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the file if there is one
    #[arg(long)]
    overwrite: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct EncodeArgs {
    /// A `tokenizer.json`, or a model's folder
    #[arg(value_name = "FILE|DIR")]
    tokenizer: PathBuf,

    /// The text; without it, standard input
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

#[derive(Args, Debug)]
struct DecodeArgs {
    /// A `tokenizer.json`, or a model's folder
    #[arg(value_name = "FILE|DIR")]
    tokenizer: PathBuf,

    /// The tokens
    #[arg(value_name = "ID", required = true)]
    ids: Vec<u32>,
}

fn vocab_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if VOCAB_SIZES.contains(&size) => Ok(size),
        _ => Err(format!("expected a number from {} to {}", VOCAB_SIZES.start(), VOCAB_SIZES.end())),
    }
}

pub(super) fn run(arguments: TokenizeArgs) -> Result<(), Error> {
    let text = match arguments.action {
        Action::Train(arguments) => make(&arguments)?,
        Action::Encode(EncodeArgs { tokenizer, text }) => {
            let ids = codec(&tokenizer)?.encode(&text.map_or_else(standard_input, Ok)?)?;
            ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
        }
        Action::Decode(DecodeArgs { tokenizer, ids }) => {
            let known = read_tokenizer_at(&tokenizer)?;
            if let Some(id) = ids.iter().find(|id| **id as usize >= known.vocab_size()) {
                return Err(format!("{id} is no token; there are {}", known.vocab_size()).into());
            }
            known.codec()?.decode(&ids)?
        }
    };
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

fn codec(path: &Path) -> Result<Codec, Error> {
    Ok(read_tokenizer_at(path)?.codec()?)
}

fn standard_input() -> Result<String, Error> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Makes the tokenizer; what to say of it.
fn make(arguments: &TrainArgs) -> Result<String, Error> {
    let TrainArgs { data, vocab, out, overwrite, json } = arguments;
    if !overwrite && fs::symlink_metadata(out).is_ok() {
        return Err(format!("{}: exists; say --overwrite to replace it", out.display()).into());
    }
    let input = data.to_str().ok_or_else(|| format!("{}: the path is not UTF-8; rename it", data.display()))?;
    let corpus = corpus::read(input)?;
    let text = String::from_utf8(corpus.bytes)?;
    let text_bytes = text.len();
    let content = train(&text, *vocab)?;
    write_new(out, &content, *overwrite).map_err(|error| format!("{}: cannot be written: {error}", out.display()))?;
    let tokenizer = read_tokenizer_at(out)?;
    let tokens = tokenizer.codec()?.encode_corpus(text.into_bytes())?;
    let (vocab_size, hash) = (tokenizer.vocab_size(), blake3::hash(&content).to_hex().to_string());
    let bytes = text_bytes as u64;
    let per_token = bytes as f64 / tokens.len().max(1) as f64;
    if *json {
        let report = json!({
            "out": out, "vocab_size": vocab_size, "blake3": hash, "text_bytes": bytes, "tokens": tokens.len(),
            "bytes_per_token": per_token,
        });
        return Ok(report.to_string());
    }
    Ok(format!(
        "{}: {vocab_size} tokens; the text takes {} of them, {per_token:.2} bytes each\n\
         train with it:\n  manta train --data {input} --tokenizer {} --out model",
        out.display(),
        tokens.len(),
        out.display()
    ))
}

/// Writes a whole file, or none: beside it first, then in its place.
fn write_new(path: &Path, content: &[u8], overwrite: bool) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    if !overwrite {
        return OpenOptions::new().write(true).create_new(true).open(path)?.write_all(content);
    }
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".writing-{}", std::process::id()));
    let beside = folder.join(name);
    fs::write(&beside, content)?;
    fs::rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_args(folder: &Path, overwrite: bool) -> TrainArgs {
        let (data, out) = (folder.join("text.txt"), folder.join("out/tokenizer.json"));
        TrainArgs { data, vocab: 300, out, overwrite, json: true }
    }

    #[test]
    fn a_tokenizer_is_made_and_not_overwritten_unasked() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "one fish two fish red fish blue fish\n".repeat(600);
        fs::write(folder.path().join("text.txt"), &text).expect("writes");
        let said = make(&make_args(folder.path(), false)).expect("makes it");
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert!(said["bytes_per_token"].as_f64().is_some_and(|bytes| bytes > 2.0), "{said}");
        assert_eq!(said["text_bytes"], text.len());
        let path = folder.path().join("out/tokenizer.json");
        let first = fs::read(&path).expect("the file");
        assert_eq!(said["blake3"], blake3::hash(&first).to_hex().to_string());
        assert!(make(&make_args(folder.path(), false)).is_err_and(|error| error.to_string().contains("--overwrite")));
        make(&make_args(folder.path(), true)).expect("replaces it");
        assert_eq!(fs::read(&path).expect("the file"), first, "equal texts give equal files");
        let codec = codec(&path).expect("reads");
        let ids = codec.encode("red fish").expect("encodes");
        assert_eq!(codec.decode(&ids).expect("decodes"), "red fish");
    }

    #[test]
    fn sizes_of_vocabularies_are_bounded() {
        assert_eq!(vocab_size("4096"), Ok(4096));
        for bad in ["257", "0", "-1", "131073", "many"] {
            assert!(vocab_size(bad).is_err_and(|error| error.contains("258")), "{bad}");
        }
    }
}
