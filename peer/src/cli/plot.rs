//! A curve in the terminal, drawn with braille characters: each holds two dots
//! across and four down.

/// Dots of a braille character by column and row (Unicode chapter 21.1).
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
const EMPTY: u32 = 0x2800;

/// The curve of `values` over their index, `width` × `height` characters
/// without the scale on its left and the line below. Empty without a finite value.
pub(super) fn curve(values: &[f64], width: usize, height: usize) -> String {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if low > high || width == 0 || height == 0 {
        return String::new();
    }
    let mut canvas = Canvas { width, height, cells: vec![0; width * height] };
    let (across, down) = (2 * width - 1, 4 * height - 1);
    let x = |index: usize| index as f64 / (values.len() - 1).max(1) as f64 * across as f64;
    let span = if high > low { high - low } else { 1.0 };
    let y = |value: f64| (high - value) / span * down as f64;
    let points: Vec<(f64, f64)> =
        values.iter().enumerate().filter(|(_, v)| v.is_finite()).map(|(i, v)| (x(i), y(*v))).collect();
    canvas.dot(points[0]);
    for pair in points.windows(2) {
        canvas.line(pair[0], pair[1]);
    }
    canvas.text(low, high, values.len())
}

struct Canvas {
    width: usize,
    height: usize,
    cells: Vec<u32>,
}

impl Canvas {
    fn dot(&mut self, (x, y): (f64, f64)) {
        let (x, y) = (x.round() as usize, y.round() as usize);
        if let Some(cell) = self.cells.get_mut(y / 4 * self.width + x / 2) {
            *cell |= DOTS[x % 2][y % 4];
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let steps = dx.abs().max(dy.abs()).ceil().max(1.0);
        for step in 0..=steps as usize {
            let part = step as f64 / steps;
            self.dot((from.0 + dx * part, from.1 + dy * part));
        }
    }

    fn text(&self, low: f64, high: f64, count: usize) -> String {
        let mut text = String::new();
        for (index, row) in self.cells.chunks_exact(self.width).enumerate() {
            let label = match index {
                0 => format!("{high:.3}"),
                _ if index + 1 == self.height => format!("{low:.3}"),
                _ => String::new(),
            };
            let row: String = row.iter().map(|cell| char::from_u32(EMPTY | cell).unwrap_or(' ')).collect();
            text += &format!("{label:>8} │{row}\n");
        }
        let last = count.to_string();
        let gap = self.width.saturating_sub(last.len() + 1);
        text + &format!("{:>8} └{}\n{:>10}1{}{last}\n", "", "─".repeat(self.width), "", " ".repeat(gap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line_goes_from_the_upper_left_to_the_lower_right() {
        let expected = concat!("   3.000 │⠑⢄⠀⠀\n", "   0.000 │⠀⠀⠑⢄\n", "         └────\n", "          1  4\n",);
        assert_eq!(curve(&[3.0, 2.0, 1.0, 0.0], 4, 2), expected);
    }

    #[test]
    fn odd_inputs_are_drawn_or_nothing_is() {
        assert_eq!(curve(&[], 10, 4), "");
        assert_eq!(curve(&[f64::NAN, f64::INFINITY], 10, 4), "");
        assert_eq!(curve(&[1.0], 0, 4), "");
        for values in [&[2.0][..], &[2.0, 2.0, 2.0], &[f64::NAN, 2.0, f64::NAN, 1.0], &[1e308, -1e308]] {
            let text = curve(values, 10, 4);
            assert_eq!(text.lines().count(), 6, "{text}");
            assert!(text.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "{values:?}\n{text}");
        }
        let many: Vec<f64> = (0..10_000).map(f64::from).collect();
        assert!(curve(&many, 60, 10).lines().all(|line| line.chars().count() <= 70));
    }
}
