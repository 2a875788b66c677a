//! Jobs over a device that hangs or refuses, and clients that hang up.

use std::sync::atomic::{AtomicUsize, Ordering};

use bildkante_shared::shutdown::{self, ShutdownTrigger};
use bildkante_shared::testing::{eventually, within};
use parking_lot::Condvar;
use prometheus::Registry;

use super::*;
use crate::budget::Budgets;
use crate::cache::{Bindings, CacheMetrics, Caches};
use crate::campaign::CampaignMetrics;
use crate::config::Config;
use crate::credentials::{SignerHandle, SignerMetrics};
use crate::decoding::DecoderCommand;
use crate::fill::{CredentialMetrics, Credentials, Ingredients};
use crate::governance::testing::sources;
use crate::governance::{Gate, PurgeMetrics, Purges};
use crate::origin::testing::{Behaviour, FakeNode};
use crate::origin::{Images, Imports, OriginMetrics, Origins, RegionConfig, Regions};
use crate::render::{DecodeMemory, RenderMetrics, RenderPool};
use crate::words::Epoch;
use crate::words::clock::Clock;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mood {
    #[default]
    Sound,
    Refuses,
    Hangs,
    Panics,
}

/// A device that writes, refuses, hangs or panics as it is told to. Cheap to clone.
#[derive(Default, Clone)]
struct Device(Arc<(Mutex<Mood>, Condvar, AtomicUsize)>);

impl Device {
    fn set(&self, mood: Mood) {
        *self.0.0.lock() = mood;
        self.0.1.notify_all();
    }

    fn tries(&self) -> usize {
        self.0.2.load(Ordering::SeqCst)
    }

    fn write(&self, record: &JobRecord, into: &StoredJobs) -> Result<(), StateError> {
        self.0.2.fetch_add(1, Ordering::SeqCst);
        let mut mood = self.0.0.lock();
        while *mood == Mood::Hangs {
            assert!(!self.0.1.wait_for(&mut mood, Duration::from_secs(120)).timed_out(), "left alone");
        }
        match *mood {
            Mood::Refuses => {
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
                Err(StateError::Write { row: "a warming", source })
            }
            Mood::Panics => panic!("as told"),
            _ => into.put(record),
        }
    }
}

/// An edge that warms, for tests of batches as well.
pub(crate) struct Bench {
    pub(crate) warmer: Warmer,
    pub(crate) catalog: CatalogHandle,
    pub(crate) bindings: Bindings,
    pub(crate) purges: Purges,
    pub(crate) folder: tempfile::TempDir,
    device: Device,
    /// Takes what it is asked and never draws it: jobs stay under way.
    _node: FakeNode,
    _trigger: ShutdownTrigger,
}

impl Bench {
    /// `wait` is how long answers wait for the device.
    pub(crate) async fn start(wait: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = FakeNode::start(Behaviour::Hang).await;
        let registry = Registry::new();
        let mut config = Config::default();
        config.cache.disk_dir = folder.path().join("cache");
        config.origin.regions = vec![RegionConfig { name: "near".into(), nodes: vec![node.url()] }];
        let caches = Caches::open(&config.cache, CacheMetrics::new(&registry).unwrap()).unwrap();
        let metrics = PurgeMetrics::new(&registry).unwrap();
        let purges = Purges::open(&config.purge, &folder.path().join("purges.redb"), metrics).unwrap();
        let regions = Arc::new(Regions::new(&config.origin, OriginMetrics::new(&registry).unwrap()).unwrap());
        let pool = RenderPool::start(&config.render, RenderMetrics::new(&registry).unwrap()).unwrap();
        let budgets = Budgets::new(&config.budget, &registry).unwrap();
        let pool = Arc::new(pool);
        let imports =
            Imports::new(folder.path(), Arc::clone(&pool), (DecodeMemory::default(), DecoderCommand::default()));
        let origin = Arc::new(Origins { regions, imports });
        let signers = SignerHandle::open(None, Clock::System, SignerMetrics::new(&registry).unwrap());
        let metrics = CredentialMetrics::new(&registry).unwrap();
        let bindings = caches.bindings.clone();
        let ingredients = Ingredients::new(folder.path().join("imports"), Images::default());
        let credentials =
            Credentials::new(signers, &caches, None, ingredients, 0.25, "http://127.0.0.1".to_owned(), metrics);
        let fill = Fill::new(
            Arc::new(caches),
            (purges.clone(), Gate::open()),
            origin,
            pool,
            budgets,
            credentials,
            config.fill(),
        );
        let catalog = CampaignMetrics::new(&registry).unwrap();
        let catalog = CatalogHandle::open(sources(), catalog, Epoch::default()).unwrap();
        let (trigger, ends) = shutdown::channel();
        let metrics = WarmMetrics::new(&registry).unwrap();
        let warmer = Warmer::open(&config.warm, folder.path(), (fill, None), catalog.clone(), metrics, ends).unwrap();
        let device = Device::default();
        let mut inner = Arc::into_inner(warmer.inner).unwrap();
        let (on, into) = (device.clone(), Arc::clone(&inner.stored));
        inner.writer = Box::new(move |record| on.write(record, &into));
        inner.store_wait = wait;
        let warmer = Warmer { inner: Arc::new(inner) };
        Self { warmer, catalog, bindings, purges, folder, device, _node: node, _trigger: trigger }
    }

