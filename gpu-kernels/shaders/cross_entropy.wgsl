// Loss of each row of logits in units of 2⁻²⁰ nats, with the highest bit set if the
// target's logit is larger than every other one, and, if asked for, the gradient
// scale · (softmax − one-hot) in place of the logits. Twin of `cpu/cross_entropy.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    width: u32,
    /// Of the first row in this window of the logits, and its number.
    offset: u32,
    first_row: u32,
    scale: u32,
    with_gradient: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
/// Logits, then their exponentials, then the gradient.
@group(0) @binding(2) var<storage, read_write> scores: array<u32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> losses: array<u32>;

/// loss · 2^20 to nearest even; all ones unless 0 ≤ loss < 2^11.
fn loss_to_fixed(loss: u32) -> u32 {
    if loss >= 0x45000000u {
        return 0xffffffffu;
    }
    let field = loss >> 23u;
    if field == 0u {
        return 0u;
    }
    let m = mantissa(loss);
    if field >= 130u {
        return m << (field - 130u);
    }
    return shift_right_rounded(m, min(130u - field, 31u));
}

fn compute_row(row: u32, lane: u32) {
    let inside = row < params.rows;
    let width = select(0u, params.width, inside);
    let start = params.offset + row * params.width;
    let of_target = targets[params.first_row + min(row, params.rows - 1u)];
    // Read by its owner alone, who overwrites it later.
    var own_target = LOWEST;
    var largest = LOWEST;
    for (var column = lane; column < width; column += ROW_THREADS) {
        let score = scores[start + column];
        if column == of_target {
            own_target = score;
        } else {
            largest = f_larger(largest, score);
        }
    }
    let at_target = fold_maximum(own_target);
    let rival = fold_maximum(largest);
    let maximum = f_larger(rival, at_target);
    let distance = f_sub(maximum, at_target);
    let hit = select(0u, SIGN, maximum != rival);
    let total = exponentials(lane, start, width, maximum);
    if inside && of_target % ROW_THREADS == lane {
        let loss = loss_to_fixed(f_add(distance, f_log(total)));
        losses[params.first_row + row] = loss | hit;
        report(params.slot, select(0u, INFINITY, loss == 0xffffffffu));
    }
    if params.with_gradient == 1u {
        let inverse = f_reciprocal(total);
        for (var column = lane; column < width; column += ROW_THREADS) {
            let e = scores[start + column];
            var value = f_mul(e, inverse);
            if column == of_target {
                value = f_mul_add(e, inverse, ONE ^ SIGN);
            }
            scores[start + column] = f_mul(value, params.scale);
        }
    }
}
