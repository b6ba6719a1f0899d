//! The corpora, made from the samples. After a change of the encoding:
//! `cargo test --release -p manta-protocol --test fuzz -- --ignored write_corpus`.

use crate::samples::{NOW, identity, messages, network};

use crate::stories;
use manta_protocol::Duration;
use std::path::Path;

fn write(target: &str, name: &str, bytes: &[u8]) {
    assert!(bytes.len() < 4_096, "{target}/{name} is small");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&folder).expect("the folder of a corpus");
    std::fs::write(folder.join(name), bytes).expect("a file of a corpus");
}

#[test]
#[ignore = "writes the corpora"]
fn write_corpus() {
    for message in messages() {
        let name = format!("{:?}", message.kind()).to_lowercase();
        let sealed = identity(1).seal(network(), NOW.as_unix_ms(), NOW + Duration::from_s(30), &message);
        write("envelope", &name, &sealed);
        let (_, unsigned) = crate::decoders::peek(&sealed);
        write("body", &name, &[&[message.kind() as u8], &unsigned.body[..]].concat());
    }
    for (name, story) in stories::seeds() {
        write("story", name, &story);
        if let Some(record) = crate::moves::play(&story).last_record {
            write("record", name, &record);
        }
    }
}
