// The entry of ops that compute elements one by one, 256 in a workgroup. The op defines
// `params.count` and `compute_element`.

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = group_number(group) * 256u + thread;
    if at < params.count {
        compute_element(at);
    }
}
