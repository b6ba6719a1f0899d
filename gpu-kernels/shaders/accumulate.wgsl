// total += part, unless any check has failed.

struct Params {
    first_group: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> part: array<u32>;
@group(0) @binding(3) var<storage, read_write> total: array<u32>;

fn compute_element(at: u32) {
    if atomicLoad(&flags[0]) == 0u {
        total[at] = f_add(total[at], part[at]);
    }
}
