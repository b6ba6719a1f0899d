// Reports the largest magnitude in a + b. Twin of `sum_peak` in `cpu/reduce.rs`.

struct Params {
    first_group: u32,
    count: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<u32>;

fn compute_element(at: u32) {
    report(params.slot, magnitude(f_add(a[at], b[at])));
}
