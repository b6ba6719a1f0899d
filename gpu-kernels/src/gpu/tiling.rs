//! How a product is cut up: which outputs a thread of `matmul` computes, where its
//! operands stand, and the text for that. No bit depends on it.

use super::ops::matmul::Packed;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Where the operands of a thread come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operands {
    /// Each thread reads its own from the device's memory.
    Direct,
    /// The workgroup copies this many pieces of 16 elements at a time to memory that it shares.
    Shared(u8),
    /// All threads of a workgroup have the same rows: every one reads a part of them, and the
    /// lanes of a subgroup pass them on.
    Shuffled,
}

/// In what products are multiplied and summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Terms {
    /// 32-bit integers, four 8-bit products at a time.
    Integers,
    /// f32, in which sums of up to 1,024 products are exact in any order, fused or not.
    Floats,
}

/// One way to cut up a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Tiling {
    /// Rows of outputs that a thread computes.
    pub(crate) rows: u8,
    /// Columns of outputs that a thread computes.
    pub(crate) columns: u8,
    /// Threads of a workgroup along the rows.
    pub(crate) down: u8,
    /// Threads of a workgroup along the columns.
    pub(crate) across: u8,
    /// Where operands come from.
    pub(crate) operands: Operands,
    /// What is multiplied.
    pub(crate) terms: Terms,
    /// Parts of the contracted axis, each summed by workgroups of its own; `matmul_sum` adds them
    /// up. It gives more workgroups to a result that is small beside the length of its sums.
    pub(crate) splits: u8,
}

/// Lanes that every subgroup has which passes operands on.
pub(crate) const LANES_MIN: u32 = 8;
/// Elements of a piece: four words of four digits.
pub(crate) const PIECE: usize = 16;

impl Tiling {
    const fn new(thread: [u8; 2], group: [u8; 2], operands: Operands) -> Self {
        let ([rows, columns], [down, across]) = (thread, group);
        Self { rows, columns, down, across, operands, terms: Terms::Integers, splits: 1 }
    }

    const fn split(self, splits: u8) -> Self {
        Self { splits, ..self }
    }

    /// The same without parts of the contracted axis.
    pub(crate) const fn whole(self) -> Self {
        self.split(1)
    }

    /// Words that the sums of all parts take for a result of so many elements; none without parts.
    pub(crate) fn sum_words(&self, elements: usize) -> usize {
        if self.splits == 1 { 0 } else { elements * usize::from(self.splits) }
    }

    const fn in_floats(self) -> Self {
        Self { terms: Terms::Floats, ..self }
    }

    /// What is used where nothing was measured.
    pub(crate) const DEFAULT: Self = Self::new([4, 4], [8, 8], Operands::Shared(2));

    /// What is worth a measurement on graphics hardware: large tiles save reads, small
    /// ones keep more of it busy.
    const HARDWARE: [Self; 11] = [
        Self::new([8, 8], [8, 8], Operands::Shared(2)),
        Self::new([8, 8], [16, 16], Operands::Shared(2)),
        Self::new([8, 4], [16, 16], Operands::Shared(2)),
        Self::new([4, 4], [16, 16], Operands::Shared(4)),
        Self::new([8, 8], [8, 8], Operands::Shared(4)),
        Self::new([8, 4], [1, 64], Operands::Shuffled),
        Self::new([4, 4], [8, 8], Operands::Direct),
        Self::new([8, 8], [16, 16], Operands::Shared(2)).in_floats(),
        Self::DEFAULT.split(8),
        Self::new([8, 8], [8, 8], Operands::Shared(2)).split(4),
        Self::new([8, 8], [8, 8], Operands::Shared(2)).split(16),
    ];

    /// On a processor: reads are what costs, and shared memory is read like any other.
    const SOFTWARE: [Self; 3] = [
        Self::new([16, 4], [1, 8], Operands::Shuffled).in_floats(),
        Self::new([8, 4], [1, 8], Operands::Shuffled),
        Self::new([16, 4], [1, 8], Operands::Shuffled).in_floats().split(4),
    ];

