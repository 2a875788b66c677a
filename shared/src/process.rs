//! Metrics of the process itself, under the names that Prometheus' client libraries agree on (`process_*`).
//!
//! Read from `/proc/self` (proc(5)) when they are asked for. What cannot be read is left out: a gauge that is wrong is
//! worse than one that is missing.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};

/// `USER_HZ`, the unit of times in `/proc/[pid]/stat`: 100 on every architecture we build for, whatever the kernel's own
/// tick is.
const TICKS_PER_S: f64 = 100.0;

/// What `/proc/self` says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Reading {
    cpu_s: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    threads: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
}

impl Reading {
    fn take() -> Self {
        let text = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        let descriptors = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        let mut reading = Self::of_status(&text("status"));
        reading.cpu_s = cpu_s(&text("stat"));
        reading.max_fds = max_fds(&text("limits"));
        // One of them is the folder that is being read.
        #[allow(clippy::cast_precision_loss)]
        let open_fds = descriptors.map(|count| count.saturating_sub(1) as f64);
        reading.open_fds = open_fds;
        reading
    }

    fn of_status(status: &str) -> Self {
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_ascii_whitespace().next()?.parse::<f64>().ok()
        };
        let kibibytes = |name: &str| number(name).map(|kib| kib * 1024.0);
        Self {
            resident_bytes: kibibytes("VmRSS"),
            virtual_bytes: kibibytes("VmSize"),
            threads: number("Threads"),
            ..Self::default()
        }
    }
}

/// User and system time: fields 14 and 15. The second field is the program's name in parentheses, with anything in it.
fn cpu_s(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_S)
}

/// The soft limit.
fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// What a gauge shows of a reading.
type Part = fn(&Reading) -> Option<f64>;

/// `process_*` of the running program.
#[derive(Debug)]
pub struct ProcessMetrics {
    cpu: Counter,
    start: Gauge,
    gauges: [(Gauge, Part); 5],
    descs: Vec<Desc>,
}

impl ProcessMetrics {
    /// Registers the collector. The process counts as started now.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(Self::new()?))
    }

    fn new() -> prometheus::Result<Self> {
        let cpu = Counter::new("process_cpu_seconds_total", "User and system CPU time spent, in seconds")?;
        let start = Gauge::new("process_start_time_seconds", "Start of the process, in seconds since 1970")?;
        start.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        let gauges: [(Gauge, Part); 5] = [
            (Gauge::new("process_resident_memory_bytes", "Resident memory in bytes")?, |read| read.resident_bytes),
            (Gauge::new("process_virtual_memory_bytes", "Virtual memory in bytes")?, |read| read.virtual_bytes),
            (Gauge::new("process_threads", "Threads of the process")?, |read| read.threads),
            (Gauge::new("process_open_fds", "Open file descriptors")?, |read| read.open_fds),
            (Gauge::new("process_max_fds", "Most file descriptors the process may open")?, |read| read.max_fds),
        ];
        let families = gauges.iter().flat_map(|(gauge, _)| gauge.desc());
        let descs = families.chain(cpu.desc()).chain(start.desc()).cloned().collect();
        Ok(Self { cpu, start, gauges, descs })
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let reading = Reading::take();
        let mut families = self.start.collect();
        if let Some(cpu_s) = reading.cpu_s {
            // Two scrapes at once may read in either order: a counter never falls.
            self.cpu.inc_by((cpu_s - self.cpu.get()).max(0.0));
            families.extend(self.cpu.collect());
        }
        for (gauge, value) in &self.gauges {
            if let Some(value) = value(&reading) {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    #[test]
    fn files_of_proc_are_read_whatever_the_program_is_called() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 1000 1 1";
        assert_eq!(cpu_s(stat), Some(3.0));
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(max_fds("Max open files  unlimited  unlimited  files"), None);
        let status = "Name:\tVmRSS\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t7\n";
        let reading = Reading::of_status(status);
        assert_eq!(
            (reading.resident_bytes, reading.virtual_bytes, reading.threads),
            (Some(1_048_576.0), Some(2_097_152.0), Some(7.0))
        );
        for text in ["", "42 (a", "42 (a) S", "VmRSS", "VmRSS: x", "Max open files"] {
            assert_eq!((cpu_s(text), max_fds(text)), (None, None));
            assert_eq!(Reading::of_status(text), Reading::default());
        }
    }

    #[test]
    fn a_running_process_shows_all_of_it() {
        let registry = Registry::new();
        ProcessMetrics::register(&registry).unwrap();
        let text = || {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        let value = |text: &str, name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .unwrap_or_else(|| panic!("{name}"));
            line.parse::<f64>().unwrap()
        };
        let before = text();
        for name in
            ["process_resident_memory_bytes", "process_virtual_memory_bytes", "process_threads", "process_max_fds"]
        {
            assert!(value(&before, name) >= 1.0, "{name}");
        }
        assert!(value(&before, "process_start_time_seconds") > 1.7e9);
        let files: Vec<_> = (0..5).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        // Tests beside this one open and close files of their own.
        assert!(value(&text(), "process_open_fds") >= files.len() as f64);
        assert!(value(&text(), "process_cpu_seconds_total") >= value(&before, "process_cpu_seconds_total"));
    }
}
