// Lines of neighbouring elements that are read in fours: offsets, strides and lengths are multiples of 4.

@group(0) @binding(2) var<storage, read> source: array<vec4<u32>>;

/// The largest magnitude of every eighth four from number `lane` on.
fn largest_of(line: Line, lane: u32) -> u32 {
    var largest = vec4<u32>(0u);
    for (var place = 4u * lane; place < line.length; place += 4u * ROW_THREADS) {
        largest = max(largest, source[(params.offset + line.start + place) / 4u] & vec4<u32>(0x7fffffffu));
    }
    let pairs = max(largest.xy, largest.zw);
    return max(pairs.x, pairs.y);
}

/// Four elements from this one on, 0 behind the end of the line.
fn four_of(line: Line, place: u32) -> vec4<u32> {
    if place >= line.length {
        return vec4<u32>(0u);
    }
    return source[(params.offset + line.start + place) / 4u];
}
