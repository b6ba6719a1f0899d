// x = own · x + other · y. Twin of `add_scaled` and `combine` in `cpu/muon.rs`.

struct Params {
    first_group: u32,
    count: u32,
    own_offset: u32,
    offset: u32,
    own: u32,
    other: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> y: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<u32>;

fn compute_element(at: u32) {
    let sum = f_mul_add(params.other, y[params.own_offset + at], f_mul(params.own, x[params.offset + at]));
    x[params.offset + at] = sum;
    report(params.slot, magnitude(sum));
}
