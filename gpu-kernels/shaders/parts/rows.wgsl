// The entry of ops that compute rows, each by the 32 lanes of a tree: one workgroup a row.
// The op defines `params.rows` and `compute_row`.

const TREES: u32 = 1u;

@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group_number(group, groups);
    // Alike for the whole workgroup, so all of its lanes meet at the barriers.
    if row < params.rows {
        compute_row(row, lane);
    }
}
