// Elementary functions in canonical f32, twin of `functions.rs`.

const ROUNDER: u32 = 0x4b400000u;
const LN2_HEAD: u32 = 0x3f318000u;
const LN2_TAIL: u32 = 0xb95e8083u;
const LOG2_E: u32 = 0x3fb8aa3bu;
const HALF: u32 = 0x3f000000u;
const TWO: u32 = 0x40000000u;
const ONE_AND_A_HALF: u32 = 0x3fc00000u;
const SQRT_HALF: u32 = 0x3f3504f3u;
const RECIPROCAL_GUESS: u32 = 0x7ef311c7u;
const RSQRT_GUESS: u32 = 0x5f3759dfu;
const EXP_ZERO_BELOW: u32 = 0xc2800000u;
/// 2^-99: square roots of less are 0.
const SQRT_ZERO_BELOW: u32 = 0x0e000000u;

fn exp_polynomial(x: u32) -> u32 {
    var y = 0x39506967u;
    y = f_mul_add(y, x, 0x3ab743ceu);
    y = f_mul_add(y, x, 0x3c088908u);
    y = f_mul_add(y, x, 0x3d2aa9c1u);
    y = f_mul_add(y, x, 0x3e2aaaaau);
    y = f_mul_add(y, x, 0x3f000000u);
    return y;
}

fn log_polynomial(x: u32) -> u32 {
    var y = 0x3d9021bbu;
    y = f_mul_add(y, x, 0xbdebd1b8u);
    y = f_mul_add(y, x, 0x3def251bu);
    y = f_mul_add(y, x, 0xbdfe5d4fu);
    y = f_mul_add(y, x, 0x3e11e9bfu);
    y = f_mul_add(y, x, 0xbe2aae50u);
    y = f_mul_add(y, x, 0x3e4cceadu);
    y = f_mul_add(y, x, 0xbe7ffffcu);
    y = f_mul_add(y, x, 0x3eaaaaaau);
    return y;
}

/// e^x for x ≤ 0.
fn f_exp(x: u32) -> u32 {
    let shifted = f_mul_add(x, LOG2_E, ROUNDER);
    let n = f_sub(shifted, ROUNDER);
    let r = f_mul_add(n ^ SIGN, LN2_TAIL, f_mul_add(n ^ SIGN, LN2_HEAD, x));
    let y = f_add(f_mul_add(exp_polynomial(r), f_mul(r, r), r), ONE);
    let scaled = y + ((shifted - ROUNDER) << 23u);
    return select(scaled, 0u, f_less(x, EXP_ZERO_BELOW));
}

/// Natural logarithm of x > 0.
fn f_log(x: u32) -> u32 {
    let exponent = bitcast<i32>(x - SQRT_HALF) >> 23u;
    let f = f_sub(x - (bitcast<u32>(exponent) << 23u), ONE);
    let e = f_sub(ROUNDER + bitcast<u32>(exponent), ROUNDER);
    let z = f_mul(f, f);
    var y = f_mul(f_mul(log_polynomial(f), z), f);
    y = f_mul_add(e, LN2_TAIL, y);
    y = f_mul_add(HALF ^ SIGN, z, y);
    return f_mul_add(e, LN2_HEAD, f_add(f, y));
}

fn f_reciprocal(x: u32) -> u32 {
    var y = RECIPROCAL_GUESS - x;
    y = f_mul(y, f_mul_add(x ^ SIGN, y, TWO));
    y = f_mul(y, f_mul_add(x ^ SIGN, y, TWO));
    return f_mul_add(y, f_mul_add(x ^ SIGN, y, ONE), y);
}

fn f_rsqrt(x: u32) -> u32 {
    let half = f_mul(HALF, x);
    var y = RSQRT_GUESS - (x >> 1u);
    for (var step = 0u; step < 3u; step++) {
        y = f_mul(y, f_mul_add(f_mul(half, y) ^ SIGN, y, ONE_AND_A_HALF));
    }
    return y;
}

fn f_sqrt(x: u32) -> u32 {
    return select(f_mul(x, f_rsqrt(x)), 0u, f_less(x, SQRT_ZERO_BELOW));
}

fn f_sigmoid(x: u32) -> u32 {
    let e = f_exp(x | SIGN);
    let r = f_reciprocal(f_add(ONE, e));
    return canon(select(r, f_mul(e, r), f_less(x, 0u)));
}
