// Token rows to heads, or back, with the rotary turn on the way: a row is some
// heads of a token.
// Twin of `cpu/rope.rs`.

struct Params {
    first_group: u32,
    /// Rows, in all and of each token.
    count: u32,
    pieces: u32,
    length: u32,
    head_dim: u32,
    heads: u32,
    row_width: u32,
    first: u32,
    turn: u32,
    merge: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> source: array<u32>;
@group(0) @binding(3) var<storage, read> angles: array<u32>;
@group(0) @binding(4) var<storage, read_write> destination: array<u32>;

const TURN_NOT: u32 = 0u;
const TURN_BACKWARD: u32 = 2u;

/// Moves the pair of elements `half_width` apart; the larger magnitude.
fn move_pair(from_at: u32, to_at: u32, half_width: u32, angle: u32) -> u32 {
    let a = source[from_at];
    let b = source[from_at + half_width];
    if params.turn == TURN_NOT {
        destination[to_at] = a;
        destination[to_at + half_width] = b;
        return 0u;
    }
    // `[position][pair]` of (cosine, sine).
    let cosine = angles[2u * angle];
    let sine = angles[2u * angle + 1u] ^ select(0u, SIGN, params.turn == TURN_BACKWARD);
    // Two products and their sum: the second is the one rounded first.
    let turned_a = f_mul_add(a, cosine, f_mul(b, sine) ^ SIGN);
    let turned_b = f_mul_add(b, cosine, f_mul(a, sine));
    destination[to_at] = turned_a;
    destination[to_at + half_width] = turned_b;
    return max(magnitude(turned_a), magnitude(turned_b));
}

/// Heads of a row.
const PIECE: u32 = 4u;

fn compute_row(number: u32, lane: u32) {
    let half_width = params.head_dim / 2u;
    let token = number / params.pieces;
    let first_head = (number - token * params.pieces) * PIECE;
    let end = select(0u, min(first_head + PIECE, params.heads), number < params.count);
    let sequence = token / params.length;
    let position = token - sequence * params.length;
    var in_row = token * params.row_width + params.first + first_head * params.head_dim;
    var in_head = ((sequence * params.heads + first_head) * params.length + position) * params.head_dim;
    var peak = 0u;
    for (var head = first_head; head < end; head++) {
        let from_at = select(in_row, in_head, params.merge == 1u);
        let to_at = select(in_head, in_row, params.merge == 1u);
        for (var pair = lane; pair < half_width; pair += ROW_THREADS) {
            peak = max(peak, move_pair(from_at + pair, to_at + pair, half_width, position * half_width + pair));
        }
        in_row += params.head_dim;
        in_head += params.length * params.head_dim;
    }
    report(params.slot, peak);
}
