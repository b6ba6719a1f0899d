// Draws an operand of a gemm unit as packed words of four 8-bit integers from −127 to
// 127. Twin of `draw` in `cpu/gemm.rs`.

struct Params {
    first_group: u32,
    count: u32,
    /// Words of a row, and the same with those that fill it up, which are 0.
    width: u32,
    stride: u32,
    /// Of the operand's words, the first one that is drawn.
    first: u32,
    key: u32,
    second_key: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;

fn compute_element(at: u32) {
    let column = at % params.stride;
    if column >= params.width {
        words[at] = 0u;
        return;
    }
    let number = at / params.stride * params.width + column;
    let word = mix(vec2<u32>(params.key, params.second_key), params.first + number);
    // 0x80 becomes 0x81: a byte is 0x80 if its low seven bits are 0 and its highest is 1.
    let not_empty = ((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) & 0x80808080u;
    words[at] = word | ((word & 0x80808080u & ~not_empty) >> 7u);
}
