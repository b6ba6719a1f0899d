// dp → ds = p · (dp − Σ p·dp) · scale in place; +0 behind the diagonal. Twin of `cpu/softmax.rs`.

@group(0) @binding(2) var<storage, read> probabilities: array<u32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<u32>;

fn compute_row(row: u32, lane: u32) {
    let valid = causal_width(row);
    let start = row * params.stride;
    var sums = vec4<u32>(0u);
    for (var column = lane; column < whole_turns(valid); column += ROW_THREADS) {
        var sum = sums.x;
        if column < valid {
            sum = f_mul_add(probabilities[start + column], gradient[start + column], sum);
        }
        sums = turned(sums, sum);
    }
    let mean = fold_sum(sums);
    var peak = 0u;
    for (var column = lane; column < select(0u, params.stride, row < params.rows); column += ROW_THREADS) {
        var value = 0u;
        if column < valid {
            let centred = f_sub(gradient[start + column], mean);
            value = f_mul(f_mul(probabilities[start + column], centred), params.scale);
        }
        gradient[start + column] = value;
        peak = max(peak, magnitude(value));
    }
    report(params.slot, peak);
}
