//! Which tiling a device's products take: measured once for each class of shapes, and kept.
//!
//! A tiling is measured or used for operands of some numbers of digits only after it has given
//! the known answers for them. Measuring is bounded in time; shapes that come after that take
//! what others like them have taken. Nothing here changes a bit of any result.

mod cache;
mod measure;

use super::compile::Pipelines;
use super::kernel::Form;
use super::tiling::{ProductShape, Tiling, is_wide};
use crate::admission::known_answers_hold;
use crate::device::{Device, DeviceKind, DeviceReport};
use measure::measure;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Multiply-adds under which a product is not worth a measurement.
const MULTIPLY_ADDS_MIN: u64 = 1 << 20;
/// Time that one process spends on measurements and on the known answers for them: on software
/// adapters, and on others, which have more to choose from and more to win.
const SOFTWARE_TIME_MAX: Duration = Duration::from_millis(1500);
const HARDWARE_TIME_MAX: Duration = Duration::from_secs(6);
/// Sides of classes.
const SIDES: std::ops::RangeInclusive<usize> = 16..=4096;
/// Batches of the last class.
const BATCHES_MAX: usize = 256;
/// Terms of each part of a split axis, at least.
const SPLIT_DEPTH_MIN: usize = 64;
/// Words that sums of parts take at most in a measurement.
const SUM_WORDS_MAX: usize = 1 << 22;
/// Classes that are kept.
const CLASSES_MAX: usize = 1024;

/// Products of about the same shape, which share a tiling: sides are rounded up to powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProductClass {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub columns: usize,
    /// The contracted axis.
    pub depth: usize,
    /// Products side by side.
    pub batches: usize,
    /// Whether sums need more than 32 bits.
    pub wide: bool,
}

impl ProductClass {
    fn of(shape: &ProductShape) -> Self {
        let side = |length: usize| length.next_power_of_two().clamp(*SIDES.start(), *SIDES.end());
        let [left, right] = shape.digits;
        Self {
            rows: side(shape.rows),
            columns: side(shape.columns),
            depth: side(shape.k),
            batches: shape.batches.next_power_of_two().min(BATCHES_MAX),
            wide: is_wide(left, right, shape.k),
        }
    }

    /// Multiply-adds of the largest product.
    fn multiply_adds(&self) -> u64 {
        (self.rows * self.columns) as u64 * (self.depth * self.batches) as u64
    }

    /// Whether this tiling is worth a measurement: parts are, of an axis that is long enough for them,
    /// for results that are small enough, and too small for all cores where their number is known.
    fn may_take(&self, tiling: &Tiling, cores: Option<usize>) -> bool {
        let single = self.batches == 1 && !self.wide;
        let long = self.depth >= SPLIT_DEPTH_MIN * usize::from(tiling.splits);
        let small = tiling.sum_words(self.rows * self.columns) <= SUM_WORDS_MAX;
        let starves = cores.is_none_or(|cores| tiling.whole().groups(self.rows, self.columns, 1) < cores);
        tiling.splits == 1 || (single && long && small && starves)
    }

    /// How far apart two classes are, in doublings of sides.
    fn distance(&self, other: &Self) -> u32 {
        let doublings = |a: usize, b: usize| a.ilog2().abs_diff(b.ilog2());
        doublings(self.rows, other.rows)
            + doublings(self.columns, other.columns)
            + doublings(self.depth, other.depth)
            + doublings(self.batches, other.batches)
            + 8 * u32::from(self.wide != other.wide)
    }
}

/// What one tiling took for a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TilingTime {
    /// The tiling, in words.
    pub tiling: String,
    /// Least time of the measured product, in microseconds.
    pub least_us: f64,
}

/// The tiling of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedClass {
    /// The class.
    pub class: ProductClass,
    /// What it takes, in words.
    pub chosen: String,
    /// Multiply-adds of the product that was measured, which may be smaller than the class.
    pub multiply_adds: u64,
    /// What was measured, the fastest first.
    pub times: Vec<TilingTime>,
    pub(crate) tiling: Tiling,
    /// The fastest without parts of the contracted axis, for want of space for their sums.
    pub(crate) whole: Tiling,
}

/// Whether a tiling gives the known answers for operands of these digits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Verdict {
    tiling: Tiling,
    digits: [usize; 2],
    right: bool,
}

