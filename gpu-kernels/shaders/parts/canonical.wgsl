// Canonical f32 on the bits, twin of `arithmetic.rs`.
//
// Tensors are stored as u32 and become f32 only for + and ×, since even a
// `bitcast` may flush. `canon` after each of them also keeps a compiler from
// fusing a product with the sum after it. The header defines:
//   SOFT         both operations in integers
//   ROUNDING     of those: 0 nearest even; others are deliberately wrong
//   FUSED        products and sums in one rounding; deliberately wrong
//   FLUSH_BITS   magnitudes under it become +0
//   FOLD_UPWARDS other order of sums; deliberately wrong

const SIGN: u32 = 0x80000000u;
const ONE: u32 = 0x3f800000u;
const INFINITY: u32 = 0x7f800000u;
const RANGE_LIMIT_BITS: u32 = 0x53800000u;
/// A check that nobody asks for.
const NO_SLOT: u32 = 0xffffffffu;

/// One slot a check; slot 0 collects all of them.
@group(0) @binding(1) var<storage, read_write> flags: array<atomic<u32>>;

/// Notes a magnitude outside of the range.
fn report(slot: u32, peak: u32) {
    if peak >= RANGE_LIMIT_BITS && slot != NO_SLOT {
        atomicMax(&flags[slot], peak);
        atomicMax(&flags[0], peak);
    }
}

fn magnitude(x: u32) -> u32 {
    return x & 0x7fffffffu;
}

fn canon(x: u32) -> u32 {
    return select(x, 0u, magnitude(x) < FLUSH_BITS);
}

fn mantissa(x: u32) -> u32 {
    return (x & 0x007fffffu) | 0x00800000u;
}

/// m / 2^shift to the nearest integer, ties to even, for 0 < shift < 32 and m < 2^31.
fn shift_right_rounded(m: u32, shift: u32) -> u32 {
    var half = (1u << (shift - 1u)) - 1u + ((m >> shift) & 1u);
    if ROUNDING == 1u {
        half = 0u;
    }
    if ROUNDING == 2u {
        half = 1u << (shift - 1u);
    }
    return (m + half) >> shift;
}

/// 64-bit unsigned integers are pairs (low, high).
fn wide_shift_left(v: vec2<u32>, n: u32) -> vec2<u32> {
    if n == 0u {
        return v;
    }
    if n < 32u {
        return vec2<u32>(v.x << n, (v.y << n) | (v.x >> (32u - n)));
    }
    return vec2<u32>(0u, v.x << (n - 32u));
}

/// Shifts right; the lowest bit remembers whether anything was lost.
fn wide_shift_right_sticky(v: vec2<u32>, n: u32) -> vec2<u32> {
    if n == 0u {
        return v;
    }
    if n < 32u {
        let lost = (v.x << (32u - n)) != 0u;
        return vec2<u32>((v.x >> n) | (v.y << (32u - n)) | select(0u, 1u, lost), v.y >> n);
    }
    if n == 32u {
        return vec2<u32>(v.y | select(0u, 1u, v.x != 0u), 0u);
    }
    if n < 64u {
        let lost = v.x != 0u || (v.y << (64u - n)) != 0u;
        return vec2<u32>((v.y >> (n - 32u)) | select(0u, 1u, lost), 0u);
    }
    return vec2<u32>(select(0u, 1u, (v.x | v.y) != 0u), 0u);
}

