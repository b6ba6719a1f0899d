// Adds, in their order, the parts of the query heads that share a key head: a row is a
// position of a head. Twin of the sums in `cpu/attention.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    /// Rows of a head, and their width.
    length: u32,
    width: u32,
    members: u32,
    offset: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parts: array<u32>;
@group(0) @binding(3) var<storage, read_write> total: array<u32>;

fn compute_row(row: u32, lane: u32) {
    let head = row / params.length;
    let first = (row + head * (params.members - 1u) * params.length) * params.width;
    var peak = 0u;
    for (var column = lane; column < select(0u, params.width, row < params.rows); column += ROW_THREADS) {
        var sum = 0u;
        var at = first + column;
        for (var member = 0u; member < params.members; member++) {
            sum = f_add(sum, parts[at]);
            peak = max(peak, magnitude(sum));
            at += params.length * params.width;
        }
        total[params.offset + row * params.width + column] = sum;
    }
    report(params.slot, peak);
}
