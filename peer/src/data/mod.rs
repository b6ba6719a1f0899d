//! Text in, batches out: reading a corpus, splitting it, cutting it into
//! verified blobs, and drawing training windows from it.

pub(crate) mod batches;
pub(crate) mod corpus;
pub(crate) mod demo_text;
pub(crate) mod manifest;
pub(crate) mod split;
pub(crate) mod tokenizer;
pub(crate) mod walk;

/// The two parts of a text. No byte position of the text is in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataSet {
    /// What the model is trained on.
    pub(crate) training: Vec<u8>,
    /// What its loss is measured on, never trained on.
    pub(crate) validation: Vec<u8>,
}
