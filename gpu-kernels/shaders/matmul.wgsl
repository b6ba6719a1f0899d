// C[m, n] = sum over k of A[m, k]·B[n, k] over row-scaled digits, exact in integers
// and rounded once. Twin of `cpu/matmul`. A workgroup computes a square tile,
// each thread 4 × 4 of it. The header defines TILE (its side, 32 or 64), LEFT_DIGITS,
// RIGHT_DIGITS and BUILTIN_DOT.

struct Params {
    rows: u32,
    columns: u32,
    /// Words of one digit of a row.
    word_groups: u32,
    batches: u32,
    /// Consecutive left batches that share a right one.
    right_share: u32,
    /// Of C.
    offset: u32,
    stride: u32,
    batch_stride: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> left_words: array<u32>;
@group(0) @binding(3) var<storage, read> left_scales: array<u32>;
@group(0) @binding(4) var<storage, read> right_words: array<u32>;
@group(0) @binding(5) var<storage, read> right_scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> product: array<u32>;

/// Threads along a side of the tile.
const SIDE: u32 = TILE / 4u;
const THREADS: u32 = SIDE * SIDE;
/// Words of the contracted axis that stand in shared memory at a time.
const DEPTH: u32 = 8u;
/// Words after which 32-bit sums are spilled: 65,536 elements.
const CHUNK: u32 = 16384u;
/// Sums that one thread holds.
const SUMS: u32 = 16u;

/// `[word][row of the tile]`
var<workgroup> left_tile: array<u32, TILE * DEPTH>;
var<workgroup> right_tile: array<u32, TILE * DEPTH>;

fn dot(a: u32, b: u32) -> i32 {
    if BUILTIN_DOT {
        return dot4I8Packed(a, b);
    }
    let x = bitcast<i32>(a);
    let y = bitcast<i32>(b);
    return ((x << 24u) >> 24u) * ((y << 24u) >> 24u)
        + ((x << 16u) >> 24u) * ((y << 16u) >> 24u)
        + ((x << 8u) >> 24u) * ((y << 8u) >> 24u)
        + (x >> 24u) * (y >> 24u);
}

/// value · 2^shift as a 64-bit integer, two's complement.
fn wide_from(value: i32, shift: u32) -> vec2<u32> {
    return wide_shift_left(vec2<u32>(bitcast<u32>(value), bitcast<u32>(value >> 31u)), shift);
}

fn negated(v: vec2<u32>) -> vec2<u32> {
    return wide_subtract(vec2<u32>(0u, 0u), v);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile_columns = (params.columns + TILE - 1u) / TILE;
    let tile_rows = (params.rows + TILE - 1u) / TILE;
    let number = group_number(group, groups);
    if number >= tile_columns * tile_rows * params.batches {
        return;
    }
    let batch = number / (tile_columns * tile_rows);
    let first_row = (number / tile_columns % tile_rows) * TILE;
    let first_column = (number % tile_columns) * TILE;
    let left_batch = batch * params.rows;
    let right_batch = batch / params.right_share * params.columns;
    let thread_row = thread / SIDE;
    let thread_column = thread % SIDE;

    var sums: array<vec2<u32>, 16>;
    var narrow: array<i32, 16>;
    for (var pair = 0u; pair < LEFT_DIGITS * RIGHT_DIGITS; pair++) {
        let left_digit = pair / RIGHT_DIGITS;
        let right_digit = pair % RIGHT_DIGITS;
        let shift = 8u * (LEFT_DIGITS - 1u - left_digit + RIGHT_DIGITS - 1u - right_digit);
        for (var chunk = 0u; chunk < params.word_groups; chunk += CHUNK) {
            let end = min(chunk + CHUNK, params.word_groups);
            for (var at = 0u; at < SUMS; at++) {
                narrow[at] = 0;
            }
            for (var word = chunk; word < end; word += DEPTH) {
                for (var load = thread; load < TILE * DEPTH; load += THREADS) {
                    let row = load / DEPTH;
                    let depth = load % DEPTH;
                    var left_word = 0u;
                    var right_word = 0u;
                    if word + depth < end {
                        if first_row + row < params.rows {
                            let packed_row = left_batch + first_row + row;
                            left_word = left_words[(packed_row * LEFT_DIGITS + left_digit) * params.word_groups + word + depth];
                        }
                        if first_column + row < params.columns {
                            let packed_row = right_batch + first_column + row;
                            right_word = right_words[(packed_row * RIGHT_DIGITS + right_digit) * params.word_groups + word + depth];
                        }
                    }
                    left_tile[depth * TILE + row] = left_word;
                    right_tile[depth * TILE + row] = right_word;
                }
                workgroupBarrier();
                for (var depth = 0u; depth < DEPTH; depth++) {
                    for (var i = 0u; i < 4u; i++) {
                        let a = left_tile[depth * TILE + thread_row * 4u + i];
                        for (var j = 0u; j < 4u; j++) {
                            narrow[4u * i + j] += dot(a, right_tile[depth * TILE + thread_column + SIDE * j]);
                        }
                    }
                }
                workgroupBarrier();
            }
            for (var at = 0u; at < SUMS; at++) {
                sums[at] = wide_add(sums[at], wide_from(narrow[at], shift));
            }
        }
    }

    for (var i = 0u; i < 4u; i++) {
        let row = first_row + thread_row * 4u + i;
        for (var j = 0u; j < 4u; j++) {
            let column = first_column + thread_column + SIDE * j;
            if row < params.rows && column < params.columns {
                let unit = i32(left_scales[left_batch + row]) + i32(right_scales[right_batch + column]) - 254;
                let sum = sums[4u * i + j];
                let negative = (sum.y & SIGN) != 0u;
                let size = round_wide(select(sum, negated(sum), negative), unit);
                let value = canon(size | select(0u, SIGN, negative));
                product[params.offset + batch * params.batch_stride + row * params.stride + column] = value;
                report(params.slot, magnitude(value));
            }
        }
    }
}
