// Checks the magnitudes that a step would write. Twin of `cpu/muon.rs`.

@group(0) @binding(4) var<storage, read> parameters: array<u32>;
@group(0) @binding(5) var<storage, read> first_moment: array<u32>;
/// Orthogonal directions.
@group(0) @binding(6) var<storage, read> second_moment: array<u32>;

fn compute_element(at: u32) {
    let place = params.offset + at;
    let parameter = stepped(parameters[place], second_moment[place]);
    report(params.slot, max(magnitude(parameter), magnitude(new_momentum(place))));
}
