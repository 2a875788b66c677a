//! Batches over a device that takes its time, and what people ask of them meanwhile.

use std::time::Duration;

use bildkante_shared::shutdown::{self, ShutdownTrigger};
use bildkante_shared::testing::eventually;

use super::record::testing::record;
use super::stored::Changed;
use super::*;
use crate::config::Config;
use crate::governance::{Downstream, Replay, ReviewMetrics};
use crate::shared_state::StateConfig;
use crate::warm::tests::Bench as WarmBench;
use crate::words::Epoch;

struct Bench {
    desk: BatchDesk,
    /// Its node takes what it is asked and never draws it: batches stay under way.
    _warm: WarmBench,
    _trigger: ShutdownTrigger,
}

impl Bench {
    /// With the batches of an earlier process.
    async fn start(earlier: &[BatchRecord]) -> Self {
        let warm = WarmBench::start(Duration::from_secs(60)).await;
        let (registry, epoch, folder) = (Registry::new(), Epoch::default(), warm.folder.path());
        let log = StateConfig::default().open(&folder.join("state.redb"), epoch.clone()).unwrap().log;
        let downstream = Downstream::new(&Config::default().purge, warm.purges.clone(), warm.catalog.clone()).unwrap();
        let known = (warm.catalog.clone(), warm.bindings.clone());
        let replay = Replay::new(Arc::clone(&log), warm.purges.clone(), downstream, known, epoch);
        let metrics = ReviewMetrics::new(&registry).unwrap();
        let parts = BatchParts {
            warmer: warm.warmer.clone(),
            reviews: ReviewDesk::new(log, replay, warm.catalog.clone(), Duration::from_secs(1), metrics),
            catalog: warm.catalog.clone(),
            bindings: warm.bindings.clone(),
            price: None,
            metrics: BatchMetrics::new(&registry).unwrap(),
        };
        {
            let stored = StoredBatches::open(folder).unwrap();
            for record in earlier {
                let chunks = vec![(0, vec![Item::waiting(PICTURE, None)])];
                stored.put(&Changed { record: record.clone(), chunks }).unwrap();
            }
        }
        let (trigger, ends) = shutdown::channel();
        let desk = BatchDesk::open(folder, parts, ends).unwrap();
        Self { desk, _warm: warm, _trigger: trigger }
    }

    fn on_the_device(&self) -> Vec<u64> {
        self.desk.inner.stored.all().unwrap().into_iter().map(|record| record.id).collect()
    }

    /// Starts a batch while the device takes nothing; the batch, once it is known.
    async fn begin(&self) -> (tokio::task::JoinHandle<Result<BatchStatus, BatchError>>, u64) {
        let (desk, before) = (self.desk.clone(), self.desk.all().len());
        let beginning = tokio::spawn(async move { desk.start("tests", order(), None).await });
        eventually("it is known", async || self.desk.all().len() > before).await;
        (beginning, self.desk.all()[0].record.id)
    }
}

const PICTURE: &str = "studio/thumb?product=mug";

fn order() -> BatchOrder {
    BatchOrder {
        source: Source::List,
        selected: Selected { items: vec![Item::waiting(PICTURE, None)], rows: 1, campaigns: ["studio".into()].into() },
        terms: Terms { formats: Vec::new(), concurrency: 1 },
        why: String::new(),
        digest: Digest::of_bytes(b"order"),
    }
}

/// Until a batch is on the device it has not begun, and does not say so; what people ask meanwhile comes behind that.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_comes_while_a_batch_begins_is_kept() {
    let bench = Bench::start(&[]).await;
    let held = bench.desk.inner.stored.hold();
    let (beginning, id) = bench.begin().await;
    assert!(!bench.desk.one(id).unwrap().is_stored);
    let desk = bench.desk.clone();
    let mut pausing = tokio::spawn(async move { desk.ask("tests", id, Ask::Pause, None).await });
    let early = tokio::time::timeout(Duration::from_millis(100), &mut pausing).await;
    assert!(early.is_err(), "nothing has begun that could be paused: {early:?}");
    drop(held);
    assert!(beginning.await.unwrap().unwrap().is_stored);
    assert_eq!(pausing.await.unwrap().unwrap().record.state, BatchState::Paused);
    assert_eq!(bench.desk.one(id).unwrap().record.state, BatchState::Paused);
}

