//! What the caches count. Handles are resolved once, so that counting on the hit path is one atomic add.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// How a look-up in one tier ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LookupOutcome {
    Hit,
    /// Not there.
    Absent,
    /// There, but its checksum or its key was wrong; it has been set aside.
    Corrupt,
    /// The device answered with an error or not in time.
    Failed,
    /// The device failed often enough to be left alone for a while.
    Offline,
    /// Too much I/O is waiting already.
    Busy,
}

impl LookupOutcome {
    pub const ALL: [Self; 6] = [Self::Hit, Self::Absent, Self::Corrupt, Self::Failed, Self::Offline, Self::Busy];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Absent => "absent",
            Self::Corrupt => "corrupt",
            Self::Failed => "failed",
            Self::Offline => "offline",
            Self::Busy => "busy",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// One tier's numbers.
#[derive(Debug)]
pub struct TierMetrics {
    bytes: IntGauge,
    entries: IntGauge,
    evictions: IntCounter,
    lookups: [IntCounter; LookupOutcome::ALL.len()],
}

impl TierMetrics {
    pub(super) fn looked_up(&self, outcome: LookupOutcome) {
        self.lookups[outcome.index()].inc();
    }

    pub(super) fn entered(&self, bytes: u64) {
        self.bytes.add(signed(bytes));
        self.entries.inc();
    }

    pub(super) fn left(&self, bytes: u64) {
        self.bytes.sub(signed(bytes));
        self.entries.dec();
    }

    pub(super) fn evicted(&self) {
        self.evictions.inc();
    }

    pub(super) fn set_entries(&self, entries: usize) {
        self.entries.set(signed(entries as u64));
    }

    #[must_use]
    pub fn bytes(&self) -> i64 {
        self.bytes.get()
    }

    #[must_use]
    pub fn entries(&self) -> i64 {
        self.entries.get()
    }

    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions.get()
    }

    #[must_use]
    pub fn lookups(&self, outcome: LookupOutcome) -> u64 {
        self.lookups[outcome.index()].get()
    }
}

/// Beyond its tier numbers, what a store on a device counts.
#[derive(Debug)]
pub struct StoreMetrics {
    pub tier: TierMetrics,
    pub(super) read_errors: IntCounter,
    pub(super) write_errors: IntCounter,
    pub(super) writes_dropped: IntCounter,
    pub(super) quarantined: IntCounter,
    pub(super) read_online: IntGauge,
    pub(super) write_online: IntGauge,
}

impl StoreMetrics {
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.read_errors.get() + self.write_errors.get()
    }

    #[must_use]
    pub fn quarantined(&self) -> u64 {
        self.quarantined.get()
    }
}

/// All that this module registers.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    pub memory: Arc<TierMetrics>,
    pub disk: Arc<StoreMetrics>,
    pub masters: Arc<StoreMetrics>,
    /// Masters whose pixels are in memory.
    pub decoded: Arc<TierMetrics>,
    /// Renditions, masters and bindings of the shared store; its size is not ours to count.
    pub object: Arc<StoreMetrics>,
    pub bindings: Arc<TierMetrics>,
    /// Manifests of this device and of the fleet.
    pub manifests: Arc<TierMetrics>,
    /// Fills under way.
    pub flights: IntGauge,
}

impl CacheMetrics {
    /// # Errors
    /// When a name is taken in `registry`.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let families = Families::new(registry)?;
        let flights = IntGauge::new("bildkante_edge_flights", "Fills under way, each for one key")?;
        registry.register(Box::new(flights.clone()))?;
        Ok(Self {
            memory: Arc::new(families.tier("memory")),
            disk: Arc::new(families.store("disk")),
            masters: Arc::new(families.store("masters")),
            decoded: Arc::new(families.tier("decoded")),
            object: Arc::new(families.store("object")),
            bindings: Arc::new(families.tier("bindings")),
            manifests: Arc::new(families.tier("manifests")),
            flights,
        })
    }
}

struct Families {
    bytes: IntGaugeVec,
    entries: IntGaugeVec,
    evictions: IntCounterVec,
    lookups: IntCounterVec,
    errors: IntCounterVec,
    dropped: IntCounterVec,
    quarantined: IntCounterVec,
    online: IntGaugeVec,
}

impl Families {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(format!("bildkante_edge_{name}"), help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            prometheus::Result::Ok(vec)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(format!("bildkante_edge_{name}"), help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            prometheus::Result::Ok(vec)
        };
        Ok(Self {
            bytes: gauge("cache_bytes", "Bytes held, overhead included", &["tier"])?,
            entries: gauge("cache_entries", "Entries held", &["tier"])?,
            evictions: counter("cache_evictions_total", "Entries put out for room", &["tier"])?,
            lookups: counter("cache_lookups_total", "Look-ups by how they ended", &["tier", "outcome"])?,
            errors: counter("cache_io_errors_total", "I/O errors and timeouts", &["tier", "operation"])?,
            dropped: counter("cache_writes_dropped_total", "Writes given up: queue full or tier offline", &["tier"])?,
            quarantined: counter("cache_quarantined_total", "Entries set aside as corrupt", &["tier"])?,
            online: gauge(
                "cache_online",
                "1 while the device or store is used, 0 in a cool-down",
                &["tier", "operation"],
            )?,
        })
    }

    fn tier(&self, name: &str) -> TierMetrics {
        TierMetrics {
            bytes: self.bytes.with_label_values(&[name]),
            entries: self.entries.with_label_values(&[name]),
            evictions: self.evictions.with_label_values(&[name]),
            lookups: LookupOutcome::ALL.map(|outcome| self.lookups.with_label_values(&[name, outcome.as_str()])),
        }
    }

    fn store(&self, name: &str) -> StoreMetrics {
        StoreMetrics {
            tier: self.tier(name),
            read_errors: self.errors.with_label_values(&[name, "read"]),
            write_errors: self.errors.with_label_values(&[name, "write"]),
            writes_dropped: self.dropped.with_label_values(&[name]),
            quarantined: self.quarantined.with_label_values(&[name]),
            read_online: self.online.with_label_values(&[name, "read"]),
            write_online: self.online.with_label_values(&[name, "write"]),
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_slot_and_name() {
        for (index, outcome) in LookupOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), index);
        }
        let names: std::collections::HashSet<_> = LookupOutcome::ALL.map(LookupOutcome::as_str).into();
        assert_eq!(names.len(), LookupOutcome::ALL.len());
    }

    #[test]
    fn names_follow_the_convention_and_register_once() {
        let registry = Registry::new();
        CacheMetrics::new(&registry).unwrap();
        assert!(CacheMetrics::new(&registry).is_err());
        for family in registry.gather() {
            assert!(family.name().starts_with("bildkante_edge_"), "{}", family.name());
        }
    }
}
