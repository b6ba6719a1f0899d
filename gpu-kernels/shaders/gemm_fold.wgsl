// Folds each row of an exact product to a word: the wrapping sum of a hash of every
// element. Twin of `fold` in `cpu/gemm.rs`.

struct Params {
    first_group: u32,
    rows: u32,
    columns: u32,
    key: u32,
    /// Where the folds of these rows begin.
    offset: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> product: array<u32>;
@group(0) @binding(3) var<storage, read_write> folds: array<u32>;

const THREADS: u32 = 256u;
var<workgroup> sums: array<u32, 256>;

/// The integer, under 2^24 in magnitude, that a float is, in two's complement.
fn integer_of(x: u32) -> u32 {
    let field = magnitude(x) >> 23u;
    if field < 127u {
        return 0u;
    }
    let size = mantissa(x) >> (150u - min(field, 150u));
    return select(size, 0u - size, (x & SIGN) != 0u);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group_number(group);
    if row >= params.rows {
        return;
    }
    var sum = 0u;
    for (var column = thread; column < params.columns; column += THREADS) {
        let element = integer_of(product[row * params.columns + column]);
        sum += mix(vec2<u32>(params.key, element), column);
    }
    sums[thread] = sum;
    workgroupBarrier();
    for (var stride = THREADS / 2u; stride > 0u; stride >>= 1u) {
        if thread < stride {
            sums[thread] += sums[thread + stride];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        folds[params.offset + row] = sums[0];
    }
}