    /// All that may be used on a device: the default, then those worth a measurement.
    pub(crate) fn candidates(software: bool, subgroups: bool) -> Vec<Self> {
        let others: &[Self] = if software { &Self::SOFTWARE } else { &Self::HARDWARE };
        let fits = |tiling: &&Self| subgroups || tiling.operands != Operands::Shuffled;
        [Self::DEFAULT].iter().chain(others.iter().filter(fits)).copied().collect()
    }

    /// Every tiling that any device may use.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Self::candidates(true, true);
        all.extend(Self::HARDWARE);
        all
    }

    /// Rows and columns of outputs that a workgroup computes.
    pub(crate) fn tile(&self) -> [usize; 2] {
        [usize::from(self.rows) * usize::from(self.down), usize::from(self.columns) * usize::from(self.across)]
    }

    /// Workgroups for `batches` products of `rows` × `columns`.
    pub(crate) fn groups(&self, rows: usize, columns: usize, batches: usize) -> usize {
        let [tile_rows, tile_columns] = self.tile();
        usize::from(self.splits) * batches * rows.div_ceil(tile_rows) * columns.div_ceil(tile_columns)
    }
}

impl std::fmt::Display for Tiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operands = match self.operands {
            Operands::Direct => "direct".to_owned(),
            Operands::Shared(pieces) => format!("shared {pieces}"),
            Operands::Shuffled => "shuffled".to_owned(),
        };
        let terms = if self.terms == Terms::Floats { ", floats" } else { "" };
        write!(f, "{}x{} by {}x{} threads, {operands}{terms}", self.rows, self.columns, self.down, self.across)?;
        if self.splits > 1 { write!(f, ", sums in {} parts", self.splits) } else { Ok(()) }
    }
}

/// The extents of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProductShape {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) k: usize,
    pub(crate) batches: usize,
    pub(crate) digits: [usize; 2],
}

impl ProductShape {
    /// The product of these operands.
    pub(crate) fn of(left: &Packed, right: &Packed) -> Self {
        let digits = [left.digits, right.digits];
        Self { rows: left.rows, columns: right.rows, k: left.k, batches: left.batches, digits }
    }

    /// Whether products of this shape may be computed by the tiling with space for so many words of
    /// sums of parts: one product, whose sums do not need more than 32 bits.
    pub(crate) fn may_split(&self, tiling: &Tiling, sum_words: usize) -> bool {
        let narrow = self.batches == 1 && !is_wide(self.digits[0], self.digits[1], self.k);
        tiling.splits == 1 || (narrow && tiling.sum_words(self.rows * self.columns) <= sum_words)
    }
}

/// A product as it is compiled; one with wide sums has no parts of the contracted axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub(crate) left_digits: u8,
    pub(crate) right_digits: u8,
    /// Sums need more than 32 bits.
    pub(crate) wide: bool,
    pub(crate) tiling: Tiling,
}

/// Whether sums of `k` products of operands of these digits may need more than 32 bits.
pub(crate) fn is_wide(left_digits: usize, right_digits: usize, k: usize) -> bool {
    let largest = |digits| if digits == 1 { 127u64 } else { 16_384 };
    // Narrow sums know one weight of digits, or two.
    (left_digits, right_digits) == (2, 2) || largest(left_digits) * largest(right_digits) * k as u64 > i32::MAX as u64
}

impl Product {
    /// The product of operands of these digits by a tiling, or by the same without parts.
    pub(crate) fn new([left, right]: [usize; 2], wide: bool, tiling: Tiling) -> Self {
        let tiling = if wide { tiling.whole() } else { tiling };
        Self { left_digits: left as u8, right_digits: right as u8, wide, tiling }
    }

