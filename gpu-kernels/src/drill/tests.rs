//! The digest against its definition in plain integers, on every path there is.

use super::*;
use crate::admission::Forms;
use crate::cpu::random::mix;
use crate::device::software_adapter;
use std::sync::OnceLock;

/// Odd sizes among them.
const SHAPES: [GemmShape; 4] = [
    GemmShape { rows: 1, columns: 1, depth: 4 },
    GemmShape { rows: 67, columns: 45, depth: 36 },
    GemmShape { rows: 130, columns: 33, depth: 1024 },
    GemmShape { rows: 33, columns: 300, depth: 100 },
];

/// What both digests are of, as `docs/drilling.md` has it.
fn words_by_definition(shape: &GemmShape, seed: &[u8; 32]) -> Vec<u8> {
    let bytes = blake3::derive_key("manta 2026-11 gemm keys v1", seed);
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let operand = |key: [u32; 2], row: usize, at: usize| {
        let element = row * shape.depth + at;
        let byte = mix(key, (element / 4) as u32).to_le_bytes()[element % 4];
        i32::from(byte as i8).max(-127)
    };
    let mut text = Vec::new();
    for size in [shape.rows, shape.columns, shape.depth] {
        text.extend((size as u32).to_le_bytes());
    }
    text.extend(seed);
    for row in 0..shape.rows {
        let mut fold = 0u32;
        for column in 0..shape.columns {
            let terms = (0..shape.depth)
                .map(|at| operand([word(0), word(4)], row, at) * operand([word(8), word(12)], column, at));
            fold = fold.wrapping_add(mix([word(16), terms.sum::<i32>() as u32], column as u32));
        }
        text.extend(fold.to_le_bytes());
    }
    text
}

fn digest_by_definition(shape: &GemmShape, seed: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("manta 2026-11 gemm digest v1", &words_by_definition(shape, seed))
}

fn digest(driller: &mut GemmDriller, shape: &GemmShape, seed: u8) -> [u8; 32] {
    driller.execute(shape, &[seed; 32], None, &mut || true).unwrap().expect("nobody stopped it").digest
}

/// The software adapter, admitted as asked; none if the environment says aloud to skip.
fn device(forms: Forms) -> Option<AdmittedDevice> {
    static PLAIN: OnceLock<Option<AdmittedDevice>> = OnceLock::new();
    let open = || software_adapter().map(|device| AdmittedDevice::admit(device, forms, None).unwrap());
    if forms == Forms::default() { PLAIN.get_or_init(open).clone() } else { open() }
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_defined_digest() {
    for (shape, seed) in SHAPES.iter().zip(1..) {
        let expected = digest_by_definition(shape, &[seed; 32]);
        for path in SimdPath::available() {
            for threads in [1, 3] {
                let mut driller = GemmDriller::native(threads, path).unwrap();
                // The second time with another size of blocks, and buffers that were used.
                for _ in 0..2 {
                    assert_eq!(digest(&mut driller, shape, seed), expected, "{path:?}, {threads} threads, {shape:?}");
                }
            }
        }
    }
}

#[test]
fn a_device_gives_the_defined_digest() {
    for forms in [Forms::default(), Forms { soft_float: true, portable_dot: true }] {
        let Some(device) = device(forms) else { return };
        let mut driller = GemmDriller::on_device(&device).unwrap();
        for (shape, seed) in SHAPES.iter().zip(1..) {
            assert_eq!(digest(&mut driller, shape, seed), digest_by_definition(shape, &[seed; 32]), "{shape:?}");
        }
    }
}

#[test]
fn a_device_agrees_where_the_product_is_held_in_parts() {
    let Some(device) = device(Forms::default()) else { return };
    // More than 32 MiB of product.
    let shape = GemmShape { rows: 2100, columns: 4096, depth: 4 };
    let mut driller = GemmDriller::on_device(&device).unwrap();
    driller.block_terms = usize::MAX;
    let mut native = GemmDriller::native(0, SimdPath::Auto).unwrap();
    assert_eq!(digest(&mut driller, &shape, 5), digest(&mut native, &shape, 5));
}

#[test]
fn the_digest_is_pinned() {
    let shape = GemmShape { rows: 256, columns: 256, depth: 256 };
    let mut driller = GemmDriller::native(0, SimdPath::Auto).unwrap();
    let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(digest(&mut driller, &shape, 7)),
        "bc0839e3f152c398d722862d0d794db27b6dfd6c716ca25c6f8af398c9c8d117"
    );
}

#[test]
fn seed_and_shape_change_the_digest() {
    let mut driller = GemmDriller::native(1, SimdPath::Auto).unwrap();
    let shape = GemmShape { rows: 16, columns: 8, depth: 8 };
    let shapes = [shape, GemmShape { rows: 8, columns: 16, ..shape }, GemmShape { depth: 16, ..shape }];
    let mut digests: Vec<_> = shapes.iter().map(|shape| digest(&mut driller, shape, 1)).collect();
    digests.push(digest(&mut driller, &shape, 2));
    let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len());
}

#[test]
fn a_challenge_is_answered_beside_the_digest_and_by_nothing_else() {
    let mut driller = GemmDriller::native(2, SimdPath::Auto).unwrap();
    let (shape, seed) = (SHAPES[1], [9; 32]);
    let mut both = |challenge: Option<&[u8; 32]>| {
        driller.execute(&shape, &seed, challenge, &mut || true).unwrap().expect("nobody stopped it")
    };
    let words = words_by_definition(&shape, &seed);
    for challenge in [[1; 32], [2; 32]] {
        let check = *blake3::keyed_hash(&challenge, &words).as_bytes();
        assert_eq!(both(Some(&challenge)), GemmDigests { digest: digest_by_definition(&shape, &seed), check });
    }
    assert_eq!(both(None).check, [0; 32]);
}

#[test]
fn a_unit_can_be_stopped_between_blocks() {
    let mut driller = GemmDriller::native(1, SimdPath::Portable).unwrap();
    driller.block_terms = 1;
    let shape = GemmShape { rows: 640, columns: 8, depth: 8 };
    let mut asked = 0;
    let outcome = driller.execute(&shape, &[1; 32], None, &mut || {
        asked += 1;
        asked < 3
    });
    assert_eq!((outcome, asked), (Ok(None), 3));
    // What comes after is not harmed.
    assert_eq!(digest(&mut driller, &shape, 1), digest_by_definition(&shape, &[1; 32]));
}

#[test]
fn impossible_shapes_are_refused() {
    let mut driller = GemmDriller::native(1, SimdPath::Auto).unwrap();
    let good = GemmShape { rows: 8, columns: 8, depth: 8 };
    for shape in [
        GemmShape { rows: 0, ..good },
        GemmShape { rows: GEMM_ROWS_MAX + 1, ..good },
        GemmShape { columns: GEMM_COLUMNS_MAX + 1, ..good },
        GemmShape { depth: GEMM_DEPTH_MAX + 4, ..good },
        GemmShape { depth: 6, ..good },
    ] {
        let refused = driller.execute(&shape, &[1; 32], None, &mut || true);
        assert!(matches!(refused, Err(EngineError::Length { .. })), "{shape:?}: {refused:?}");
    }
}

#[test]
fn the_speed_is_plausible() {
    let mut driller = GemmDriller::native(1, SimdPath::Auto).unwrap();
    let speed = driller.measure_operations_per_s(20).unwrap();
    assert!((1_000_000..100_000_000_000_000).contains(&speed), "{speed}");
}
