// y = x · rsqrt(mean(x²) + ε) · w, row by row. Twin of `cpu/rmsnorm.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    width: u32,
    x_offset: u32,
    weight_offset: u32,
    reciprocal_width: u32,
    epsilon: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;
@group(0) @binding(3) var<storage, read> parameters: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<storage, read_write> inverses: array<u32>;

fn compute_row(row: u32, lane: u32) {
    let start = params.x_offset + row * params.width;
    let width = select(0u, params.width, row < params.rows);
    var sums = vec4<u32>(0u);
    for (var column = lane; column < whole_turns(width); column += ROW_THREADS) {
        var sum = sums.x;
        if column < width {
            let value = x[start + column];
            sum = f_mul_add(value, value, sum);
        }
        sums = turned(sums, sum);
    }
    let mean = f_mul_add(fold_sum(sums), params.reciprocal_width, params.epsilon);
    let inverse = f_rsqrt(mean);
    if lane == 0u && row < params.rows {
        inverses[row] = inverse;
    }
    var peak = 0u;
    for (var column = lane; column < width; column += ROW_THREADS) {
        let value = f_mul(f_mul(x[start + column], inverse), parameters[params.weight_offset + column]);
        y[row * params.width + column] = value;
        peak = max(peak, magnitude(value));
    }
    report(params.slot, peak);
}