/// What is known of a device's products.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    classes: Vec<TunedClass>,
    verdicts: Vec<Verdict>,
}

/// The choices for one device in one form, shared by all that compute on it.
pub(crate) struct Tuning {
    form: Form,
    report: DeviceReport,
    directory: Option<PathBuf>,
    known: Known,
    spent: Duration,
    warning: Option<String>,
}

/// [`Tuning`] as engines and benchmarks share it.
#[derive(Clone)]
pub(crate) struct SharedTuning(Arc<Mutex<Tuning>>);

impl SharedTuning {
    /// Choices for `device`, those kept in `directory` first.
    pub(crate) fn new(device: &Device, form: Form, directory: Option<&Path>) -> Self {
        let report = device.report().clone();
        let (known, warning) = match directory.map(|directory| cache::load(directory, &report, form)) {
            Some(Ok(Some(known))) => (known, None),
            Some(Err(problem)) => (Known::default(), Some(problem)),
            _ => (Known::default(), None),
        };
        let directory = directory.map(Path::to_path_buf);
        Self(Arc::new(Mutex::new(Tuning { form, report, directory, known, spent: Duration::ZERO, warning })))
    }

    fn lock(&self) -> MutexGuard<'_, Tuning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the file of kept choices was ignored, if it was.
    pub(crate) fn warning(&self) -> Option<String> {
        self.lock().warning.clone()
    }

    /// The classes that are known.
    pub(crate) fn classes(&self) -> Vec<TunedClass> {
        self.lock().known.classes.clone()
    }

    /// The tiling for products of this shape with space for so many words of sums of parts, measured
    /// now if it is worth that. If the device fails meanwhile, whatever is done next says so.
    pub(crate) fn tiling(&self, pipelines: &mut Pipelines, shape: &ProductShape, sum_words: usize) -> Tiling {
        let mut tuning = self.lock();
        let class = ProductClass::of(shape);
        if class.wide && shape.digits == [1, 1] {
            // Axes so long are rare, and the known answers of other tilings have none.
            return Tiling::DEFAULT;
        }
        let multiply_adds = (shape.rows * shape.columns) as u64 * (shape.k * shape.batches) as u64;
        let is_known = |tuning: &Tuning| tuning.known.classes.iter().any(|entry| entry.class == class);
        if multiply_adds >= MULTIPLY_ADDS_MIN && !is_known(&tuning) && tuning.spent < tuning.time_max() {
            let start = Instant::now();
            tuning.tune(pipelines, class, shape.digits);
            tuning.spent += start.elapsed();
        }
        let nearest = tuning.known.classes.iter().min_by_key(|entry| entry.class.distance(&class));
        // Whether parts pay depends on the very shape.
        let may_split = |entry: &TunedClass| entry.class == class && shape.may_split(&entry.tiling, sum_words);
        let of_entry = |entry: &TunedClass| if may_split(entry) { entry.tiling } else { entry.whole };
        let tiling = nearest.map_or(Tiling::DEFAULT, of_entry);
        if tuning.is_right(pipelines, tiling, shape.digits) { tiling } else { Tiling::DEFAULT }
    }
}

impl Tuning {
    fn time_max(&self) -> Duration {
        if self.report.kind == DeviceKind::Software { SOFTWARE_TIME_MAX } else { HARDWARE_TIME_MAX }
    }

    /// Measures a class, and keeps what was found.
    fn tune(&mut self, pipelines: &mut Pipelines, class: ProductClass, digits: [usize; 2]) {
        // A software adapter is the processor; others do not tell.
        let software = self.report.kind == DeviceKind::Software;
        let cores = software.then(|| std::thread::available_parallelism().map_or(1, usize::from));
        let candidates = pipelines.tilings().into_iter().filter(|tiling| class.may_take(tiling, cores));
        let right: Vec<Tiling> = candidates.filter(|&tiling| self.is_right(pipelines, tiling, digits)).collect();
        let Ok(found) = measure(pipelines, class, digits, &right) else { return };
        let fastest = |whole: bool| found.times.iter().find(|(tiling, _)| !whole || tiling.splits == 1);
        let (Some(&(tiling, _)), Some(&(whole, _))) = (fastest(false), fastest(true)) else { return };
        let times = found.times.iter();
        let entry = TunedClass {
            class,
            chosen: tiling.to_string(),
            multiply_adds: found.multiply_adds,
            // Whole nanoseconds, so that the file gives back the very number.
            times: times
                .map(|&(tiling, time)| TilingTime {
                    tiling: tiling.to_string(),
                    least_us: time.as_nanos() as f64 / 1e3,
                })
                .collect(),
            tiling,
            whole,
        };
        if self.known.classes.len() < CLASSES_MAX {
            self.known.classes.push(entry);
        }
        self.keep();
    }

