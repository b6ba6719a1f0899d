//! Rule 0 of the exact arithmetic: nothing a driver does is taken on trust.
//!
//! A device is admitted after every kernel has given the bits of its native
//! twin on vectors that tell rounding, fusion, order of sums and flushing apart.

mod bench;
mod cases;
mod vectors;

#[cfg(test)]
mod tests;
