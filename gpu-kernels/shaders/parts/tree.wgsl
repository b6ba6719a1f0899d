// The tree of 32 lanes, twin of `cpu/reduce.rs`. The op defines TREES: how many of them a
// workgroup folds side by side. Thread `lane * TREES + tree` is a tree's lane, and the
// workgroup has no other threads.

const LANES: u32 = 32u;
var<workgroup> lanes: array<u32, LANES * TREES>;

/// The sum over all lanes of the thread's tree, on each of them.
fn fold_sum(thread: u32, value: u32) -> u32 {
    let lane = thread / TREES;
    lanes[thread] = value;
    workgroupBarrier();
    for (var level = 0u; level < 5u; level++) {
        if FOLD_UPWARDS {
            let stride = 1u << level;
            if lane % (2u * stride) == 0u {
                lanes[thread] = f_add(lanes[thread], lanes[thread + stride * TREES]);
            }
        } else {
            let stride = 16u >> level;
            if lane < stride {
                lanes[thread] = f_add(lanes[thread], lanes[thread + stride * TREES]);
            }
        }
        workgroupBarrier();
    }
    let sum = lanes[thread % TREES];
    workgroupBarrier();
    return sum;
}

/// The largest number over all lanes of the thread's tree, on each of them.
fn fold_maximum(thread: u32, value: u32) -> u32 {
    let lane = thread / TREES;
    lanes[thread] = value;
    workgroupBarrier();
    for (var stride = 16u; stride > 0u; stride >>= 1u) {
        if lane < stride {
            lanes[thread] = f_larger(lanes[thread], lanes[thread + stride * TREES]);
        }
        workgroupBarrier();
    }
    let largest = lanes[thread % TREES];
    workgroupBarrier();
    return largest;
}
