//! How long each dispatch of a program takes: by the device's own clock where it has one for
//! that, else by waiting for it.

use super::kernel::Kernel;
use super::program::Program;
use crate::device::{Device, DeviceError};
use std::time::{Duration, Instant};

/// Dispatches timed at once: every device allows 4,096 queries in a set.
const TIMED_AT_ONCE: usize = 1024;

impl Program {
    /// Runs all dispatches in their order, each by itself, and times them.
    pub(crate) fn time(&self, device: &Device) -> Result<Vec<(Kernel, Duration)>, DeviceError> {
        let mut times = Vec::with_capacity(self.steps.len());
        for first in (0..self.steps.len()).step_by(TIMED_AT_ONCE) {
            let range = first..(first + TIMED_AT_ONCE).min(self.steps.len());
            let taken = if device.extras.timestamps {
                self.time_on_device(device, range.clone())?
            } else {
                self.time_by_waiting(device, range.clone())?
            };
            times.extend(self.steps[range].iter().map(|step| step.kernel).zip(taken));
        }
        Ok(times)
    }

    fn time_on_device(&self, device: &Device, range: std::ops::Range<usize>) -> Result<Vec<Duration>, DeviceError> {
        let count = 2 * range.len() as u32;
        let queries = device.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = device.allocate_raw("timestamps", 8 * u64::from(count), usage)?;
        let mut encoder = device.encoder();
        for (number, step) in (0..).zip(&self.steps[range]) {
            let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(2 * number),
                end_of_pass_write_index: Some(2 * number + 1),
            });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            step.encode(&mut pass);
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        let words = device.submit_and_read_raw(encoder, &[(&resolved, 0, 2 * count as usize)])?;
        let ticks: Vec<u64> =
            words.concat().chunks_exact(2).map(|pair| u64::from(pair[1]) << 32 | u64::from(pair[0])).collect();
        let nanoseconds_per_tick = f64::from(device.queue.get_timestamp_period());
        let span =
            |pair: &[u64]| Duration::from_nanos((pair[1].saturating_sub(pair[0]) as f64 * nanoseconds_per_tick) as u64);
        Ok(ticks.chunks_exact(2).map(span).collect())
    }

    fn time_by_waiting(&self, device: &Device, range: std::ops::Range<usize>) -> Result<Vec<Duration>, DeviceError> {
        let mut times = Vec::with_capacity(range.len());
        for step in &self.steps[range] {
            let mut encoder = device.encoder();
            step.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
            device.collect_garbage()?;
            let start = Instant::now();
            device.submit(encoder);
            device.collect_garbage()?;
            times.push(start.elapsed());
        }
        Ok(times)
    }
}