    /// Constants of the shader.
    pub(crate) fn header(&self, portable_dot: bool) -> String {
        let Tiling { down, across, operands, terms, splits, .. } = self.tiling;
        let [tile_rows, tile_columns] = self.tiling.tile();
        // Pieces after which sums are spilled: 1,024 products in f32, 65,536 in 32 bits.
        let chunk = if terms == Terms::Floats { 64 } else { 4096 };
        let mut text = format!(
            "const TILE_ROWS: u32 = {tile_rows}u;\nconst TILE_COLUMNS: u32 = {tile_columns}u;\n\
             const DOWN: u32 = {down}u;\nconst ACROSS: u32 = {across}u;\nconst THREADS: u32 = DOWN * ACROSS;\n\
             const LEFT_DIGITS: u32 = {}u;\nconst RIGHT_DIGITS: u32 = {}u;\nconst CHUNK: u32 = {chunk}u;\n\
             const BUILTIN_DOT: bool = {};\nconst SPLITS: u32 = {splits}u;\n",
            self.left_digits, self.right_digits, !portable_dot,
        );
        if let Operands::Shared(depth) = operands {
            let _ = write!(
                text,
                "const DEPTH: u32 = {depth}u;\n\
                 var<workgroup> left_tile: array<vec4<u32>, TILE_ROWS * DEPTH>;\n\
                 var<workgroup> right_tile: array<vec4<u32>, TILE_COLUMNS * DEPTH>;\n"
            );
        }
        text
    }

    /// The text of the shader, with statements for the lines that begin with `$`.
    pub(crate) fn fill(&self, template: &str) -> String {
        let mut text = String::new();
        for line in template.lines() {
            let (indent, content) = line.split_at(line.len() - line.trim_start().len());
            let statements = match content {
                "$inputs" => self.inputs(),
                "$begin" => self.begin(),
                "$begin_pair" => self.begin_pair(),
                "$begin_chunk" => self.begin_chunk(),
                "$multiply" => self.multiply(),
                "$end_chunk" => self.end_chunk(),
                "$write" => self.write(),
                _ => vec![content.to_owned()],
            };
            for statement in statements {
                let _ = writeln!(text, "{indent}{statement}");
            }
        }
        text
    }

    fn each_row(&self, statement: impl Fn(u8) -> String) -> impl Iterator<Item = String> {
        (0..self.tiling.rows).map(statement)
    }

    fn each_column(&self, statement: impl Fn(u8) -> String) -> impl Iterator<Item = String> {
        (0..self.tiling.columns).map(statement)
    }

    fn each_output(&self, statement: impl Fn(u8, u8) -> String) -> Vec<String> {
        let (rows, columns) = (self.tiling.rows, self.tiling.columns);
        (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| statement(i, j)).collect()
    }

    /// Sums of a chunk are apart from those of the whole.
    fn spills(&self) -> bool {
        self.wide || self.tiling.terms == Terms::Floats
    }

    fn inputs(&self) -> Vec<String> {
        match self.tiling.operands {
            Operands::Shuffled => vec!["@builtin(subgroup_invocation_id) lane: u32,".into()],
            _ => Vec::new(),
        }
    }

    /// Where rows and columns begin, and the sums.
    fn begin(&self) -> Vec<String> {
        let left = |place: String| format!("(left_batch + min(first_row + {place}, last_row)) * LEFT_DIGITS * pieces;");
        let mut text: Vec<String> = match self.tiling.operands {
            Operands::Shared(_) => Vec::new(),
            Operands::Direct => {
                self.each_row(|i| format!("let left_{i} = {}", left(format!("thread_row + {i}u * DOWN")))).collect()
            }
            Operands::Shuffled => (0..self.tiling.rows / LANES_MIN as u8)
                .map(|part| {
                    let place = format!("{}u + lane % {LANES_MIN}u", u32::from(part) * LANES_MIN);
                    format!("let left_{part} = {}", left(place))
                })
                .collect(),
        };
        if !matches!(self.tiling.operands, Operands::Shared(_)) {
            text.extend(self.each_column(|j| {
                format!(
                    "let right_{j} = (right_batch + min(first_column + thread_column + {j}u * ACROSS, last_column)) \
                     * RIGHT_DIGITS * pieces;"
                )
            }));
        }
        let zero = if self.wide { "vec2<u32>(0u, 0u)" } else { "0i" };
        text.extend(self.each_output(|i, j| format!("var sum_{i}_{j} = {zero};")));
        text
    }

