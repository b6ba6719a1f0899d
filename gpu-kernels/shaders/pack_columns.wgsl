// Columns of a matrix as row-scaled digits: 16 columns a workgroup, and 16 threads
// on each of them. Twin of `cpu/pack.rs`.

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

var<workgroup> column_peaks: array<atomic<u32>, 16>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let blocks = (params.columns + 15u) / 16u;
    let number = group_number(group, groups);
    if number >= blocks * params.batches {
        return;
    }
    let batch = number / blocks;
    let column = (number % blocks) * 16u + thread % 16u;
    let lane = thread / 16u;
    let inside = column < params.columns;
    let start = batch * params.batch_stride + column;
    var own_peak = 0u;
    if inside {
        for (var row = lane; row < params.rows; row += 16u) {
            own_peak = max(own_peak, magnitude(source[params.offset + start + row * params.stride]));
        }
    }
    atomicMax(&column_peaks[thread % 16u], own_peak);
    workgroupBarrier();
    let peak = atomicLoad(&column_peaks[thread % 16u]);
    if !inside {
        return;
    }
    let packed_row = batch * params.columns + column;
    if lane == 0u {
        scales[packed_row] = scale_field(peak);
    }
    let key = vec2<u32>(keys[2u * params.key], keys[2u * params.key + 1u]);
    let word_groups = (params.rows + 3u) / 4u;
    for (var word = lane; word < word_groups; word += 16u) {
        var digits: array<u32, 2>;
        for (var place = 0u; place < 4u; place++) {
            let row = 4u * word + place;
            if row < params.rows {
                let at = start + row * params.stride;
                let q = quantize(source[params.offset + at], peak, key, params.index + at);
                for (var digit = 0u; digit < DIGITS; digit++) {
                    digits[digit] |= (bitcast<u32>(digit_of(q, digit)) & 0xffu) << (8u * place);
                }
            }
        }
        for (var digit = 0u; digit < DIGITS; digit++) {
            words[(packed_row * DIGITS + digit) * word_groups + word] = digits[digit];
        }
    }
}
