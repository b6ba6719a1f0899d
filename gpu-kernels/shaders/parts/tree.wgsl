// The tree of 32 lanes, twin of `cpu/reduce.rs`. Eight threads work on a row; number t holds
// the lanes t, t + 8, t + 16 and t + 24, so that the first two levels are its own.

const LANES: u32 = 32u;

/// Starts on the next element that a thread has in a row: its lanes take turns, and come back to
/// their places after every fourth.
fn turned(lanes: vec4<u32>, first: u32) -> vec4<u32> {
    return vec4<u32>(lanes.yzw, first);
}

/// The number of elements with those that fill up the last turn.
fn whole_turns(width: u32) -> u32 {
    return (width + LANES - 1u) / LANES * LANES;
}

/// The sum over all lanes of a row, on each of its threads.
fn fold_sum(lanes: vec4<u32>) -> u32 {
    if FOLD_UPWARDS {
        var sum = f_add(f_add(lanes.x, lanes.y), f_add(lanes.z, lanes.w));
        sum = f_add(sum, exchange(sum, 1u));
        sum = f_add(sum, exchange(sum, 2u));
        return f_add(sum, exchange(sum, 4u));
    }
    var sum = f_add(f_add(lanes.x, lanes.z), f_add(lanes.y, lanes.w));
    sum = f_add(sum, exchange(sum, 4u));
    sum = f_add(sum, exchange(sum, 2u));
    return f_add(sum, exchange(sum, 1u));
}

/// The largest number of a row's threads, on each of them.
fn fold_maximum(value: u32) -> u32 {
    var largest = value;
    largest = f_larger(largest, exchange(largest, 4u));
    largest = f_larger(largest, exchange(largest, 2u));
    return f_larger(largest, exchange(largest, 1u));
}