    fn begin_pair(&self) -> Vec<String> {
        if self.wide {
            return vec!["let shift = 8u * (LEFT_DIGITS - 1u - left_digit + RIGHT_DIGITS - 1u - right_digit);".into()];
        }
        if self.left_digits == 1 && self.right_digits == 1 {
            return Vec::new();
        }
        // Of two pairs of digits, the first weighs 256 times as much.
        let mut text = vec!["if pair > 0u {".to_owned()];
        text.extend(self.each_output(|i, j| format!("    sum_{i}_{j} <<= 8u;")));
        text.push("}".into());
        text
    }

    fn begin_chunk(&self) -> Vec<String> {
        if !self.spills() {
            return Vec::new();
        }
        let zero = if self.tiling.terms == Terms::Floats { "0f" } else { "0i" };
        self.each_output(|i, j| format!("var part_{i}_{j} = {zero};"))
    }

    fn end_chunk(&self) -> Vec<String> {
        if self.wide {
            let spilled = |i, j| format!("sum_{i}_{j} = wide_add(sum_{i}_{j}, wide_from(i32(part_{i}_{j}), shift));");
            return self.each_output(spilled);
        }
        if self.spills() { self.each_output(|i, j| format!("sum_{i}_{j} += i32(part_{i}_{j});")) } else { Vec::new() }
    }

    /// Runs over the pieces of a chunk.
    fn multiply(&self) -> Vec<String> {
        let mut text = Vec::new();
        match self.tiling.operands {
            Operands::Shared(_) => {
                text.push("for (var stage = chunk; stage < end; stage += DEPTH) {".to_owned());
                text.extend(stage("left", "row", "ROWS", "LEFT"));
                text.extend(stage("right", "column", "COLUMNS", "RIGHT"));
                text.push("    workgroupBarrier();".into());
                text.push("    for (var piece = 0u; piece < DEPTH; piece++) {".into());
                text.extend(self.terms().into_iter().map(|line| format!("        {line}")));
                text.extend(["    }", "    workgroupBarrier();", "}"].map(str::to_owned));
            }
            Operands::Direct | Operands::Shuffled => {
                text.push("for (var piece = chunk; piece < end; piece++) {".into());
                text.extend(self.terms().into_iter().map(|line| format!("    {line}")));
                text.push("}".into());
            }
        }
        text
    }

