// Sum over rows of dy · x · inverse by the tree of 32 lanes along the rows. Twin of `cpu/rmsnorm.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    width: u32,
    offset: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dy: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<u32>;
@group(0) @binding(4) var<storage, read> inverses: array<u32>;
@group(0) @binding(5) var<storage, read_write> gradient: array<u32>;

/// Here a row is a column of the tensors: threads run down along it.
fn compute_row(column: u32, lane: u32) {
    let rows = select(0u, params.rows, column < params.width);
    var sums = vec4<u32>(0u);
    for (var row = lane; row < whole_turns(rows); row += ROW_THREADS) {
        var sum = sums.x;
        if row < rows {
            let at = row * params.width + column;
            sum = f_mul_add(dy[at], f_mul(x[at], inverses[row]), sum);
        }
        sums = turned(sums, sum);
    }
    let total = fold_sum(sums);
    if lane == 0u && column < params.width {
        gradient[params.offset + column] = total;
        report(params.slot, magnitude(total));
    }
}