    /// What a restart would find.
    fn on_the_device(&self) -> Vec<JobRecord> {
        self.warmer.inner.stored.all().unwrap()
    }

    fn is_stored(&self, id: u64) -> bool {
        self.warmer.job(id).unwrap().is_stored
    }
}

fn order() -> WarmOrder {
    WarmOrder {
        campaign: "studio".to_owned(),
        slot: None,
        axes: Vec::new(),
        formats: Vec::new(),
        concurrency: 1,
        why: String::new(),
    }
}

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

/// A client that is told of one job does not start a second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_device_refuses_is_acknowledged_as_one_and_stored_later() {
    let bench = Bench::start(LONG).await;
    for mood in [Mood::Refuses, Mood::Panics] {
        bench.device.set(mood);
        let job = bench.warmer.start("tests", order(), None).await.unwrap();
        let id = job.record.id;
        assert_eq!((job.record.state, job.is_stored), (JobState::Running, false), "{mood:?}");
        assert!(!bench.is_stored(id) && bench.on_the_device().iter().all(|job| job.id != id));
        bench.device.set(Mood::Sound);
        eventually("it is stored by itself", async || bench.is_stored(id)).await;
        assert!(bench.on_the_device().iter().any(|job| job.id == id && job.state == JobState::Running));
        // Its end is refused, too, and gets there.
        bench.device.set(mood);
        let job = bench.warmer.cancel("tests", id).await.unwrap();
        assert_eq!((job.record.state, job.is_stored), (JobState::Cancelled, false));
        bench.device.set(Mood::Sound);
        eventually("its end is stored by itself", async || bench.is_stored(id)).await;
        assert!(bench.on_the_device().iter().any(|job| job.id == id && job.state == JobState::Cancelled));
        let job = bench.warmer.resume("tests", id, None).await.unwrap();
        assert_eq!((job.record.state, job.is_stored), (JobState::Running, true));
        assert!(bench.on_the_device().iter().any(|job| job.id == id && job.state == JobState::Running));
        assert_eq!(bench.warmer.cancel("tests", id).await.unwrap().record.state, JobState::Cancelled);
    }
}

/// A repeated order is the job that it began, and goes on with it once; another one with its key is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_order_is_one_job() {
    let bench = Bench::start(LONG).await;
    let (once, again) = (Some("once".to_owned()), Some("again".to_owned()));
    let begun = |order, key: &Option<String>| {
        let (warmer, key) = (bench.warmer.clone(), key.clone());
        async move { warmer.start("tests", order, key).await }
    };
    let (first, second) = tokio::join!(begun(order(), &once), begun(order(), &once));
    let id = first.unwrap().record.id;
    assert_eq!(second.unwrap().record.id, id, "at once");
    let why = WarmOrder { why: "another reason".to_owned(), ..order() };
    assert_eq!(begun(why, &once).await.unwrap().record.id, id);
    let other = WarmOrder { formats: vec!["jpg".to_owned()], ..order() };
    assert_eq!(begun(other, &once).await.unwrap_err(), WarmError::KeyReused(id));
    bench.warmer.cancel("tests", id).await.unwrap();
    assert_eq!(begun(order(), &once).await.unwrap().record.state, JobState::Cancelled, "it is not begun anew");
    let resumed = bench.warmer.resume("tests", id, again.clone()).await.unwrap();
    assert_eq!(resumed.record.state, JobState::Running);
    bench.warmer.cancel("tests", id).await.unwrap();
    let resumed = bench.warmer.resume("tests", id, again.clone()).await.unwrap();
    assert_eq!(resumed.record.state, JobState::Cancelled, "the same order to go on");
    assert_eq!(bench.warmer.resume("tests", id + 1, again).await.unwrap_err(), WarmError::KeyReused(id));
    assert_eq!(bench.on_the_device().len(), 1);
    assert_eq!(bench.on_the_device()[0].keys, ["once", "again"]);
}

