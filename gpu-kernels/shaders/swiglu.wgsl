// h = gate · σ(gate) · up on rows [gate, up]. Twin of `cpu/swiglu.rs`.

struct Params {
    first_group: u32,
    /// Pieces of rows, in all and of each row.
    count: u32,
    pieces: u32,
    width: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate_up: array<u32>;
@group(0) @binding(3) var<storage, read_write> h: array<u32>;

/// Columns of a piece.
const PIECE: u32 = 256u;

/// Eight threads compute a piece of a row.
fn compute_row(number: u32, lane: u32) {
    let row = number / params.pieces;
    let first = (number - row * params.pieces) * PIECE;
    let end = select(0u, min(first + PIECE, params.width), number < params.count);
    let start = row * 2u * params.width;
    var peak = 0u;
    for (var column = first + lane; column < end; column += ROW_THREADS) {
        let gate = gate_up[start + column];
        let value = f_mul(f_mul(gate, f_sigmoid(gate)), gate_up[start + params.width + column]);
        h[row * params.width + column] = value;
        peak = max(peak, magnitude(value));
    }
    report(params.slot, peak);
}
