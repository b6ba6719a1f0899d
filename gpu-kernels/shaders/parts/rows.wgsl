// The entry of ops that compute rows, or other lines, by eight threads each: eight rows a
// workgroup. The op defines `compute_row`, which gets every thread, for threads meet when they
// exchange values, those of rows beyond the last one, too.

const ROW_THREADS: u32 = 8u;
const GROUP_THREADS: u32 = 64u;

@compute @workgroup_size(GROUP_THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, thread: Thread) {
    enter(thread);
    let row = group_number(group) * (GROUP_THREADS / ROW_THREADS) + thread.index / ROW_THREADS;
    compute_row(row, thread.index % ROW_THREADS);
}
