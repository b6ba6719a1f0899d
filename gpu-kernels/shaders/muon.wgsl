// Takes a step along the orthogonal directions in `second_moment`, unless any check has failed;
// it ends as zero, as it was. Twin of `commit` in `cpu/muon.rs`.

@group(0) @binding(4) var<storage, read_write> parameters: array<u32>;
@group(0) @binding(5) var<storage, read_write> first_moment: array<u32>;
@group(0) @binding(6) var<storage, read_write> second_moment: array<u32>;

fn compute_element(at: u32) {
    let place = params.offset + at;
    if atomicLoad(&flags[0]) == 0u {
        parameters[place] = stepped(parameters[place], second_moment[place]);
        first_moment[place] = new_momentum(place);
    }
    second_moment[place] = 0u;
}
