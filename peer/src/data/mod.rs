//! Text in, batches out: reading a corpus, splitting it, turning it into tokens,
//! cutting these into verified blobs, and drawing training windows from them.

pub(crate) mod batches;
pub(crate) mod corpus;
pub(crate) mod demo_text;
pub(crate) mod manifest;
pub(crate) mod split;
pub(crate) mod tokenizer;
pub(crate) mod tokens;
pub(crate) mod walk;

use tokens::Tokens;

/// The tokens of the two parts of a text. No byte position of the text is in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataSet {
    /// What the model is trained on.
    pub(crate) training: Tokens,
    /// What its loss is measured on, never trained on.
    pub(crate) validation: Tokens,
}
