//! Graphics devices: what there is, which one to take, and what can go wrong.
//!
//! A device that is opened has been granted the adapter's own limits. Nothing
//! here says that it computes right: that is for [`crate::admission`].

use crate::gpu::compile::Compiled;
use crate::gpu::pace::Pace;
use crate::gpu::tiling::LANES_MIN;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Storage buffers that one kernel binds at most, the flags among them.
const STORAGE_BUFFERS: u32 = 6;
/// What kernels must be able to bind at once.
const BINDING_BYTES_MIN: u64 = 1 << 16;
/// Invocations of the largest workgroup.
const INVOCATIONS: u32 = 256;

/// Why a device cannot be used, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No adapter fits what was asked for.
    #[error("no {wanted} was found{}; install its Vulkan driver, choose another device, or use the native CPU", found_suffix(.found))]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The names of the adapters that there are.
        found: Vec<String>,
    },
    /// The adapter cannot grant what the kernels need.
    #[error("{device}: {limit} is {found}, but the kernels need {needed}; use the native CPU")]
    Limit {
        /// The adapter's name.
        device: String,
        /// Which limit, as WebGPU names it.
        limit: &'static str,
        /// What the kernels need.
        needed: u64,
        /// What the adapter offers.
        found: u64,
    },
    /// The driver refused to open the adapter.
    #[error("{device} refused to open: {problem}; update its driver or use the native CPU")]
    Refused {
        /// The adapter's name.
        device: String,
        /// The driver's words.
        problem: String,
    },
    /// A tensor is larger than one binding may be.
    #[error("{tensor} takes {needed_bytes} bytes, but this device binds at most {limit_bytes} of it at once; {advice}")]
    Binding {
        /// Which tensor.
        tensor: &'static str,
        /// Its size.
        needed_bytes: u64,
        /// The device's limit.
        limit_bytes: u64,
        /// What to do about it.
        advice: String,
    },
    /// An axis is longer than the loops that this driver was found to run to their end.
    #[error(
        "{device} cuts loops short: {axis} has {length} elements, but only {limit} were found to be safe; choose a \
         smaller model or micro-batch, or the native CPU"
    )]
    Axis {
        /// The adapter's name.
        device: String,
        /// Which axis.
        axis: &'static str,
        /// Its length.
        length: usize,
        /// The longest that the device was found to manage.
        limit: usize,
    },
    /// The device's memory is exhausted.
    #[error(
        "out of device memory while allocating {needed_bytes} bytes for {tensor}; close other programs that use \
         the device, or choose a smaller model or micro-batch"
    )]
    OutOfMemory {
        /// Which tensor.
        tensor: &'static str,
        /// Its size.
        needed_bytes: u64,
    },
    /// The device has gone, with everything it held.
    #[error("the device was lost: {reason}; load the last state on another device or the native CPU")]
    Lost {
        /// The driver's words.
        reason: String,
    },
    /// The driver refused a kernel.
    #[error("the driver refused the kernel `{kernel}`: {problem}; update it or use the native CPU")]
    Kernel {
        /// The shader's name.
        kernel: &'static str,
        /// The driver's words.
        problem: String,
    },
    /// The device failed its known-answer tests.
    #[error("{device} does not compute the exact arithmetic: {problem}; use the native CPU")]
    NotAdmitted {
        /// The adapter's name.
        device: String,
        /// Which test failed, and how.
        problem: String,
    },
}

fn found_suffix(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!(" (only {})", found.join(", ")) }
}

/// What kind of machine an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A card with memory of its own.
    Discrete,
    /// A part of the processor's package.
    Integrated,
    /// A share of a host's device.
    Virtual,
    /// Something else.
    Other,
    /// A program on the CPU.
    Software,
}

/// A product of small matrices that a whole subgroup computes at once (WebGPU's
/// cooperative matrices, the tensor cores of some makers).
///
/// Kernels do not use them yet: wgpu offers none with operands of 8 bits. Those of
/// f16 with sums in f32 would do: digits are exact in f16, and so are sums of up to
/// 1,024 of their products in f32, in any order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixUnit {
    /// Rows of the left operand and of the sums.
    pub rows: u32,
    /// Columns of the right operand and of the sums.
    pub columns: u32,
    /// Terms of each sum.
    pub depth: u32,
    /// Type of the operands: `f16`, `f32`, `i32` or `u32`.
    pub operands: String,
    /// Type of the sums.
    pub sums: String,
}

/// One adapter of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// The adapter's name.
    pub name: String,
    /// What kind of machine it is.
    pub kind: DeviceKind,
    /// The driver's name and version.
    pub driver: String,
    /// Vulkan, Metal or Dx12.
    pub backend: String,
    /// Bytes of memory on the device, as far as its driver says.
    pub memory_bytes: Option<u64>,
    /// Bytes that one binding may have.
    pub binding_bytes_max: u64,
    /// Bytes that one buffer may have.
    pub buffer_bytes_max: u64,
    /// Bytes of memory that a workgroup shares.
    pub workgroup_bytes_max: u32,
    /// Invocations of a workgroup.
    pub workgroup_invocations_max: u32,
    /// Workgroups along one dimension.
    pub workgroups_max: u32,
    /// Products of small matrices that it offers; reports kept by earlier versions do not tell.
    #[serde(default)]
    pub matrix_units: Vec<MatrixUnit>,
    /// Why the kernels cannot run, if they cannot.
    pub unusable: Option<String>,
}

