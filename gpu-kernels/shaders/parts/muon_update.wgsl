// The momentum of Muon, and its step along a direction, twin of `cpu/muon.rs`. The op binds
// `first_moment`.

struct Params {
    first_group: u32,
    count: u32,
    offset: u32,
    /// Where directions of a matrix by itself begin.
    own_offset: u32,
    momentum: u32,
    one_minus_momentum: u32,
    learning_rate: u32,
    decay: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gradient: array<u32>;
@group(0) @binding(3) var<storage, read> scale: array<u32>;

fn mix(a: u32, b: u32) -> u32 {
    return f_mul_add(params.one_minus_momentum, b, f_mul(params.momentum, a));
}

/// The clipped mean gradient of element `at`.
fn mean(at: u32) -> u32 {
    return f_mul(canon(gradient[at]), scale[1]);
}

/// The new momentum of element `at`.
fn new_momentum(at: u32) -> u32 {
    return mix(first_moment[at], mean(at));
}

/// The parameter after a step along `direction`.
fn stepped(parameter: u32, direction: u32) -> u32 {
    return f_mul_add(params.learning_rate ^ SIGN, direction, f_mul(parameter, params.decay));
}
