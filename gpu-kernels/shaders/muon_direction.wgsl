// Directions of a step, before they are made orthogonal. Twin of `cpu/muon.rs`.

@group(0) @binding(4) var<storage, read> first_moment: array<u32>;
@group(0) @binding(5) var<storage, read_write> directions: array<u32>;

fn compute_element(at: u32) {
    let place = params.offset + at;
    directions[params.own_offset + at] = mix(new_momentum(place), mean(place));
}
