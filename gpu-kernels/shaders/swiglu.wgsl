// h = gate · σ(gate) · up on rows [gate, up]. Twin of `cpu/swiglu.rs`.

struct Params {
    count: u32,
    width: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate_up: array<u32>;
@group(0) @binding(3) var<storage, read_write> h: array<u32>;

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
    let start = at / params.width * 2u * params.width + at % params.width;
    let gate = gate_up[start];
    let value = f_mul(f_mul(gate, f_sigmoid(gate)), gate_up[start + params.width]);
    h[at] = value;
    report(params.slot, magnitude(value));
}
