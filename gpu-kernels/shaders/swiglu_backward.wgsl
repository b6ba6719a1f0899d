// Gradient of [gate, up]. Twin of `cpu/swiglu.rs`.

struct Params {
    first_group: u32,
    count: u32,
    width: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dh: array<u32>;
@group(0) @binding(3) var<storage, read> gate_up: array<u32>;
@group(0) @binding(4) var<storage, read_write> d_gate_up: array<u32>;

fn compute_element(at: u32) {
    let start = at / params.width * 2u * params.width + at % params.width;
    let gate = gate_up[start];
    let s = f_sigmoid(gate);
    let d_up = f_mul(dh[at], f_mul(gate, s));
    // σ·(1 + gate·(1 − σ)) is the slope of gate·σ(gate).
    let slope = f_mul(s, f_mul_add(gate, f_sub(ONE, s), ONE));
    let d_gate = f_mul(f_mul(dh[at], gate_up[start + params.width]), slope);
    d_gate_up[start] = d_gate;
    d_gate_up[start + params.width] = d_up;
    report(params.slot, max(magnitude(d_gate), magnitude(d_up)));
}
