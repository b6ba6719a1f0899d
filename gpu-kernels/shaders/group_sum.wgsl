// Adds, in their order, the parts of the query heads that share a key head. Twin of the
// sums in `cpu/attention.rs`.

struct Params {
    count: u32,
    head_elements: u32,
    members: u32,
    offset: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parts: array<u32>;
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
    let head = at / params.head_elements;
    let element = at % params.head_elements;
    var sum = 0u;
    var peak = 0u;
    for (var member = 0u; member < params.members; member++) {
        sum = f_add(sum, parts[(head * params.members + member) * params.head_elements + element]);
        peak = max(peak, magnitude(sum));
    }
    total[params.offset + at] = sum;
    report(params.slot, peak);
}
