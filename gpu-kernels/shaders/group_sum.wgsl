// Adds, in their order, the parts of the query heads that share a key head. Twin of the
// sums in `cpu/attention.rs`.

struct Params {
    first_group: u32,
    count: u32,
    head_elements: u32,
    members: u32,
    offset: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parts: array<u32>;
@group(0) @binding(3) var<storage, read_write> total: array<u32>;

fn compute_element(at: u32) {
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
