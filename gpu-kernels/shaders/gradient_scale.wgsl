// The norm of the mean gradient, and the factor from the summed gradient to the clipped
// mean. Twin of `apply` in `model/optimizer.rs`.

struct Params {
    rows: u32,
    count: u32,
    mean_scale: u32,
    clip: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sums: array<u32>;
@group(0) @binding(3) var<storage, read_write> result: array<u32>;

fn compute_row(row: u32, lane: u32) {
    var sum = 0u;
    for (var at = lane; at < params.count; at += LANES) {
        sum = f_add(sum, sums[at]);
    }
    let norm = f_mul(f_sqrt(fold_sum(lane, sum)), params.mean_scale);
    if lane == 0u {
        result[0] = norm;
        var scale = params.mean_scale;
        if f_less(params.clip, norm) {
            scale = f_mul(scale, f_mul(params.clip, f_reciprocal(norm)));
        }
        result[1] = scale;
        report(params.slot, norm);
    }
}
