// Copies the row of each token. Twin of `cpu/embedding.rs`.

struct Params {
    count: u32,
    width: u32,
    offset: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parameters: array<u32>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> rows: array<u32>;

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
    rows[at] = parameters[params.offset + tokens[at / params.width] * params.width + at % params.width];
}
