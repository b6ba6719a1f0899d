// total += part, unless any check has failed.

struct Params {
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> part: array<u32>;
@group(0) @binding(3) var<storage, read_write> total: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = group_number(group, groups) * 256u + thread;
    if at >= params.count {
        return;
    }
    if atomicLoad(&flags[0]) == 0u {
        total[at] = f_add(total[at], part[at]);
    }
}
