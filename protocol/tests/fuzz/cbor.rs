//! Changes to CBOR that leave it in canonical form, so that they get past the
//! codec: other numbers, longer and shorter lists and texts.

use crate::driver::Dice;
use serde_cbor::Value;

/// Changes the body behind the number of its kind.
pub(crate) fn change_body(dice: &mut Dice, bytes: &[u8]) -> Option<Vec<u8>> {
    let (kind, body) = bytes.split_first()?;
    Some([&[*kind], &change(dice, body)?[..]].concat())
}

/// Changes one value somewhere in `bytes`.
pub(crate) fn change(dice: &mut Dice, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_cbor::from_slice(bytes).ok()?;
    let mut chosen = dice.below(size(&value));
    visit(&mut value, &mut chosen, dice);
    serde_cbor::ser::to_vec_packed(&value).ok()
}

/// Number of values in the tree.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.values().map(size).sum::<usize>(),
        _ => 0,
    }
}

/// Changes the value that is `chosen` places further in the tree; whether it was there.
fn visit(value: &mut Value, chosen: &mut usize, dice: &mut Dice) -> bool {
    if *chosen == 0 {
        replace(value, dice);
        return true;
    }
    *chosen -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| visit(item, chosen, dice)),
        Value::Map(entries) => entries.values_mut().any(|entry| visit(entry, chosen, dice)),
        _ => false,
    }
}

fn replace(value: &mut Value, dice: &mut Dice) {
    match value {
        Value::Integer(number) => {
            let edges = [
                0,
                1,
                16,
                17,
                255,
                65_536,
                i128::from(u32::MAX),
                1 << 40,
                i128::from(u64::MAX) - 1,
                i128::from(u64::MAX),
                -1,
            ];
            *number = match dice.below(4) {
                0 => number.saturating_add(1),
                1 => number.saturating_sub(1),
                _ => edges[dice.below(edges.len())],
            };
            // What CBOR can say.
            *number = (*number).clamp(i128::from(i64::MIN), i128::from(u64::MAX));
        }
        Value::Bytes(bytes) if dice.below(2) == 0 => bytes.truncate(dice.below(bytes.len() + 1)),
        Value::Bytes(bytes) => {
            let at = dice.below(bytes.len());
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = dice.below(256) as u8);
        }
        Value::Array(items) if dice.below(3) == 0 => items.truncate(dice.below(items.len() + 1)),
        Value::Array(items) => {
            let from = dice.below(items.len().max(1));
            if let Some(item) = items.get(from).cloned() {
                let copies = [1, 2, 17, 300][dice.below(4)];
                items.splice(from..from, std::iter::repeat_n(item, copies));
            }
        }
        Value::Text(text) => text.push_str(["", "\0", "é", &"x".repeat(65)][dice.below(4)]),
        Value::Bool(choice) => *choice = !*choice,
        Value::Map(entries) => drop(entries.pop_last()),
        _ => *value = Value::Integer(dice.below(3) as i128),
    }
}