fn wide_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn wide_subtract(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn wide_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

fn wide_multiply(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = vec2<u32>((a >> 16u) * (b & 0xffffu), (a & 0xffffu) * (b >> 16u));
    var product = vec2<u32>(low, (a >> 16u) * (b >> 16u));
    product = wide_add(product, vec2<u32>(middle.x << 16u, middle.x >> 16u));
    return wide_add(product, vec2<u32>(middle.y << 16u, middle.y >> 16u));
}

/// Index of the leading one of v > 0.
fn wide_top(v: vec2<u32>) -> u32 {
    return select(firstLeadingBit(v.x), 32u + firstLeadingBit(v.y), v.y != 0u);
}

/// Bits of v · 2^unit rounded to 24 bits; 0 far below the flushing threshold.
fn round_wide(v: vec2<u32>, unit: i32) -> u32 {
    if (v.x | v.y) == 0u {
        return 0u;
    }
    let top = wide_top(v);
    let normal = wide_shift_left(v, 63u - top);
    let kept = normal.y >> 8u;
    let rest = normal.y & 0xffu;
    let sticky = normal.x != 0u;
    var up = rest > 0x80u || (rest == 0x80u && (sticky || (kept & 1u) == 1u));
    if ROUNDING == 1u {
        up = false;
    }
    if ROUNDING == 2u {
        up = rest >= 0x80u;
    }
    let field = i32(top) + unit + 127;
    if field < 20 {
        return 0u;
    }
    if field > 254 {
        return INFINITY;
    }
    // The hidden bit, and a carry out of the mantissa, add to the exponent.
    return (u32(field - 1) << 23u) + kept + select(0u, 1u, up);
}

/// Sum of two numbers with leading ones at bit 61 and units of 2^unit.
fn add_wide(sign_a: u32, a: vec2<u32>, unit_a: i32, sign_b: u32, b: vec2<u32>, unit_b: i32) -> u32 {
    let swap = unit_a < unit_b || (unit_a == unit_b && wide_less(a, b));
    let sign = select(sign_a, sign_b, swap);
    let large = select(a, b, swap);
    let distance = u32(abs(unit_a - unit_b));
    let small = wide_shift_right_sticky(select(b, a, swap), distance);
    let unit = max(unit_a, unit_b);
    var sum = wide_add(large, small);
    if sign_a != sign_b {
        sum = wide_subtract(large, small);
    }
    if (sum.x | sum.y) == 0u {
        return 0u;
    }
    return sign | round_wide(sum, unit);
}

fn soft_multiply(a: u32, b: u32) -> u32 {
    if magnitude(a) == 0u || magnitude(b) == 0u {
        return 0u;
    }
    let unit = i32(magnitude(a) >> 23u) + i32(magnitude(b) >> 23u) - 300;
    return ((a ^ b) & SIGN) | round_wide(wide_multiply(mantissa(a), mantissa(b)), unit);
}

fn soft_sum(a: u32, b: u32) -> u32 {
    if magnitude(b) == 0u {
        return a;
    }
    if magnitude(a) == 0u {
        return b;
    }
    let wide_a = vec2<u32>(0u, mantissa(a) << 6u);
    let wide_b = vec2<u32>(0u, mantissa(b) << 6u);
    return add_wide(
        a & SIGN, wide_a, i32(magnitude(a) >> 23u) - 188,
        b & SIGN, wide_b, i32(magnitude(b) >> 23u) - 188,
    );
}

/// a·b + c with one rounding.
fn soft_fused(a: u32, b: u32, c: u32) -> u32 {
    if magnitude(a) == 0u || magnitude(b) == 0u {
        return c;
    }
    if magnitude(c) == 0u {
        return soft_multiply(a, b);
    }
    let product = wide_multiply(mantissa(a), mantissa(b));
    let shift = 61u - wide_top(product);
    let unit = i32(magnitude(a) >> 23u) + i32(magnitude(b) >> 23u) - 300 - i32(shift);
    return add_wide(
        (a ^ b) & SIGN, wide_shift_left(product, shift), unit,
        c & SIGN, vec2<u32>(0u, mantissa(c) << 6u), i32(magnitude(c) >> 23u) - 188,
    );
}

fn f_add(a: u32, b: u32) -> u32 {
    if SOFT {
        return canon(soft_sum(a, b));
    }
    return canon(bitcast<u32>(bitcast<f32>(a) + bitcast<f32>(b)));
}

fn f_mul(a: u32, b: u32) -> u32 {
    if SOFT {
        return canon(soft_multiply(a, b));
    }
    return canon(bitcast<u32>(bitcast<f32>(a) * bitcast<f32>(b)));
}

fn f_sub(a: u32, b: u32) -> u32 {
    return f_add(a, b ^ SIGN);
}

/// a·b + c, rounded twice.
fn f_mul_add(a: u32, b: u32, c: u32) -> u32 {
    if FUSED {
        return canon(soft_fused(a, b, c));
    }
    return f_add(f_mul(a, b), c);
}

/// Integers in the order of the numbers.
fn order(x: u32) -> i32 {
    return select(bitcast<i32>(magnitude(x)), -bitcast<i32>(magnitude(x)), x >= SIGN);
}

fn f_less(a: u32, b: u32) -> bool {
    return order(a) < order(b);
}

fn f_larger(a: u32, b: u32) -> u32 {
    return select(a, b, f_less(a, b));
}

/// The number of a workgroup: long dispatches come in parts.
fn group_number(group: vec3<u32>) -> u32 {
    return params.first_group + group.x;
}
