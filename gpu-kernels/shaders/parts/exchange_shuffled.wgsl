// Threads of a row pass values on by shuffles: the eight of them are lanes of one subgroup.

struct Thread {
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

var<private> own_lane: u32;

fn enter(thread: Thread) {
    own_lane = thread.lane;
}

/// The value of the thread whose number differs in the bit `distance` < 8.
fn exchange(value: u32, distance: u32) -> u32 {
    return subgroupShuffle(value, own_lane ^ distance);
}