/// The oldest that has ended goes, and not before the new one is on the device.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_has_ended_makes_room_for_one_that_is_stored() {
    let ended = (1..=BATCHES_MAX as u64).map(|id| BatchRecord { state: BatchState::Done, ..record(id, 1) });
    let bench = Bench::start(&ended.collect::<Vec<_>>()).await;
    let held = bench.desk.inner.stored.hold();
    let (beginning, id) = bench.begin().await;
    assert!(bench.desk.one(1).is_some(), "the new one may be refused yet");
    drop(held);
    beginning.await.unwrap().unwrap();
    assert_eq!((bench.desk.one(1), bench.desk.all().len()), (None, BATCHES_MAX));
    eventually("it is off the device", async || !bench.on_the_device().contains(&1)).await;
    assert!(bench.on_the_device().contains(&id) && bench.on_the_device().contains(&2));

    // One that is about to be tried again stays, and the next one goes.
    let held = bench.desk.inner.stored.hold();
    let desk = bench.desk.clone();
    let retrying = tokio::spawn(async move { desk.ask("tests", 2, Ask::Retry, None).await });
    eventually("it is taken up", async || bench.desk.one(2).unwrap().record.state.is_active()).await;
    let (beginning, _) = bench.begin().await;
    drop(held);
    beginning.await.unwrap().unwrap();
    assert_eq!(retrying.await.unwrap().unwrap().record.id, 2);
    assert!(bench.desk.one(2).is_some() && bench.desk.one(3).is_none());
}

/// The same key with another thing asked is no repetition.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_what_was_asked_with_it() {
    let bench = Bench::start(&[]).await;
    let key = |key: &str| Some(key.to_owned());
    let id = bench.desk.start("tests", order(), key("begin")).await.unwrap().record.id;
    let ask = async |ask, key| bench.desk.ask("tests", id, ask, key).await.map(|status| status.record.state);
    assert_eq!(ask(Ask::Pause, key("begin")).await, Err(BatchError::KeyReused(id)));
    assert_eq!(ask(Ask::Pause, key("pause")).await, Ok(BatchState::Paused));
    assert_eq!(ask(Ask::Resume, key("pause")).await, Err(BatchError::KeyReused(id)));
    assert!(ask(Ask::Resume, key("resume")).await.unwrap().is_active());
    assert!(ask(Ask::Pause, key("pause")).await.unwrap().is_active(), "it was paused by this one before");
    let begun = |key| bench.desk.start("tests", order(), key);
    assert_eq!(begun(key("begin")).await.unwrap().record.id, id);
    assert_eq!(begun(key("resume")).await.unwrap_err(), BatchError::KeyReused(id));
}

/// A write that was under way when its batch was forgotten does not bring it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_batch_is_written_no_more() {
    let bench = Bench::start(&[BatchRecord { state: BatchState::Done, ..record(1, 1) }]).await;
    let inner = &bench.desk.inner;
    let batch = inner.batches.lock()[&1].clone();
    let one = batch.writing.lock().await;
    let writing = {
        let (inner, batch) = (Arc::clone(inner), Arc::clone(&batch));
        tokio::spawn(async move { inner.write_once(&batch).await })
    };
    inner.batches.lock().remove(&1);
    drop(one);
    assert_eq!(writing.await.unwrap().unwrap(), keep::Write::Forgotten);
    forget(Arc::clone(&inner.stored), batch).await;
    assert!(bench.on_the_device().is_empty());
}
