// Lines of a matrix that is read word by word.

@group(0) @binding(2) var<storage, read> source: array<u32>;

/// The largest magnitude of every eighth element from number `lane` on.
fn largest_of(line: Line, lane: u32) -> u32 {
    var largest = 0u;
    for (var place = lane; place < line.length; place += ROW_THREADS) {
        largest = max(largest, magnitude(source[params.offset + line.start + place * line.step]));
    }
    return largest;
}

/// Four elements from this one on, 0 behind the end of the line.
fn four_of(line: Line, place: u32) -> vec4<u32> {
    var four = vec4<u32>(0u);
    for (var at = 0u; at < 4u; at++) {
        if place + at < line.length {
            four[at] = source[params.offset + line.start + (place + at) * line.step];
        }
    }
    return four;
}
