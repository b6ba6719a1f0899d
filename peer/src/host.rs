//! What this machine is, as far as the operating system tells: the only module
//! with code for particular systems. Everything has a portable answer.

use std::path::Path;

/// Name of the processor, or its architecture where the system does not say.
pub(crate) fn processor_name() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Hardware threads that this process may use.
pub(crate) fn hardware_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Memory of the machine that can be had now, in bytes; 4 GiB where the system does not say.
pub(crate) fn available_memory_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    available.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(4 << 30, |kib| kib.saturating_mul(1024))
}

/// Free disk for ordinary users where `path` lies, in bytes; `None` where the system does not say.
pub(crate) fn free_disk_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let status = rustix::fs::statvfs(path).ok()?;
        Some(status.f_bavail.saturating_mul(status.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Keeps Mesa's layer that chooses among displays' devices from complaining on
/// standard error where there is no session of a display, as on a server. To be
/// called first of all, while there is one thread.
pub(crate) fn quiet_graphics_loader() {
    #[cfg(target_os = "linux")]
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() && std::env::var_os("NODEVICE_SELECT").is_none() {
        // SAFETY: no other thread runs yet that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Lets everything else go before the calling thread and the threads that it will
/// start, as far as the system has priorities of threads.
pub(crate) fn yield_to_others() {
    // On Linux the call is about one thread, elsewhere about the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the priority of a thread could not be lowered");
    }
}

/// A tenth of the weight of ordinary threads: enough for a small share under any load.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_of_everything() {
        assert!(!processor_name().is_empty());
        assert!(hardware_threads() >= 1);
        assert!(available_memory_bytes() > 1 << 20);
        assert!(free_disk_bytes(Path::new(".")).is_none_or(|bytes| bytes > 0));
        assert_eq!(free_disk_bytes(Path::new("/does/not/exist")), None);
    }
}
