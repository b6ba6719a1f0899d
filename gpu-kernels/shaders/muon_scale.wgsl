// x = directions · factor. Twin of `scale` in `cpu/muon.rs`.

struct Params {
    first_group: u32,
    count: u32,
    own_offset: u32,
    offset: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> directions: array<u32>;
@group(0) @binding(3) var<storage, read> factor: array<u32>;
@group(0) @binding(4) var<storage, read_write> x: array<u32>;

fn compute_element(at: u32) {
    x[params.offset + at] = f_mul(directions[params.own_offset + at], factor[0]);
}
