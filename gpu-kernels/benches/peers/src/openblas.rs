//! OpenBLAS, as Debian has it, loaded where it is installed.

use libloading::Library;
use std::error::Error;
use std::ffi::{CStr, c_char, c_int};

/// Where Debian's `libopenblas0-pthread` puts it.
const PLACES: [&str; 2] = ["/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0", "libopenblas.so.0"];
/// `CBLAS_ORDER` and `CBLAS_TRANSPOSE`.
const ROW_MAJOR: c_int = 101;
const PLAIN: c_int = 111;
const TRANSPOSED: c_int = 112;

type Sgemm = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    f32,
    *const f32,
    c_int,
    *const f32,
    c_int,
    f32,
    *mut f32,
    c_int,
);

/// The library, with as many threads as was asked for.
pub struct OpenBlas {
    library: Library,
    /// Its version and the kernels that it chose.
    pub version: String,
}

impl OpenBlas {
    /// Loads it.
    ///
    /// # Errors
    /// It is not installed, or lacks a function.
    pub fn load(threads: usize) -> Result<Self, Box<dyn Error>> {
        // SAFETY: OpenBLAS does nothing at loading but look at the processor and start threads.
        let loaded = PLACES.into_iter().find_map(|place| unsafe { Library::new(place) }.ok());
        let library = loaded.ok_or("OpenBLAS was not found: apt-get install libopenblas0-pthread")?;
        // SAFETY: the functions have these types (cblas.h), and the texts live as long as the library.
        let version = unsafe {
            library.get::<unsafe extern "C" fn(c_int)>(b"openblas_set_num_threads\0")?(threads as c_int);
            let config = library.get::<unsafe extern "C" fn() -> *const c_char>(b"openblas_get_config\0")?();
            CStr::from_ptr(config).to_string_lossy().trim().to_owned()
        };
        Ok(Self { library, version })
    }

    /// C\[m, n\] = A\[m, k\] · B\[n, k\]ᵀ
    ///
    /// # Errors
    /// The library lacks the function.
    pub fn product(&self, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) -> Result<(), Box<dyn Error>> {
        assert!(a.len() >= m * k && b.len() >= n * k && out.len() >= m * n);
        let [m, n, k] = [m, n, k].map(|side| side as c_int);
        // SAFETY: the function has this type, and the matrices are as long as their shapes say.
        unsafe {
            let sgemm = self.library.get::<Sgemm>(b"cblas_sgemm\0")?;
            let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
            sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, m, n, k, 1.0, a, k, b, k, 0.0, out, n);
        }
        Ok(())
    }
}
