// Row-scaled integers, twin of `cpu/quantize.rs`; comes after `hash.wgsl`. The header
// defines DIGITS, STOCHASTIC, and for that number of digits BELOW (powers of two between
// a row's exponent and its largest magnitude) and LIMIT (of |q|).

/// Exponent field of a row's scale.
fn scale_field(peak: u32) -> u32 {
    let field = peak >> 23u;
    return select(field - BELOW, 127u, field == 0u);
}

/// x / 2^e to the nearest integer, ties to even.
fn nearest(x: u32, peak: u32) -> i32 {
    let shift = 23u - BELOW + (peak >> 23u) - (magnitude(x) >> 23u);
    if magnitude(x) == 0u || shift > 24u {
        return 0;
    }
    let q = min(bitcast<i32>(shift_right_rounded(mantissa(x), shift)), LIMIT);
    return select(q, -q, x >= SIGN);
}

/// x / 2^e up or down at random.
fn stochastic(x: u32, peak: u32, random: u32) -> i32 {
    if magnitude(x) == 0u {
        return 0;
    }
    let fraction_bits = select(16u, 24u, DIGITS == 1u);
    let left = select(6u, 7u, DIGITS == 1u);
    let drop = min((peak >> 23u) - (magnitude(x) >> 23u), 31u);
    let cut = (mantissa(x) << left) >> drop;
    let q = min(bitcast<i32>((cut + (random >> (32u - fraction_bits))) >> fraction_bits), LIMIT);
    return select(q, -q, x >= SIGN);
}

/// The integer for the element of the source with this index.
fn quantize(x: u32, peak: u32, key: vec2<u32>, index: u32) -> i32 {
    if STOCHASTIC {
        return stochastic(x, peak, mix(key, index));
    }
    return nearest(x, peak);
}

/// Digit number `digit` (from the upper one) of q.
fn digit_of(q: i32, digit: u32) -> i32 {
    if DIGITS == 1u {
        return q;
    }
    let upper = (q + 128) >> 8u;
    return select(q - (upper << 8u), upper, digit == 0u);
}
