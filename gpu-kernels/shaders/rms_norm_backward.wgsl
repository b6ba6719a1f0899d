// Gradient of x through a norm, added to `dx` or written. Twin of `cpu/rmsnorm.rs`.

struct Params {
    first_group: u32,
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

/// dy · w
fn weighted(row: u32, column: u32) -> u32 {
    return f_mul(dy[row * params.width + column], parameters[params.weight_offset + column]);
}

/// x · inverse
fn normal(row: u32, column: u32) -> u32 {
    return f_mul(x[row * params.width + column], inverses[row]);
}

fn compute_row(row: u32, lane: u32) {
    let width = select(0u, params.width, row < params.rows);
    var sums = vec4<u32>(0u);
    for (var column = lane; column < whole_turns(width); column += ROW_THREADS) {
        var sum = sums.x;
        if column < width {
            sum = f_mul_add(weighted(row, column), normal(row, column), sum);
        }
        sums = turned(sums, sum);
    }
    let mean = f_mul(fold_sum(sums), params.reciprocal_width);
    var peak = 0u;
    for (var column = lane; column < width; column += ROW_THREADS) {
        let inner = f_mul_add(normal(row, column) ^ SIGN, mean, weighted(row, column));
        let at = row * params.width + column;
        let before = select(0u, dx[at], params.accumulate == 1u);
        let value = f_mul_add(inverses[row], inner, before);
        dx[at] = value;
        peak = max(peak, magnitude(value));
    }
    report(params.slot, peak);
}