/// Nothing waits for a device that hangs for good, and a job ends that is told to.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_a_device_that_hangs() {
    let bench = Bench::start(SHORT).await;
    bench.device.set(Mood::Hangs);
    let job = within("the answer", bench.warmer.start("tests", order(), None)).await.unwrap();
    let id = job.record.id;
    assert!(!job.is_stored);
    eventually("it has ended", async || {
        let job = within("the answer", bench.warmer.cancel("tests", id)).await.unwrap();
        assert!(!job.is_stored);
        job.record.state == JobState::Cancelled
    })
    .await;
    let job = within("the answer", bench.warmer.resume("tests", id, None)).await.unwrap();
    assert_eq!((job.record.state, job.is_stored), (JobState::Running, false));
    assert!(bench.on_the_device().is_empty());
    bench.device.set(Mood::Sound);
    eventually("it is stored", async || bench.is_stored(id)).await;
    // What was written last is the last state, though the first write had begun with an older one.
    let states = || bench.on_the_device().iter().map(|job| job.state).collect::<Vec<_>>();
    assert_eq!(states(), [JobState::Running]);
    assert_eq!(bench.warmer.jobs().len(), 1);
}

/// A job may be forgotten while its end waits for the device: it leaves the device all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_forgotten_leaves_the_device_though_its_end_is_being_written() {
    let bench = Bench::start(Duration::from_millis(1)).await;
    let ended = async || {
        let id = bench.warmer.start("tests", order(), None).await.unwrap().record.id;
        let is_ended = async || bench.warmer.cancel("tests", id).await.unwrap().record.state == JobState::Cancelled;
        eventually("it has ended", is_ended).await;
        id
    };
    let first = bench.warmer.start("tests", order(), None).await.unwrap().record.id;
    eventually("it is on the device", async || bench.on_the_device().iter().any(|job| job.id == first)).await;
    bench.device.set(Mood::Hangs);
    let before = bench.device.tries();
    bench.warmer.cancel("tests", first).await.unwrap();
    eventually("its end is being written", async || bench.device.tries() > before).await;
    for _ in 0..JOBS_MAX {
        ended().await;
    }
    eventually("it is forgotten", async || bench.warmer.job(first).is_none()).await;
    bench.device.set(Mood::Sound);
    eventually("the others are stored, and it is not", async || {
        let stored = bench.on_the_device();
        stored.len() == JOBS_MAX && stored.iter().all(|job| job.id != first && job.state == JobState::Cancelled)
    })
    .await;
}

/// A client that hangs up while the device hangs: what it asked for is done, each time.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asked_for_before_it_hung_up_is_done() {
    let bench = Bench::start(LONG).await;
    bench.device.set(Mood::Hangs);
    let before = bench.device.tries();
    tokio::select! {
        job = bench.warmer.start("tests", order(), None) => panic!("the device hangs: {job:?}"),
        () = eventually("the device is asked", async || bench.device.tries() > before) => {}
    }
    let id = bench.warmer.jobs()[0].record.id;
    let is = |state| bench.warmer.job(id).unwrap().record.state == state;
    assert!(is(JobState::Running));
    tokio::select! {
        job = bench.warmer.cancel("tests", id) => panic!("the device hangs: {job:?}"),
        () = eventually("it ends", async || is(JobState::Cancelled)) => {}
    }
    tokio::select! {
        job = bench.warmer.resume("tests", id, None) => panic!("the device hangs: {job:?}"),
        () = eventually("it goes on", async || is(JobState::Running)) => {}
    }
    bench.device.set(Mood::Sound);
    eventually("it is stored", async || bench.is_stored(id)).await;
    assert_eq!(bench.on_the_device().iter().map(|job| job.state).collect::<Vec<_>>(), [JobState::Running]);
}
