// Packs lines of a matrix, its rows or its columns, twin of `cpu/pack.rs`. The op defines
// LINES (that a workgroup packs side by side) and LANES (threads on each of them).

struct Params {
    /// Of the source; rows are `stride` apart, batches `batch_stride`.
    rows: u32,
    columns: u32,
    stride: u32,
    batches: u32,
    batch_stride: u32,
    /// Of the first element in the source, and in the tensor whose elements key the random bits.
    offset: u32,
    index: u32,
    /// Pair of words in `keys`.
    key: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> source: array<u32>;
@group(0) @binding(3) var<storage, read> keys: array<u32>;
/// `[batch][row][digit][group]`: four digits in a word, the first in the lowest byte.
@group(0) @binding(4) var<storage, read_write> words: array<u32>;
/// `[batch][row]`: exponent fields of the scales.
@group(0) @binding(5) var<storage, read_write> scales: array<u32>;

var<workgroup> peaks: array<atomic<u32>, LINES>;

/// A row of what is packed, in the source.
struct Line {
    /// Place of the packed row among all of all batches.
    row: u32,
    /// Of the first element.
    start: u32,
    /// From one element to the next.
    step: u32,
    length: u32,
}

/// Packs the workgroup's line number `own`. All threads come here, for they meet at a barrier;
/// those beyond the matrix are not `inside`.
fn pack(line: Line, inside: bool, own: u32, lane: u32) {
    var own_peak = 0u;
    if inside {
        for (var place = lane; place < line.length; place += LANES) {
            own_peak = max(own_peak, magnitude(source[params.offset + line.start + place * line.step]));
        }
    }
    atomicMax(&peaks[own], own_peak);
    workgroupBarrier();
    let peak = atomicLoad(&peaks[own]);
    if !inside {
        return;
    }
    if lane == 0u {
        scales[line.row] = scale_field(peak);
    }
    let key = vec2<u32>(keys[2u * params.key], keys[2u * params.key + 1u]);
    let word_groups = (line.length + 3u) / 4u;
    for (var word = lane; word < word_groups; word += LANES) {
        var digits: array<u32, 2>;
        for (var byte = 0u; byte < 4u; byte++) {
            let place = 4u * word + byte;
            if place < line.length {
                let at = line.start + place * line.step;
                let q = quantize(source[params.offset + at], peak, key, params.index + at);
                for (var digit = 0u; digit < DIGITS; digit++) {
                    digits[digit] |= (bitcast<u32>(digit_of(q, digit)) & 0xffu) << (8u * byte);
                }
            }
        }
        for (var digit = 0u; digit < DIGITS; digit++) {
            words[(line.row * DIGITS + digit) * word_groups + word] = digits[digit];
        }
    }
}
