// dp → ds = p · (dp − Σ p·dp) · scale in place; +0 behind the diagonal. Twin of `cpu/softmax.rs`.

struct Params {
    rows: u32,
    length: u32,
    stride: u32,
    scale: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> probabilities: array<u32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<u32>;

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
    var sum = 0u;
    for (var column = lane; column < valid; column += LANES) {
        sum = f_mul_add(probabilities[start + column], gradient[start + column], sum);
    }
    let mean = fold_sum(lane, sum);
    var peak = 0u;
    for (var column = lane; column < params.stride; column += LANES) {
        var value = 0u;
        if column < valid {
            let centred = f_sub(gradient[start + column], mean);
            value = f_mul(f_mul(probabilities[start + column], centred), params.scale);
        }
        gradient[start + column] = value;
        peak = max(peak, magnitude(value));
    }
    report(params.slot, peak);
}
