// Counter-based random bits, twin of `cpu/random.rs`.

/// 32 random bits for element `index`.
fn mix(key: vec2<u32>, index: u32) -> u32 {
    var x = index + key.x;
    x ^= x >> 16u;
    x *= 0x7feb352du;
    x += key.y;
    x ^= x >> 15u;
    x *= 0x846ca68bu;
    return x ^ (x >> 16u);
}