    /// Whether a tiling gives the known answers for operands of these digits; tested once.
    fn is_right(&mut self, pipelines: &Pipelines, tiling: Tiling, digits: [usize; 2]) -> bool {
        // Admission has tested this one.
        if tiling == Tiling::DEFAULT {
            return true;
        }
        let known = self.known.verdicts.iter().find(|verdict| verdict.tiling == tiling && verdict.digits == digits);
        if let Some(verdict) = known {
            return verdict.right;
        }
        // A device that fails is no reason to remember that the tiling is wrong.
        let Ok(right) = known_answers_hold(&pipelines.device, self.form, tiling, digits) else { return false };
        self.known.verdicts.push(Verdict { tiling, digits, right });
        self.keep();
        right
    }

    fn keep(&self) {
        if let Some(directory) = &self.directory {
            cache::store(directory, &self.report, self.form, &self.known);
        }
    }
}

/// Removes what is kept in `directory` for this device, so that it is measured again.
pub(crate) fn forget(directory: &Path, device: &DeviceReport, form: Form) {
    cache::forget(directory, device, form);
}

/// The choices kept in `directory` for this device with its present driver and shaders.
pub(crate) fn kept(directory: &Path, device: &DeviceReport, form: Form) -> Vec<TunedClass> {
    cache::load(directory, device, form).ok().flatten().unwrap_or_default().classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_share_classes_and_near_ones_stand_in() {
        let shape = |rows, columns, k, digits| ProductShape { rows, columns, k, batches: 3, digits };
        let class = ProductClass::of(&shape(1000, 384, 100, [1, 1]));
        assert_eq!(class, ProductClass { rows: 1024, columns: 512, depth: 128, batches: 4, wide: false });
        assert_eq!(class, ProductClass::of(&shape(513, 400, 65, [2, 1])));
        assert_eq!(ProductClass::of(&shape(5, 100_000, 1, [1, 1])).columns, 4096);
        assert!(ProductClass::of(&shape(5, 5, 100_000, [2, 1])).wide);
        assert_eq!(class.distance(&class), 0);
        assert_eq!(class.distance(&ProductClass { rows: 256, batches: 8, ..class }), 3);
        assert!(class.distance(&ProductClass { wide: true, ..class }) > 5);
    }

    #[test]
    fn only_single_products_with_long_axes_and_small_results_are_split() {
        let class = ProductClass { rows: 256, columns: 128, depth: 1024, batches: 1, wide: false };
        let split = Tiling { splits: 8, ..Tiling::DEFAULT };
        assert!(class.may_take(&split, None));
        // 8 × 4 tiles of 32 × 32.
        assert!(class.may_take(&split, Some(33)) && !class.may_take(&split, Some(32)));
        for other in [
            ProductClass { batches: 2, ..class },
            ProductClass { wide: true, ..class },
            ProductClass { depth: 256, ..class },
            ProductClass { rows: 4096, columns: 256, ..class },
        ] {
            assert!(other.may_take(&Tiling::DEFAULT, Some(1)) && !other.may_take(&split, None), "{other:?}");
        }
        let shape = ProductShape { rows: 256, columns: 128, k: 1024, batches: 1, digits: [1, 1] };
        assert!(shape.may_split(&split, 8 * 256 * 128) && !shape.may_split(&split, 8 * 256 * 128 - 1));
        assert!(!shape.may_split(&split, 0) && shape.may_split(&Tiling::DEFAULT, 0));
        // Two digits with one: 16,384 · 127 · k reaches 2³¹.
        assert!(ProductShape { digits: [2, 1], ..shape }.may_split(&split, 1 << 20));
        assert!(!ProductShape { digits: [2, 1], k: 1033, ..shape }.may_split(&split, 1 << 20));
    }
}
