// h = gate · σ(gate) · up on rows [gate, up]. Twin of `cpu/swiglu.rs`.

struct Params {
    first_group: u32,
    count: u32,
    width: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate_up: array<u32>;
@group(0) @binding(3) var<storage, read_write> h: array<u32>;

fn compute_element(at: u32) {
    let start = at / params.width * 2u * params.width + at % params.width;
    let gate = gate_up[start];
    let value = f_mul(f_mul(gate, f_sigmoid(gate)), gate_up[start + params.width]);
    h[at] = value;
    report(params.slot, magnitude(value));
}
