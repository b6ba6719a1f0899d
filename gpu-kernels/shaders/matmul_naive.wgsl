// The product of `matmul` for one digit, as one would write it first: one thread an output,
// which reads both of its rows word by word. It is what tilings are measured against.

struct Params {
    first_group: u32,
    count: u32,
    columns: u32,
    /// Words of a row.
    words: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> left_words: array<u32>;
@group(0) @binding(3) var<storage, read> left_scales: array<u32>;
@group(0) @binding(4) var<storage, read> right_words: array<u32>;
@group(0) @binding(5) var<storage, read> right_scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> product: array<u32>;

fn compute_element(at: u32) {
    let row = at / params.columns;
    let column = at % params.columns;
    var sum = 0i;
    for (var word = 0u; word < params.words; word++) {
        sum += dot4I8Packed(left_words[row * params.words + word], right_words[column * params.words + word]);
    }
    let unit = i32(left_scales[row]) + i32(right_scales[column]) - 254;
    let size = bitcast<u32>(abs(sum));
    let value = canon(round_wide(vec2<u32>(size, 0u), unit) | (bitcast<u32>(sum) & SIGN));
    product[at] = value;
    report(params.slot, magnitude(value));
}
