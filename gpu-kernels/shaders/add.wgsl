// total = a + b. Twin of `add_assign` in `cpu/reduce.rs`.

struct Params {
    count: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<u32>;
@group(0) @binding(4) var<storage, read_write> total: array<u32>;

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
    let sum = f_add(a[at], b[at]);
    total[at] = sum;
    report(params.slot, magnitude(sum));
}
