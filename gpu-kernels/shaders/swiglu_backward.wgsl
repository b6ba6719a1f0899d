// Gradient of [gate, up]. Twin of `cpu/swiglu.rs`.

struct Params {
    first_group: u32,
    /// Pieces of rows, in all and of each row.
    count: u32,
    pieces: u32,
    width: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dh: array<u32>;
@group(0) @binding(3) var<storage, read> gate_up: array<u32>;
@group(0) @binding(4) var<storage, read_write> d_gate_up: array<u32>;

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
        let d = dh[row * params.width + column];
        let s = f_sigmoid(gate);
        let d_up = f_mul(d, f_mul(gate, s));
        // σ·(1 + gate·(1 − σ)) is the slope of gate·σ(gate).
        let slope = f_mul(s, f_mul_add(gate, f_sub(ONE, s), ONE));
        let d_gate = f_mul(f_mul(d, gate_up[start + params.width + column]), slope);
        d_gate_up[start + column] = d_gate;
        d_gate_up[start + params.width + column] = d_up;
        peak = max(peak, max(magnitude(d_gate), magnitude(d_up)));
    }
    report(params.slot, peak);
}
