// Scores to probabilities over the causal prefix of each row, in place. Twin of `cpu/softmax.rs`.

struct Params {
    rows: u32,
    length: u32,
    stride: u32,
    scale: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> scores: array<u32>;

@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group_number(group, groups);
    if row >= params.rows {
        return;
    }
    let valid = row % params.length + 1u;
    let start = row * params.stride;
    var peak = 0u;
    // Below every number.
    var largest = 0xff7fffffu;
    for (var column = lane; column < valid; column += LANES) {
        let score = f_mul(scores[start + column], params.scale);
        scores[start + column] = score;
        peak = max(peak, magnitude(score));
        largest = f_larger(largest, score);
    }
    report(params.slot, peak);
    let maximum = fold_maximum(lane, largest);
    var sum = 0u;
    for (var column = lane; column < valid; column += LANES) {
        let e = f_exp(f_sub(scores[start + column], maximum));
        scores[start + column] = e;
        sum = f_add(sum, e);
    }
    let inverse = f_reciprocal(fold_sum(lane, sum));
    for (var column = lane; column < params.stride; column += LANES) {
        scores[start + column] = select(0u, f_mul(scores[start + column], inverse), column < valid);
    }
}
