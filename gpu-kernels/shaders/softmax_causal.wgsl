// Scores to probabilities over the causal prefix of each row, in place. Twin of `cpu/softmax.rs`.

@group(0) @binding(2) var<storage, read_write> scores: array<u32>;

fn compute_row(row: u32, lane: u32) {
    let valid = causal_width(row);
    let start = row * params.stride;
    var peak = 0u;
    var largest = LOWEST;
    for (var column = lane; column < valid; column += ROW_THREADS) {
        let score = f_mul(scores[start + column], params.scale);
        scores[start + column] = score;
        peak = max(peak, magnitude(score));
        largest = f_larger(largest, score);
    }
    report(params.slot, peak);
    let maximum = fold_maximum(largest);
    let inverse = f_reciprocal(exponentials(lane, start, valid, maximum));
    for (var column = lane; column < select(0u, params.stride, row < params.rows); column += ROW_THREADS) {
        scores[start + column] = select(0u, f_mul(scores[start + column], inverse), column < valid);
    }
}
