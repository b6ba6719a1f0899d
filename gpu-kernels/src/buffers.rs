//! Memory of a device: allocation with typed errors, and copies in and out.

use crate::device::{Device, DeviceError, block_on};
use std::sync::mpsc::sync_channel;

/// A tensor of 32-bit words on a device.
#[derive(Clone)]
pub(crate) struct Buffer {
    pub(crate) raw: wgpu::Buffer,
    /// Length in words.
    pub(crate) len: usize,
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
    /// A zeroed tensor of `len` words (at least one).
    pub(crate) fn allocate(&self, tensor: &'static str, len: usize) -> Result<Buffer, DeviceError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let raw = self.allocate_raw(tensor, 4 * len.max(1) as u64, usage)?;
        Ok(Buffer { raw, len })
    }

    /// A buffer of any use.
    pub(crate) fn allocate_raw(
        &self,
        tensor: &'static str,
        needed_bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let limit_bytes = self.report().binding_bytes_max.min(self.report().buffer_bytes_max);
        if needed_bytes > limit_bytes {
            return Err(DeviceError::Binding { tensor, needed_bytes, limit_bytes });
        }
        self.check()?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let descriptor = wgpu::BufferDescriptor { label: None, size: needed_bytes, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        match block_on(scope.pop()) {
            Some(_) => Err(DeviceError::OutOfMemory { tensor, needed_bytes }),
            None => Ok(buffer),
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
        self.queue.write_buffer(&buffer.raw, 0, &bytes_of(words));
    }

    /// Submits what is recorded.
    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.queue.submit([encoder.finish()]);
    }

    /// Submits what is recorded and reads the first `lens[i]` words of `buffers[i]` after it.
    pub(crate) fn submit_and_read(
        &self,
        mut encoder: wgpu::CommandEncoder,
        reads: &[(&Buffer, usize)],
    ) -> Result<Vec<Vec<u32>>, DeviceError> {
        let total_bytes: u64 = reads.iter().map(|&(_, len)| 4 * len as u64).sum();
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.allocate_raw("a read-back", total_bytes.max(4), usage)?;
        let mut offset_bytes = 0;
        for &(buffer, len) in reads {
            assert!(len <= buffer.len);
            if len == 0 {
                continue;
            }
            encoder.copy_buffer_to_buffer(&buffer.raw, 0, &staging, offset_bytes, 4 * len as u64);
            offset_bytes += 4 * len as u64;
        }
        self.submit(encoder);
        let (sender, receiver) = sync_channel(1);
        staging.map_async(wgpu::MapMode::Read, .., move |outcome| {
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
        let view = staging.get_mapped_range(..).map_err(|error| lost(error.to_string()))?;
        let words: Vec<u32> =
            view.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
        drop(view);
        staging.unmap();
        let mut rest = words.as_slice();
        Ok(reads
            .iter()
            .map(|&(_, len)| {
                let (part, after) = rest.split_at(len);
                rest = after;
                part.to_vec()
            })
            .collect())
    }

    /// Waits for all work and frees what nobody holds any more.
    pub(crate) fn collect_garbage(&self) -> Result<(), DeviceError> {
        let outcome = self.device.poll(wgpu::PollType::wait_indefinitely());
        outcome.map_err(|error| self.check().err().unwrap_or(DeviceError::Lost { reason: error.to_string() }))?;
        self.check()
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
