// Takes a step, unless any check has failed. Twin of `cpu/adamw.rs`.

@group(0) @binding(4) var<storage, read_write> parameters: array<u32>;
@group(0) @binding(5) var<storage, read_write> first_moment: array<u32>;
@group(0) @binding(6) var<storage, read_write> second_moment: array<u32>;

fn compute_element(at: u32) {
    if atomicLoad(&flags[0]) == 0u {
        let next = updated(params.offset + at);
        first_moment[params.offset + at] = next.x;
        second_moment[params.offset + at] = next.y;
        parameters[params.offset + at] = next.z;
    }
}
