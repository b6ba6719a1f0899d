//! Memory of a device: allocation with typed errors, and copies in and out.

use crate::device::{Device, DeviceError, block_on};
use std::ops::Range;
use std::sync::PoisonError;
#[cfg(test)]
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;

/// Words between places at which every device lets a binding begin.
pub(crate) const WINDOW_STEP: usize = 64;
/// Bytes of the largest read-back whose memory is kept for the next one.
const READ_BACK_BYTES_KEPT: u64 = 16 << 20;

/// A tensor of 32-bit words on a device, or a window of one.
#[derive(Clone)]
pub(crate) struct Buffer {
    pub(crate) raw: wgpu::Buffer,
    /// The word of `raw` where it begins.
    pub(crate) first: usize,
    /// Length in words.
    pub(crate) len: usize,
    /// Words that a kernel can bind at once.
    pub(crate) window_max: usize,
}

impl Buffer {
    /// A window that holds the elements `range`, and where they begin in it.
    pub(crate) fn window(&self, range: Range<usize>) -> (Self, usize) {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} words", self.len);
        let start = (self.first + range.start) / WINDOW_STEP * WINDOW_STEP;
        let offset = self.first + range.start - start;
        let len = offset + range.len();
        (Self { raw: self.raw.clone(), first: start, len, window_max: self.window_max }, offset)
    }

    /// Elements of which every window that begins anywhere can be bound; a multiple of `step`.
    pub(crate) fn elements_max(&self, step: usize) -> usize {
        (self.window_max - WINDOW_STEP) / step * step
    }

    /// Whether the window that holds the elements `range` can be bound.
    pub(crate) fn binds(&self, range: &Range<usize>) -> bool {
        (self.first + range.start) % WINDOW_STEP + range.len() <= self.window_max
    }

    /// What a kernel binds.
    pub(crate) fn binding(&self) -> wgpu::BindingResource<'_> {
        assert!(self.len <= self.window_max, "{} words are bound at once", self.len);
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.raw,
            offset: 4 * self.first as u64,
            size: std::num::NonZeroU64::new(4 * self.len.max(1) as u64),
        })
    }
}

fn too_large(tensor: &'static str, needed_bytes: u64, limit_bytes: u64) -> DeviceError {
    let advice = "choose a smaller model or micro-batch, or the native CPU".into();
    DeviceError::Binding { tensor, needed_bytes, limit_bytes, advice }
}

/// Little-endian bytes of words.
fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The bits of floats.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Floats of bits.
pub(crate) fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&word| f32::from_bits(word)).collect()
}

impl Device {
    /// A zeroed tensor of `len` words (at least one), which kernels bind as a whole.
    pub(crate) fn allocate(&self, tensor: &'static str, len: usize) -> Result<Buffer, DeviceError> {
        let (needed_bytes, limit_bytes) = (4 * len.max(1) as u64, self.report().binding_bytes_max);
        if needed_bytes > limit_bytes {
            return Err(too_large(tensor, needed_bytes, limit_bytes));
        }
        self.allocate_large(tensor, len)
    }

    /// A zeroed tensor that may be larger than what kernels bind at once: they get windows of it.
    pub(crate) fn allocate_large(&self, tensor: &'static str, len: usize) -> Result<Buffer, DeviceError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let raw = self.allocate_raw(tensor, 4 * len.max(1) as u64, usage)?;
        Ok(Buffer { raw, first: 0, len, window_max: self.report().binding_words_max() })
    }

    /// A buffer of any use.
    pub(crate) fn allocate_raw(
        &self,
        tensor: &'static str,
        needed_bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let limit_bytes = self.report().buffer_bytes_max;
        if needed_bytes > limit_bytes {
            return Err(too_large(tensor, needed_bytes, limit_bytes));
        }
        self.check()?;
        #[cfg(test)]
        if self.allocations_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) == Ok(1) {
            return Err(DeviceError::OutOfMemory { tensor, needed_bytes });
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let descriptor = wgpu::BufferDescriptor { label: None, size: needed_bytes, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        match block_on(scope.pop()) {
            Some(_) => Err(DeviceError::OutOfMemory { tensor, needed_bytes }),
            None => {
                self.note_buffer(needed_bytes);
                Ok(buffer)
            }
        }
    }

    /// A tensor with this content.
    pub(crate) fn upload(&self, tensor: &'static str, words: &[u32]) -> Result<Buffer, DeviceError> {
        let buffer = self.allocate(tensor, words.len())?;
        self.write(&buffer, words);
        Ok(buffer)
    }

    /// Overwrites the first words of a tensor before the next submission.
    pub(crate) fn write(&self, buffer: &Buffer, words: &[u32]) {
        assert!(words.len() <= buffer.len, "{} words do not fit in {}", words.len(), buffer.len);
        self.queue.write_buffer(&buffer.raw, 4 * buffer.first as u64, &bytes_of(words));
    }

    /// Submits what is recorded.
    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.note_submission();
        self.queue.submit([encoder.finish()])
    }

