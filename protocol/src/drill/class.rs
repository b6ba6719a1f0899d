//! The sizes of the work units that measure power.

use serde::{Deserialize, Serialize};

/// Seconds that a unit takes at most on the device for which its class is chosen.
const CHOSEN_S: u64 = 2;
/// Seconds that a unit may take on the slowest device that is accepted.
const SLOWEST_S: u64 = 2 * CHOSEN_S;

/// The size of a gemm unit: class 1 is 16 times class 0, every other one 4 times the
/// one before.
///
/// | class | rows × columns × depth | operations | for |
/// |---|---|---|---|
/// | 0 | 256 × 256 × 256 | 2²⁵ | tests, demonstrations: about 1 ms |
/// | 1 | 512 × 512 × 1,024 | 2²⁹ | a core without vectors |
/// | 2 | 1,024 × 1,024 × 1,024 | 2³¹ | graphics in software |
/// | 3 | 4,096 × 1,024 × 1,024 | 2³³ | a small board computer |
/// | 4 | 8,192 × 2,048 × 1,024 | 2³⁵ | one core with AVX2 |
/// | 5 | 16,384 × 4,096 × 1,024 | 2³⁷ | a laptop |
/// | 6 | 65,536 × 4,096 × 1,024 | 2³⁹ | a workstation, integrated graphics |
/// | 7 | 131,072 × 8,192 × 1,024 | 2⁴¹ | a server, a small graphics card |
/// | 8 | 524,288 × 8,192 × 1,024 | 2⁴³ | a graphics card |
/// | 9 | 2,097,152 × 8,192 × 1,024 | 2⁴⁵ | an accelerator such as an H100 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct GemmClass(u8);

/// Rows, columns and depth of each class.
const GEMM_SIZES: [[u32; 3]; 10] = [
    [256, 256, 256],
    [512, 512, 1024],
    [1024, 1024, 1024],
    [4096, 1024, 1024],
    [8192, 2048, 1024],
    [16_384, 4096, 1024],
    [65_536, 4096, 1024],
    [131_072, 8192, 1024],
    [524_288, 8192, 1024],
    [2_097_152, 8192, 1024],
];

impl GemmClass {
    /// The smallest.
    pub const SMALLEST: Self = Self(0);
    /// The largest.
    pub const LARGEST: Self = Self(GEMM_SIZES.len() as u8 - 1);

    /// All classes, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..GEMM_SIZES.len() as u8).map(Self)
    }

    /// The number of the class.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Rows, columns and depth of the product.
    pub fn sizes(self) -> [u32; 3] {
        GEMM_SIZES[usize::from(self.0)]
    }

    /// Operations of one unit: a multiplication and an addition for each term.
    pub fn operations(self) -> u64 {
        let [rows, columns, depth] = self.sizes();
        2 * u64::from(rows) * u64::from(columns) * u64::from(depth)
    }

    /// The class for a device that was measured to do so many operations a second:
    /// the largest one of whose units takes no more than two seconds, and so most
    /// often between half a second and two.
    pub fn for_speed(operations_per_s: u64) -> Self {
        let within = operations_per_s.saturating_mul(CHOSEN_S);
        Self::all().take_while(|class| class.operations() <= within).last().unwrap_or(Self::SMALLEST)
    }

    /// The speed under which a device misses the deadlines of this class: half of the
    /// least one for which [`Self::for_speed`] chooses it.
    pub fn operations_per_s_min(self) -> u64 {
        self.operations() / SLOWEST_S
    }
}

impl TryFrom<u8> for GemmClass {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        if usize::from(number) < GEMM_SIZES.len() {
            Ok(Self(number))
        } else {
            Err(format!("gemm class {number}, accepted is 0 to {}", Self::LARGEST.0))
        }
    }
}

impl From<GemmClass> for u8 {
    fn from(class: GemmClass) -> Self {
        class.0
    }
}
