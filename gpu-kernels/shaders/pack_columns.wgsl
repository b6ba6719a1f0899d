// Columns of a matrix as row-scaled digits: 16 columns a workgroup, and 16 threads
// on each of them. Twin of `cpu/pack.rs`.

const LINES: u32 = 16u;
const LANES: u32 = 16u;

@compute @workgroup_size(LINES * LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let blocks = (params.columns + LINES - 1u) / LINES;
    let number = group_number(group, groups);
    if number < blocks * params.batches {
        let batch = number / blocks;
        let own = thread % LINES;
        let column = number % blocks * LINES + own;
        let start = batch * params.batch_stride + column;
        let line = Line(batch * params.columns + column, start, params.stride, params.rows);
        // Neighbouring threads read neighbouring elements.
        pack(line, column < params.columns, own, thread / LINES);
    }
}