impl DeviceReport {
    /// 32-bit words that one binding may have.
    pub(crate) fn binding_words_max(&self) -> usize {
        usize::try_from(self.binding_bytes_max / 4).unwrap_or(usize::MAX)
    }
}

/// Which device to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceChoice {
    /// The best real one: discrete, then integrated, then virtual.
    Hardware,
    /// A software adapter, which is only taken when asked for.
    Software,
    /// The first whose name contains this, whatever the case of letters.
    Named(String),
}

/// An open device.
#[derive(Clone)]
pub struct Device {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    report: DeviceReport,
    /// What it offers beyond what every device must.
    pub(crate) extras: Extras,
    lost: Arc<Mutex<Option<String>>>,
    activity: Arc<Counters>,
    /// How fast it has worked lately.
    pub(crate) pace: Arc<Pace>,
    /// Kernels that have been compiled.
    pub(crate) compiled: Arc<Compiled>,
    /// Memory of the last read-back, for the next.
    pub(crate) read_back: Arc<Mutex<Option<wgpu::Buffer>>>,
    /// Allocations up to one that fails; 0: none does.
    #[cfg(test)]
    pub(crate) allocations_left: Arc<AtomicU64>,
}

/// What only some devices offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extras {
    /// Lanes of a subgroup can pass values on, and there are at least eight of them.
    pub(crate) subgroups: bool,
    /// Passes can be timed on the device itself.
    pub(crate) timestamps: bool,
}

/// What a device has been asked for since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Submissions of commands.
    pub submissions: u64,
    /// Buffers, bind groups and pipelines made.
    pub resources: u64,
    /// Bytes of those buffers.
    pub buffer_bytes: u64,
}

#[derive(Default)]
struct Counters {
    submissions: AtomicU64,
    resources: AtomicU64,
    buffer_bytes: AtomicU64,
}

/// Waits for a future of wgpu, which on native platforms is ready or becomes so on another thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    // Neither validation layers nor debug names.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.sort_by_key(|adapter| report_of(adapter).kind);
    adapters
}

fn report_of(adapter: &wgpu::Adapter) -> DeviceReport {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
        wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
        wgpu::DeviceType::Cpu => DeviceKind::Software,
        wgpu::DeviceType::Other => DeviceKind::Other,
    };
    DeviceReport {
        unusable: check_limits(&info.name, &limits).err().map(|error| error.to_string()),
        name: info.name,
        kind,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        backend: format!("{:?}", info.backend),
        memory_bytes: memory_bytes(adapter),
        // Kernels count elements in 32 bits.
        binding_bytes_max: limits.max_storage_buffer_binding_size.min(u64::from(u32::MAX)),
        buffer_bytes_max: limits.max_buffer_size,
        workgroup_bytes_max: limits.max_compute_workgroup_storage_size,
        workgroup_invocations_max: limits.max_compute_invocations_per_workgroup,
        workgroups_max: limits.max_compute_workgroups_per_dimension,
        matrix_units: adapter.cooperative_matrix_properties().iter().map(matrix_unit).collect(),
    }
}

fn matrix_unit(unit: &wgpu::CooperativeMatrixProperties) -> MatrixUnit {
    let name = |of: wgpu::CooperativeScalarType| format!("{of:?}").to_lowercase();
    MatrixUnit {
        rows: unit.m_size,
        columns: unit.n_size,
        depth: unit.k_size,
        operands: name(unit.ab_type),
        sums: name(unit.cr_type),
    }
}

/// The device-local memory of all heaps, where the adapter is one of Vulkan: WebGPU itself does not tell.
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "windows"))]
    {
        // SAFETY: the handles are only read, and not kept beyond this call.
        let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
        let instance = adapter.shared_instance().raw_instance();
        // SAFETY: the physical device belongs to this instance, which `adapter` keeps alive.
        let memory = unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
        let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
        // Bit 0 is VK_MEMORY_HEAP_DEVICE_LOCAL_BIT.
        let local = heaps.iter().filter(|heap| heap.flags.as_raw() & 1 == 1);
        Some(local.map(|heap| heap.size).sum())
    }
    #[cfg(not(any(target_os = "linux", target_os = "windows")))]
    {
        let _ = adapter;
        None
    }
}

