// Packs lines of a matrix, its rows or its columns, by eight threads each. Twin of `cpu/pack.rs`.
// `pack_words` or `pack_fours` reads them.
//
// A matrix that no binding holds comes in windows of some of its rows. Packed along them
// the windows are lines of their own; packed along the columns each has a piece of every
// line, and the phases are: the largest magnitudes of the first window, of each further one,
// then the words of each.

struct Params {
    first_group: u32,
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
    /// Of what is packed: the first line in `words` and `scales`, and the first piece of 16
    /// elements of each line.
    first_line: u32,
    first_piece: u32,
    /// Pieces of a whole line.
    pieces: u32,
    phase: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> keys: array<u32>;
/// `[batch][line][digit][piece][word]`: 16 digits in a piece, four in each of its words,
/// the first in the lowest byte. Behind the end of a line they are 0.
@group(0) @binding(4) var<storage, read_write> words: array<u32>;
/// `[batch][line]`: exponent fields of the scales; between phases, largest magnitudes.
@group(0) @binding(5) var<storage, read_write> scales: array<u32>;

const PHASE_WHOLE: u32 = 0u;
const PHASE_FIRST_PEAKS: u32 = 1u;
const PHASE_MORE_PEAKS: u32 = 2u;
const PHASE_WORDS: u32 = 3u;
const PHASE_LAST_WORDS: u32 = 4u;

/// What is packed, in the source.
struct Line {
    /// Place of the packed line among all of all batches.
    number: u32,
    /// Of the first element.
    start: u32,
    /// From one element to the next.
    step: u32,
    length: u32,
}

/// Packs a line. All threads come here, for they exchange values; lines beyond the matrix are
/// not `inside`.
fn pack(line: Line, inside: bool, lane: u32) {
    var own_peak = 0u;
    if inside && params.phase < PHASE_WORDS {
        own_peak = largest_of(line, lane);
    }
    if inside && lane == 0u && params.phase > PHASE_FIRST_PEAKS {
        own_peak = max(own_peak, scales[line.number]);
    }
    var peak = max(own_peak, exchange(own_peak, 4u));
    peak = max(peak, exchange(peak, 2u));
    peak = max(peak, exchange(peak, 1u));
    if !inside {
        return;
    }
    if params.phase == PHASE_FIRST_PEAKS || params.phase == PHASE_MORE_PEAKS {
        if lane == 0u {
            scales[line.number] = peak;
        }
        return;
    }
    if lane == 0u && params.phase != PHASE_WORDS {
        scales[line.number] = scale_field(peak);
    }
    let key = vec2<u32>(keys[2u * params.key], keys[2u * params.key + 1u]);
    // Words behind the end of the line, up to the end of a piece, are 0.
    let word_count = (line.length + 15u) / 16u * 4u;
    for (var word = lane; word < word_count; word += ROW_THREADS) {
        var digits: array<u32, DIGITS>;
        let four = four_of(line, 4u * word);
        for (var byte = 0u; byte < 4u; byte++) {
            let index = params.index + line.start + (4u * word + byte) * line.step;
            let q = quantize(four[byte], peak, key, index);
            for (var digit = 0u; digit < DIGITS; digit++) {
                digits[digit] |= (bitcast<u32>(digit_of(q, digit)) & 0xffu) << (8u * byte);
            }
        }
        for (var digit = 0u; digit < DIGITS; digit++) {
            words[((line.number * DIGITS + digit) * params.pieces + params.first_piece) * 4u + word] = digits[digit];
        }
    }
}
