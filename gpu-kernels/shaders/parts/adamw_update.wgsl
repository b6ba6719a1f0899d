// The arithmetic of an AdamW step, twin of `cpu/adamw.rs`. The op binds `parameters`,
// `first_moment` and `second_moment`: to read them or to write them too.

struct Params {
    first_group: u32,
    count: u32,
    offset: u32,
    beta1: u32,
    one_minus_beta1: u32,
    beta2: u32,
    one_minus_beta2: u32,
    correction1: u32,
    correction2: u32,
    epsilon: u32,
    learning_rate: u32,
    decay: u32,
    slot: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gradient: array<u32>;
@group(0) @binding(3) var<storage, read> scale: array<u32>;

/// New moments and parameter of element `at`.
fn updated(at: u32) -> vec3<u32> {
    let g = f_mul(canon(gradient[at]), scale[1]);
    let first = f_mul_add(params.beta1, first_moment[at], f_mul(params.one_minus_beta1, g));
    let second = f_mul_add(params.beta2, second_moment[at], f_mul(params.one_minus_beta2, f_mul(g, g)));
    let denominator = f_add(f_sqrt(f_mul(second, params.correction2)), params.epsilon);
    let direction = f_mul(f_mul(first, params.correction1), f_reciprocal(denominator));
    let kept = f_mul(parameters[at], params.decay);
    return vec3<u32>(first, second, f_mul_add(params.learning_rate ^ SIGN, direction, kept));
}
