// Sum over rows of dy · x · inverse by the tree of 32 lanes along the rows: 8 columns a
// workgroup. Twin of `cpu/rmsnorm.rs`.

struct Params {
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

/// Columns that a workgroup sums.
const TREES: u32 = 8u;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let lane = thread / TREES;
    let column = group_number(group, groups) * TREES + thread % TREES;
    var sum = 0u;
    if column < params.width {
        for (var row = lane; row < params.rows; row += LANES) {
            let at = row * params.width + column;
            sum = f_mul_add(dy[at], f_mul(x[at], inverses[row]), sum);
        }
    }
    let total = fold_sum(thread, sum);
    if lane == 0u && column < params.width {
        gradient[params.offset + column] = total;
        report(params.slot, magnitude(total));
    }
}
