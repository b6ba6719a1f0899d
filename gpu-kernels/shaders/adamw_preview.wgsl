// Checks the magnitudes that a step would write. Twin of `cpu/adamw.rs`.

@group(0) @binding(4) var<storage, read> parameters: array<u32>;
@group(0) @binding(5) var<storage, read> first_moment: array<u32>;
@group(0) @binding(6) var<storage, read> second_moment: array<u32>;

fn compute_element(at: u32) {
    let next = updated(params.offset + at);
    report(params.slot, max(magnitude(next.x), max(magnitude(next.y), magnitude(next.z))));
}