    /// Waits for a submission, and frees what only it and earlier ones have held.
    pub(crate) fn wait_for(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), DeviceError> {
        let outcome = self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None });
        outcome.map_err(|error| self.check().err().unwrap_or(DeviceError::Lost { reason: error.to_string() }))?;
        self.check()
    }

    /// Memory for a read-back of so many bytes: that of an earlier one, if it is large enough.
    fn read_back_memory(&self, needed_bytes: u64) -> Result<wgpu::Buffer, DeviceError> {
        let kept = self.read_back.lock().unwrap_or_else(PoisonError::into_inner).take();
        match kept.filter(|memory| memory.size() >= needed_bytes) {
            Some(memory) => Ok(memory),
            None => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                self.allocate_raw("a read-back", needed_bytes, usage)
            }
        }
    }

    /// Submits what is recorded and reads the first `lens[i]` words of `buffers[i]` after it.
    pub(crate) fn submit_and_read(
        &self,
        encoder: wgpu::CommandEncoder,
        reads: &[(&Buffer, usize)],
    ) -> Result<Vec<Vec<u32>>, DeviceError> {
        assert!(reads.iter().all(|&(buffer, len)| len <= buffer.len));
        let reads: Vec<_> = reads.iter().map(|&(buffer, len)| (&buffer.raw, buffer.first, len)).collect();
        self.submit_and_read_raw(encoder, &reads)
    }

    /// Submits what is recorded and reads so many words from so many on of each buffer after it.
    pub(crate) fn submit_and_read_raw(
        &self,
        mut encoder: wgpu::CommandEncoder,
        reads: &[(&wgpu::Buffer, usize, usize)],
    ) -> Result<Vec<Vec<u32>>, DeviceError> {
        let total_bytes: u64 = reads.iter().map(|&(_, _, len)| 4 * len as u64).sum();
        let staging = self.read_back_memory(total_bytes.max(4))?;
        let mut offset_bytes = 0;
        for &(buffer, first, len) in reads.iter().filter(|read| read.2 > 0) {
            encoder.copy_buffer_to_buffer(buffer, 4 * first as u64, &staging, offset_bytes, 4 * len as u64);
            offset_bytes += 4 * len as u64;
        }
        self.submit(encoder);
        let (sender, receiver) = sync_channel(1);
        staging.map_async(wgpu::MapMode::Read, ..total_bytes.max(4), move |outcome| {
            // The receiver waits below; if it has gone, nobody wants the answer.
            let _ = sender.send(outcome);
        });
        let lost = |reason: String| self.check().err().unwrap_or(DeviceError::Lost { reason });
        self.collect_garbage()?;
        match receiver.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(lost(error.to_string())),
            Err(_) => return Err(lost("a read-back was dropped".into())),
        }
        self.check()?;
        let view = staging.get_mapped_range(..total_bytes.max(4)).map_err(|error| lost(error.to_string()))?;
        let words: Vec<u32> =
            view.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
        drop(view);
        staging.unmap();
        if staging.size() <= READ_BACK_BYTES_KEPT {
            *self.read_back.lock().unwrap_or_else(PoisonError::into_inner) = Some(staging);
        }
        let mut rest = words.as_slice();
        Ok(reads
            .iter()
            .map(|&(_, _, len)| {
                let (part, after) = rest.split_at(len);
                rest = after;
                part.to_vec()
            })
            .collect())
    }

    /// Waits for all work and frees what nobody holds any more.
    pub(crate) fn collect_garbage(&self) -> Result<(), DeviceError> {
        self.wait_for(None)
    }

    /// The content of a tensor.
    pub(crate) fn read(&self, buffer: &Buffer) -> Result<Vec<u32>, DeviceError> {
        let mut contents = self.submit_and_read(self.encoder(), &[(buffer, buffer.len)])?;
        Ok(contents.pop().unwrap_or_default())
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }
}
