// Threads of a row pass values on through memory that the workgroup shares.

struct Thread {
    @builtin(local_invocation_index) index: u32,
}

var<private> own_index: u32;
var<workgroup> passed: array<u32, GROUP_THREADS>;

fn enter(thread: Thread) {
    own_index = thread.index;
}

/// The value of the thread whose number differs in the bit `distance` < 8. All threads of the
/// workgroup come here.
fn exchange(value: u32, distance: u32) -> u32 {
    passed[own_index] = value;
    workgroupBarrier();
    let other = passed[own_index ^ distance];
    workgroupBarrier();
    return other;
}
