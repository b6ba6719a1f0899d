// total = a + b. Twin of `add_assign` in `cpu/reduce.rs`.

struct Params {
    first_group: u32,
    count: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<u32>;
@group(0) @binding(4) var<storage, read_write> total: array<u32>;

fn compute_element(at: u32) {
    let sum = f_add(a[at], b[at]);
    total[at] = sum;
    report(params.slot, magnitude(sum));
}
