// Adds the rows of `dx` to the rows of their tokens, in order of place: one thread an
// element of the table. Twin of `cpu/embedding.rs`.

struct Params {
    first_group: u32,
    count: u32,
    width: u32,
    offset: u32,
    /// Whose row comes first in this window of the table.
    first_token: u32,
    accumulate: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dx: array<u32>;
@group(0) @binding(3) var<storage, read> segments: array<u32>;
@group(0) @binding(4) var<storage, read> places: array<u32>;
@group(0) @binding(5) var<storage, read_write> gradient: array<u32>;

fn compute_element(at: u32) {
    let token = params.first_token + at / params.width;
    var sum = select(0u, gradient[params.offset + at], params.accumulate == 1u);
    var peak = 0u;
    for (var place = segments[token]; place < segments[token + 1u]; place++) {
        sum = f_add(sum, dx[places[place] * params.width + at % params.width]);
        peak = max(peak, magnitude(sum));
    }
    gradient[params.offset + at] = sum;
    report(params.slot, peak);
}
