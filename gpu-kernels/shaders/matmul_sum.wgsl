// Adds up the parts of a product whose contracted axis was split, `[part][row][column]`, scales
// and rounds once. Integers, whose sums have no order and stay under 2^31 as those of the whole do.

struct Params {
    first_group: u32,
    /// Elements of the product.
    count: u32,
    columns: u32,
    parts: u32,
    /// The first left row.
    first_row: u32,
    /// Of the product.
    offset: u32,
    stride: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sums: array<i32>;
@group(0) @binding(3) var<storage, read> left_scales: array<u32>;
@group(0) @binding(4) var<storage, read> right_scales: array<u32>;
@group(0) @binding(5) var<storage, read_write> product: array<u32>;

fn compute_element(at: u32) {
    let row = at / params.columns;
    let column = at % params.columns;
    var sum = 0i;
    for (var part = 0u; part < params.parts; part++) {
        sum += sums[part * params.count + at];
    }
    let value = rounded(sum, i32(left_scales[params.first_row + row]) + i32(right_scales[column]) - 254);
    product[params.offset + row * params.stride + column] = value;
    report(params.slot, magnitude(value));
}
