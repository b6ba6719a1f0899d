// How exact sums of products become floats.

/// Bits of the sum, under 2^31, · 2^unit, rounded to 24 bits.
fn rounded(sum: i32, unit: i32) -> u32 {
    let size = bitcast<u32>(abs(sum));
    let top = firstLeadingBit(size | 1u);
    let whole = size << (23u - min(top, 23u));
    let kept = select(whole, shift_right_rounded(size, max(top, 24u) - 23u), top > 23u);
    let field = i32(top) + unit + 127;
    // The hidden bit, and a carry out of the mantissa, add to the exponent.
    let number = select((u32(field - 1) << 23u) + kept, INFINITY, field > 254);
    let sign = bitcast<u32>(sum) & SIGN;
    return select(canon(number | sign), 0u, size == 0u || field < 20);
}
