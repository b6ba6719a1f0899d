// Token rows to heads, or back, with the rotary turn on the way: one thread a pair.
// Twin of `cpu/rope.rs`.

struct Params {
    first_group: u32,
    count: u32,
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

fn compute_element(at: u32) {
    let half_width = params.head_dim / 2u;
    let pair = at % half_width;
    let position = at / half_width % params.length;
    let head = at / (half_width * params.length) % params.heads;
    let sequence = at / (half_width * params.length * params.heads);
    let in_row = (sequence * params.length + position) * params.row_width + params.first
        + head * params.head_dim + pair;
    let in_head = ((sequence * params.heads + head) * params.length + position) * params.head_dim + pair;
    let source_at = select(in_row, in_head, params.merge == 1u);
    let destination_at = select(in_head, in_row, params.merge == 1u);
    let a = source[source_at];
    let b = source[source_at + half_width];
    if params.turn == TURN_NOT {
        destination[destination_at] = a;
        destination[destination_at + half_width] = b;
        return;
    }
    // `[position][pair]` of (cosine, sine).
    let angle = 2u * (position * half_width + pair);
    let cosine = angles[angle];
    let sine = angles[angle + 1u] ^ select(0u, SIGN, params.turn == TURN_BACKWARD);
    // Two products and their sum: the second is the one rounded first.
    let turned_a = f_mul_add(a, cosine, f_mul(b, sine) ^ SIGN);
    let turned_b = f_mul_add(b, cosine, f_mul(a, sine));
    destination[destination_at] = turned_a;
    destination[destination_at + half_width] = turned_b;
    report(params.slot, max(magnitude(turned_a), magnitude(turned_b)));
}