    /// Adds the products of one piece.
    fn terms(&self) -> Vec<String> {
        let mut text: Vec<String> = match self.tiling.operands {
            Operands::Direct => {
                self.each_row(|i| format!("let a_{i} = left_words[left_{i} + left_digit * pieces + piece];")).collect()
            }
            Operands::Shared(_) => self
                .each_row(|i| format!("let a_{i} = left_tile[piece * TILE_ROWS + thread_row + {i}u * DOWN];"))
                .collect(),
            Operands::Shuffled => {
                let parts = (0..self.tiling.rows / LANES_MIN as u8)
                    .map(|part| format!("let own_{part} = left_words[left_{part} + left_digit * pieces + piece];"));
                let lanes = LANES_MIN as u8;
                let rows =
                    self.each_row(|i| format!("let a_{i} = subgroupShuffle(own_{}, {}u);", i / lanes, i % lanes));
                parts.chain(rows).collect()
            }
        };
        let right = |j| match self.tiling.operands {
            Operands::Shared(_) => {
                format!("let b_{j} = right_tile[piece * TILE_COLUMNS + thread_column + {j}u * ACROSS];")
            }
            _ => format!("let b_{j} = right_words[right_{j} + right_digit * pieces + piece];"),
        };
        text.extend(self.each_column(right));
        let target = if self.spills() { "part" } else { "sum" };
        for word in ["x", "y", "z", "w"] {
            if self.tiling.terms == Terms::Floats {
                text.extend(self.each_row(|i| format!("let a_{i}_{word} = floats_of(a_{i}.{word});")));
                text.extend(self.each_column(|j| format!("let b_{j}_{word} = floats_of(b_{j}.{word});")));
                text.extend(self.each_output(|i, j| format!("{target}_{i}_{j} += dot(a_{i}_{word}, b_{j}_{word});")));
            } else {
                text.extend(
                    self.each_output(|i, j| format!("{target}_{i}_{j} += dot_word(a_{i}.{word}, b_{j}.{word});")),
                );
            }
        }
        text
    }

    /// Scales, rounds and writes the outputs inside the matrix, or writes the sums of a part.
    fn write(&self) -> Vec<String> {
        if self.tiling.splits > 1 {
            return self.write_sums();
        }
        let mut text: Vec<String> = self
            .each_row(|i| {
                format!(
                    "let row_{i} = first_row + thread_row + {i}u * DOWN;\n    \
                     let row_unit_{i} = i32(left_scales[left_batch + min(row_{i}, last_row)]);"
                )
            })
            .collect();
        text.extend(self.each_column(|j| {
            format!(
                "let column_{j} = first_column + thread_column + {j}u * ACROSS;\n    \
                 let column_unit_{j} = i32(right_scales[right_batch + min(column_{j}, last_column)]) - 254;"
            )
        }));
        let rounded = if self.wide { "rounded_wide" } else { "rounded" };
        text.extend(self.each_output(|i, j| {
            format!(
                "if row_{i} < params.rows && column_{j} < params.columns {{\n        \
                 let value = {rounded}(sum_{i}_{j}, row_unit_{i} + column_unit_{j});\n        \
                 peak = max(peak, write(batch, row_{i}, column_{j}, value));\n    }}"
            )
        }));
        text
    }

    fn write_sums(&self) -> Vec<String> {
        let mut text: Vec<String> =
            self.each_row(|i| format!("let row_{i} = first_row + thread_row + {i}u * DOWN;")).collect();
        text.extend(self.each_column(|j| format!("let column_{j} = first_column + thread_column + {j}u * ACROSS;")));
        text.extend(self.each_output(|i, j| {
            format!(
                "if row_{i} < params.rows && column_{j} < params.columns {{\n        \
                 product[(split * params.rows + row_{i}) * params.columns + column_{j}] = \
                 bitcast<u32>(sum_{i}_{j});\n    }}"
            )
        }));
        text
    }
}

/// Copies an operand's rows of the tile to shared memory; behind the end they are 0.
fn stage(operand: &str, line: &str, lines: &str, digits: &str) -> Vec<String> {
    vec![
        format!("    for (var load = thread; load < TILE_{lines} * DEPTH; load += THREADS) {{"),
        "        let own_piece = stage + load % DEPTH;".to_owned(),
        format!("        let packed = {operand}_batch + min(first_{line} + load / DEPTH, last_{line});"),
        format!("        let start = (packed * {digits}_DIGITS + {operand}_digit) * pieces;"),
        format!("        let words = {operand}_words[start + min(own_piece, end - 1u)];"),
        format!(
            "        {operand}_tile[load % DEPTH * TILE_{lines} + load / DEPTH] = \
             select(vec4<u32>(0u), words, own_piece < end);"
        ),
        "    }".to_owned(),
    ]
}
