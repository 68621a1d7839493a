//! What the process and its machine use, under the names that dashboards know: those of Prometheus' client libraries
//! (`process_*`), of node_exporter (`node_pressure_*`) and of cAdvisor (`machine_*`, `container_spec_*`).
//!
//! Read from `/proc` and `/sys` when somebody asks. What this system does not tell is left out.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::time::{ClockId, clock_gettime};

/// Shows them.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut out = Out(&mut encoder);
        out.counter(
            "process_cpu_seconds",
            "User and system CPU time spent",
            Some(cpu_seconds()),
        )?;
        let memory = fs::read_to_string("/proc/self/status").ok();
        let memory = memory.as_deref().and_then(|text| kib(text, "VmRSS"));
        out.gauge("process_resident_memory_bytes", "Resident memory size", memory)?;
        let files = fs::read_dir("/proc/self/fd").ok();
        let files = files.map(|files| u64::try_from(files.count()).unwrap_or(u64::MAX));
        out.gauge("process_open_fds", "Open file descriptors", files)?;
        let cores = std::thread::available_parallelism().ok();
        let cores = cores.map(|n| u64::try_from(n.get()).unwrap_or(u64::MAX));
        out.gauge("machine_cpu_cores", "Logical CPU cores this process may use", cores)?;
        let machine = fs::read_to_string("/proc/meminfo").ok();
        let of_machine = |name| machine.as_deref().and_then(|text| kib(text, name));
        out.gauge("machine_memory_bytes", "Memory of the machine", of_machine("MemTotal"))?;
        let help = "Memory that can be had without swapping";
        out.gauge("machine_memory_available_bytes", help, of_machine("MemAvailable"))?;
        let help = "Memory limit of this process's control group";
        out.gauge("container_spec_memory_limit_bytes", help, group_limit())?;
        for (resource, name) in PRESSURES {
            let text = fs::read_to_string(format!("/proc/pressure/{resource}")).ok();
            let waited = text.as_deref().and_then(waited_seconds);
            out.counter(name, "Time in which some task waited for it", waited)?;
        }
        Ok(())
    }
}

/// Files of `/proc/pressure` and what node_exporter calls them.
const PRESSURES: [(&str, &str); 3] = [
    ("cpu", "node_pressure_cpu_waiting_seconds"),
    ("memory", "node_pressure_memory_waiting_seconds"),
    ("io", "node_pressure_io_waiting_seconds"),
];

struct Out<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Out<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, value: Option<f64>) -> Result<(), std::fmt::Error> {
        let Some(value) = value else { return Ok(()) };
        self.show(name, help, &ConstCounter::new(value))
    }
    fn gauge(&mut self, name: &str, help: &str, value: Option<u64>) -> Result<(), std::fmt::Error> {
        let Some(value) = value else { return Ok(()) };
        self.show(name, help, &ConstGauge::new(value))
    }
    fn show(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> Result<(), std::fmt::Error> {
        let encoder = self.0.encode_descriptor(name, help, None, metric.metric_type())?;
        metric.encode(encoder)
    }
}

fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let part = |n: i64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    part(spent.tv_sec) + part(spent.tv_nsec) / 1e9
}

/// Bytes of a line such as `VmRSS:   1234 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Seconds of a line such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=123456` (microseconds).
fn waited_seconds(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let us: f64 = line
        .split(' ')
        .find_map(|word| word.strip_prefix("total="))?
        .parse()
        .ok()?;
    Some(us / 1e6)
}

/// The tightest memory limit on the way from this process's control group to the root; none where no group has one.
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut tightest = None;
    loop {
        let limit = fs::read_to_string(format!("/sys/fs/cgroup/{path}/memory.max")).ok();
        let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
        tightest = [tightest, limit].into_iter().flatten().min();
        match path.rsplit_once('/') {
            Some((parent, _)) => path = parent,
            None if path.is_empty() => return tightest,
            None => path = "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_files_are_read_as_the_system_writes_them() {
        let status = "Name:\tnode\nVmHWM:\t    9000 kB\nVmRSS:\t    1234 kB\n";
        assert_eq!(kib(status, "VmRSS"), Some(1234 * 1024));
        assert_eq!((kib(status, "Vm"), kib("VmRSS: x kB", "VmRSS")), (None, None));
        let pressure = "some avg10=1.50 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 total=7\n";
        assert_eq!(waited_seconds(pressure), Some(2.5));
        assert_eq!(waited_seconds("full avg10=0.00 total=7"), None);
    }

    #[test]
    fn a_process_tells_its_time_memory_and_files_under_their_standard_names() {
        let mut metrics = super::super::Metrics::new();
        metrics.show_process();
        let text = metrics.encode();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "machine_cpu_cores",
            "machine_memory_bytes",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value: f64 = value
                .unwrap_or_else(|| panic!("{name} is missing: {text}"))
                .parse()
                .unwrap();
            assert!(value > 0.0, "{name}");
        }
    }
}
