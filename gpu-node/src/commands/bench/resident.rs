//! The memory of this process as Linux counts it: high-water marks, stage by stage.
//!
//! Linux keeps one mark for a process. [`Resident::peak_mib`] reads it and has it begin anew, so that each stage has its
//! own.

use std::fs;

use anyhow::Context;

/// Has the kernel forget the mark: `proc_pid_clear_refs(5)`.
const FORGET_PEAK: &str = "5";

/// The marks of a process.
#[derive(Debug, Default)]
pub(super) struct Resident {
    highest_mib: f64,
}

impl Resident {
    /// The most that was resident since this was last asked, or since the process began; `None` where the kernel keeps
    /// no marks for stages.
    ///
    /// # Errors
    /// When the kernel tells no mark.
    pub(super) fn peak_mib(&mut self) -> anyhow::Result<Option<f64>> {
        let peak_mib = high_water_mib()?;
        self.highest_mib = self.highest_mib.max(peak_mib);
        Ok(fs::write("/proc/self/clear_refs", FORGET_PEAK).is_ok().then_some(peak_mib))
    }

    /// The highest of all stages.
    ///
    /// # Errors
    /// When the kernel tells no mark.
    pub(super) fn highest_mib(&self) -> anyhow::Result<f64> {
        Ok(self.highest_mib.max(high_water_mib()?))
    }
}

fn high_water_mib() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmHWM")?;
    Ok((kib / 1024.0 * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_a_peak_of_its_own() {
        let mut resident = Resident::default();
        let Some(_) = resident.peak_mib().expect("a peak") else { return };
        let taken = std::hint::black_box(vec![1_u8; 512 << 20]);
        drop(taken);
        let large = resident.peak_mib().expect("a peak").expect("as before");
        let small = resident.peak_mib().expect("a peak").expect("as before");
        assert!(large > small + 256.0, "{large} MiB with 512 MiB taken, {small} MiB without");
        assert!(resident.highest_mib().expect("a peak") >= large, "the highest is kept");
    }
}
