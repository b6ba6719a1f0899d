// Gradient of x through a norm, added to `dx` or written. Twin of `cpu/rmsnorm.rs`.

struct Params {
    rows: u32,
    width: u32,
    weight_offset: u32,
    reciprocal_width: u32,
    accumulate: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dy: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<u32>;
@group(0) @binding(4) var<storage, read> inverses: array<u32>;
@group(0) @binding(5) var<storage, read> parameters: array<u32>;
@group(0) @binding(6) var<storage, read_write> dx: array<u32>;

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
    let start = row * params.width;
    let inverse = inverses[row];
    var sum = 0u;
    for (var column = lane; column < params.width; column += LANES) {
        let weighted = f_mul(dy[start + column], parameters[params.weight_offset + column]);
        sum = f_mul_add(weighted, f_mul(x[start + column], inverse), sum);
    }
    let mean = f_mul(fold_sum(lane, sum), params.reciprocal_width);
    var peak = 0u;
    for (var column = lane; column < params.width; column += LANES) {
        let weighted = f_mul(dy[start + column], parameters[params.weight_offset + column]);
        let inner = f_mul_add(f_mul(x[start + column], inverse) ^ SIGN, mean, weighted);
        let before = select(0u, dx[start + column], params.accumulate == 1u);
        let value = f_mul_add(inverse, inner, before);
        dx[start + column] = value;
        peak = max(peak, magnitude(value));
    }
    report(params.slot, peak);
}
