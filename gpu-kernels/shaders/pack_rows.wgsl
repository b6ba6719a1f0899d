// Rows of a matrix as row-scaled digits: one workgroup a row. Twin of `cpu/pack.rs`.

const LINES: u32 = 1u;
const LANES: u32 = 32u;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group_number(group, groups);
    if row < params.rows * params.batches {
        let start = row / params.rows * params.batch_stride + row % params.rows * params.stride;
        pack(Line(row, start, 1u, params.columns), true, 0u, lane);
    }
}