fn check_limits(device: &str, limits: &wgpu::Limits) -> Result<(), DeviceError> {
    let needs = [
        (
            "maxStorageBuffersPerShaderStage",
            u64::from(STORAGE_BUFFERS),
            limits.max_storage_buffers_per_shader_stage.into(),
        ),
        (
            "maxComputeInvocationsPerWorkgroup",
            u64::from(INVOCATIONS),
            limits.max_compute_invocations_per_workgroup.into(),
        ),
        ("maxComputeWorkgroupSizeX", u64::from(INVOCATIONS), limits.max_compute_workgroup_size_x.into()),
        ("maxComputeWorkgroupStorageSize", 16_384, limits.max_compute_workgroup_storage_size.into()),
        ("maxComputeWorkgroupsPerDimension", 65_535, limits.max_compute_workgroups_per_dimension.into()),
        ("maxStorageBufferBindingSize", BINDING_BYTES_MIN, limits.max_storage_buffer_binding_size),
        ("maxDynamicUniformBuffersPerPipelineLayout", 1, limits.max_dynamic_uniform_buffers_per_pipeline_layout.into()),
    ];
    for (limit, needed, found) in needs {
        if found < needed {
            return Err(DeviceError::Limit { device: device.to_owned(), limit, needed, found });
        }
    }
    Ok(())
}

/// All adapters of this machine, the best one first, software last.
pub fn list_devices() -> Vec<DeviceReport> {
    adapters().iter().map(report_of).collect()
}

impl DeviceChoice {
    fn fits(&self, report: &DeviceReport) -> bool {
        match self {
            Self::Hardware => report.kind != DeviceKind::Software && report.unusable.is_none(),
            Self::Software => report.kind == DeviceKind::Software,
            Self::Named(name) => report.name.to_lowercase().contains(&name.to_lowercase()),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Hardware => "usable graphics device".into(),
            Self::Software => "software graphics device".into(),
            Self::Named(name) => format!("graphics device named `{name}`"),
        }
    }
}

impl Device {
    /// Opens the device chosen.
    ///
    /// # Errors
    /// No adapter fits, its limits do not suffice, or its driver refuses.
    pub fn open(choice: &DeviceChoice) -> Result<Self, DeviceError> {
        let adapters = adapters();
        let adapter = adapters.iter().find(|adapter| choice.fits(&report_of(adapter))).ok_or_else(|| {
            let found = adapters.iter().map(|adapter| report_of(adapter).name).collect();
            DeviceError::NoAdapter { wanted: choice.describe(), found }
        })?;
        let report = report_of(adapter);
        check_limits(&report.name, &adapter.limits())?;
        let wanted = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        let features = adapter.features() & wanted;
        let extras = Extras {
            subgroups: features.contains(wgpu::Features::SUBGROUP) && adapter.get_info().subgroup_min_size >= LANES_MIN,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("manta"),
            required_features: features,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor))
            .map_err(|error| DeviceError::Refused { device: report.name.clone(), problem: error.to_string() })?;
        let lost = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, message| {
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{reason:?} {message}"));
        });
        // Errors outside of a scope are kept and reported by the next call instead of ending the program.
        let noted = Arc::clone(&lost);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.get_or_insert_with(|| error.to_string());
        }));
        let pace = Arc::new(Pace::new(report.kind));
        let (activity, compiled, read_back) = Default::default();
        Ok(Self {
            device,
            queue,
            report,
            extras,
            lost,
            activity,
            pace,
            compiled,
            read_back,
            #[cfg(test)]
            allocations_left: Arc::default(),
        })
    }

    /// The same device with a lower limit of what kernels bind at once.
    pub(crate) fn with_binding_limit(mut self, binding_bytes_max: u64) -> Result<Self, DeviceError> {
        let own = self.report.binding_bytes_max;
        if !(BINDING_BYTES_MIN..=own).contains(&binding_bytes_max) {
            let (device, limit) = (self.report.name, "maxStorageBufferBindingSize");
            return Err(DeviceError::Limit { device, limit, needed: binding_bytes_max, found: own });
        }
        self.report.binding_bytes_max = binding_bytes_max;
        Ok(self)
    }

    /// What has been asked of the device so far.
    pub fn activity(&self) -> Activity {
        Activity {
            submissions: self.activity.submissions.load(Ordering::Relaxed),
            resources: self.activity.resources.load(Ordering::Relaxed),
            buffer_bytes: self.activity.buffer_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn note_buffer(&self, bytes: u64) {
        self.note_resource();
        self.activity.buffer_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn note_submission(&self) {
        self.activity.submissions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_resource(&self) {
        self.activity.resources.fetch_add(1, Ordering::Relaxed);
    }

    /// What this device is.
    pub fn report(&self) -> &DeviceReport {
        &self.report
    }

    /// Gives the device up, with everything that engines hold on it: each of
    /// their calls fails with [`DeviceError::Lost`] from now on.
    pub fn destroy(&self) {
        self.device.destroy();
    }

    /// Fails if the device has been lost, or an operation on it has failed.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        match &*self.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Err(DeviceError::Lost { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

/// The software adapter, for unit tests; none if the environment says aloud to skip.
#[cfg(test)]
pub(crate) fn software_adapter() -> Option<Device> {
    match Device::open(&DeviceChoice::Software) {
        Ok(device) => Some(device),
        Err(error) if std::env::var("MANTA_TEST_SKIP").is_ok_and(|skip| skip.contains("gpu")) => {
            eprintln!("skipped as MANTA_TEST_SKIP asks: {error}");
            None
        }
        Err(error) => panic!("{error} (MANTA_TEST_SKIP=gpu skips this test)"),
    }
}
