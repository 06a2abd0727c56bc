//! The machine that measures.

use std::fs;

use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit, setrlimit};
use rustix::system::uname;

/// Processors, memory and kernel, in a line.
pub fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "processor".to_owned());
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or_default();
    let kernel = uname().release().to_string_lossy().into_owned();
    format!("{cpus} x {processor}, {:.1} GiB, Linux {kernel}", memory as f64 / 1024.0 / 1024.0)
}

/// Load average over the last minute; 0 when it cannot be read.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// Lets us have as many descriptors as the system gives, and with us whatever we start.
///
/// # Errors
/// When the system keeps the limit.
pub fn take_descriptors() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// Our scheduling priority, which everything that we start inherits.
pub fn nice() -> i32 {
    getpriority_process(None).unwrap_or_default()
}

/// The value of the first `key : value` line of a file.
fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
