// Adds the rows of `dx` to the rows of their tokens, in order of place: one thread an
// element of the table. Twin of `cpu/embedding.rs`.

struct Params {
    count: u32,
    width: u32,
    offset: u32,
    accumulate: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dx: array<u32>;
@group(0) @binding(3) var<storage, read> segments: array<u32>;
@group(0) @binding(4) var<storage, read> places: array<u32>;
@group(0) @binding(5) var<storage, read_write> gradient: array<u32>;

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
    let token = at / params.width;
    var sum = select(0u, gradient[params.offset + at], params.accumulate == 1u);
    var peak = 0u;
    for (var place = segments[token]; place < segments[token + 1u]; place++) {
        sum = f_add(sum, dx[places[place] * params.width + at % params.width]);
        peak = max(peak, magnitude(sum));
    }
    gradient[params.offset + at] = sum;
    report(params.slot, peak);
}
