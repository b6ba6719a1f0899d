// C[m, n] = sum over k of A[m, k]·B[n, k] over row-scaled digits, exact in integers and
// rounded once. Twin of `cpu/matmul`. Integers have no order, so every tiling gives the
// same bits.
//
// A workgroup computes a tile of TILE_ROWS × TILE_COLUMNS, and each of its DOWN × ACROSS
// threads ROWS × COLUMNS outputs, DOWN and ACROSS apart. `gpu/tiling.rs` writes the header
// and, in place of the lines that begin with `$`, the same statement for each output,
// row or column of a thread, so that all of them stay in registers.
//
// With SPLITS > 1 a workgroup sums a part of the axis k of one product, and `product` takes these
// sums as they are, `[part][row][column]`, for `matmul_sum`.

struct Params {
    first_group: u32,
    rows: u32,
    columns: u32,
    /// Pieces of 16 elements of one digit of a row.
    pieces: u32,
    batches: u32,
    /// Consecutive left batches that share a right one.
    right_share: u32,
    /// The first left row.
    first_row: u32,
    /// Of C.
    offset: u32,
    stride: u32,
    batch_stride: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> left_words: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> left_scales: array<u32>;
@group(0) @binding(4) var<storage, read> right_words: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> right_scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> product: array<u32>;

/// Four products of 8-bit integers and their sum.
fn dot_word(a: u32, b: u32) -> i32 {
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

/// The four 8-bit integers of a word as floats, which hold them exactly.
fn floats_of(word: u32) -> vec4<f32> {
    let x = bitcast<i32>(word);
    return vec4<f32>(vec4<i32>((x << 24u) >> 24u, (x << 16u) >> 24u, (x << 8u) >> 24u, x >> 24u));
}

/// value · 2^shift as a 64-bit integer, two's complement.
fn wide_from(value: i32, shift: u32) -> vec2<u32> {
    return wide_shift_left(vec2<u32>(bitcast<u32>(value), bitcast<u32>(value >> 31u)), shift);
}

/// Bits of the sum · 2^unit, rounded to 24 bits.
fn rounded_wide(sum: vec2<u32>, unit: i32) -> u32 {
    let negative = (sum.y & SIGN) != 0u;
    let size = round_wide(select(sum, wide_subtract(vec2<u32>(0u, 0u), sum), negative), unit);
    return canon(size | select(0u, SIGN, negative));
}

/// Writes one output; its magnitude.
fn write(batch: u32, row: u32, column: u32, value: u32) -> u32 {
    product[params.offset + batch * params.batch_stride + row * params.stride + column] = value;
    return magnitude(value);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    $inputs
) {
    let tile_columns = (params.columns + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    let tile_rows = (params.rows + TILE_ROWS - 1u) / TILE_ROWS;
    let tiles = tile_columns * tile_rows * params.batches;
    let split = group_number(group) / tiles;
    if split >= SPLITS {
        return;
    }
    let number = group_number(group) % tiles;
    let batch = number / (tile_columns * tile_rows);
    let first_row = (number / tile_columns % tile_rows) * TILE_ROWS;
    let first_column = (number % tile_columns) * TILE_COLUMNS;
    let left_batch = batch * params.rows + params.first_row;
    let right_batch = batch / params.right_share * params.columns;
    let thread_row = thread / ACROSS;
    let thread_column = thread % ACROSS;
    // Outputs beyond the edge repeat the last row or column, and are not written.
    let last_row = params.rows - 1u;
    let last_column = params.columns - 1u;
    let pieces = params.pieces;
    // Those of this part; the last parts of a short axis are empty.
    let part_pieces = (pieces + SPLITS - 1u) / SPLITS;
    let first_piece = min(split * part_pieces, pieces);
    let last_piece = min(first_piece + part_pieces, pieces);

    $begin
    for (var pair = 0u; pair < LEFT_DIGITS * RIGHT_DIGITS; pair++) {
        let left_digit = pair / RIGHT_DIGITS;
        let right_digit = pair % RIGHT_DIGITS;
        $begin_pair
        for (var chunk = first_piece; chunk < last_piece; chunk += CHUNK) {
            let end = min(chunk + CHUNK, last_piece);
            $begin_chunk
            $multiply
            $end_chunk
        }
    }

    var peak = 0u;
    $write
    report(params.slot, peak);
}
