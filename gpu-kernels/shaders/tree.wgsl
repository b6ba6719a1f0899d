// The tree of 32 lanes, twin of `cpu/reduce.rs`. Workgroups have 32 threads.

const LANES: u32 = 32u;
var<workgroup> lanes: array<u32, 32>;

/// The sum over all lanes, on each of them.
fn fold_sum(lane: u32, value: u32) -> u32 {
    lanes[lane] = value;
    workgroupBarrier();
    for (var level = 0u; level < 5u; level++) {
        if FOLD_UPWARDS {
            let stride = 1u << level;
            if lane % (2u * stride) == 0u {
                lanes[lane] = f_add(lanes[lane], lanes[lane + stride]);
            }
        } else {
            let stride = 16u >> level;
            if lane < stride {
                lanes[lane] = f_add(lanes[lane], lanes[lane + stride]);
            }
        }
        workgroupBarrier();
    }
    let sum = lanes[0];
    workgroupBarrier();
    return sum;
}

/// The largest number over all lanes, on each of them.
fn fold_maximum(lane: u32, value: u32) -> u32 {
    lanes[lane] = value;
    workgroupBarrier();
    for (var stride = 16u; stride > 0u; stride >>= 1u) {
        if lane < stride {
            lanes[lane] = f_larger(lanes[lane], lanes[lane + stride]);
        }
        workgroupBarrier();
    }
    let largest = lanes[0];
    workgroupBarrier();
    return largest;
}
