// What a softmax and a loss over rows share. The op binds the rows as `scores`.

/// Below every number: where a search for the largest one begins.
const LOWEST: u32 = 0xff7fffffu;

/// e^(score − maximum) in place of the `width` scores from `start` on; their sum.
fn exponentials(lane: u32, start: u32, width: u32, maximum: u32) -> u32 {
    var sums = vec4<u32>(0u);
    for (var column = lane; column < whole_turns(width); column += ROW_THREADS) {
        var sum = sums.x;
        if column < width {
            let e = f_exp(f_sub(scores[start + column], maximum));
            scores[start + column] = e;
            sum = f_add(sum, e);
        }
        sums = turned(sums, sum);
    }
    return fold_sum(sums);
}
