use bildkante_shared::ids::RecipeId;
use bildkante_shared::phash::PerceptualHash;

use super::*;
use crate::campaign::Parts;
use crate::shared_state::{Change, Drawn, EDGE_ITSELF, Primary, Proposal, Review, Step};
use crate::words::Epoch;

const DAY_MS: u64 = 86_400_000;

fn master(number: u8) -> MasterId {
    MasterId::from_raw([number; 16])
}

struct Rig {
    log: Arc<dyn Log>,
    pins: Pins,
    kept: Kept,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(keep_days: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log: Arc<dyn Log> = Arc::new(Primary::open(&dir.path().join("state.redb"), Epoch::default()).unwrap());
        let kept = Kept::new(log.published().clone());
        let metrics = PinMetrics::new(&Registry::new(), 1 << 30).unwrap();
        let size_of = Box::new(|master: MasterId| (master.as_bytes()[0] < 9).then_some(4_096));
        let pins = Pins::new(kept.clone(), Arc::clone(&log), size_of, keep_days, metrics);
        Self { log, pins, kept, _dir: dir }
    }

    async fn step(&self, number: u8, step: Step) -> u64 {
        let (recipe, cut) = (RecipeId::from_raw([number; 16]), Some("1:1".to_owned()));
        let review = Review { variant: "a/b?c=d".to_owned(), recipe, master: master(number), cut, step };
        let (change, who, why) = (Change::Review(review), EDGE_ITSELF.to_owned(), "a test".to_owned());
        self.log.propose(Proposal { change, who, why, key: None, edge: None }).await.unwrap().entry.seq()
    }

    async fn submitted(&self, number: u8) -> u64 {
        let (phash, parts) = (PerceptualHash::from_bytes([0; 32]), Parts::default());
        let (node, determinism) = ("test".to_owned(), None);
        let drawn =
            Drawn { width_px: 8, height_px: 8, phash, node, drawn_unix_s: None, determinism, seed: None, parts };
        self.step(number, Step::Submit { drawn: Box::new(drawn), gates: Vec::new() }).await
    }

    async fn approved(&self, number: u8, until_unix_ms: Option<u64>) -> u64 {
        let seen = self.submitted(number).await;
        self.step(number, Step::Approve { approvers: 1, from_unix_ms: None, until_unix_ms, seen }).await
    }

    fn counts(&self) -> [i64; 3] {
        Why::KEPT.map(|why| self.pins.metrics.masters.with_label_values(&[why.as_str()]).get())
    }
}

fn now() -> u64 {
    unix_ms(SystemTime::now())
}

#[tokio::test]
async fn what_is_over_for_long_enough_may_go_and_nothing_else() {
    let mut rig = Rig::new(90);
    let ends = now() + 60_000;
    rig.approved(1, Some(ends)).await;
    rig.approved(2, None).await;
    rig.approved(3, None).await;
    rig.submitted(4).await;
    // Not on this edge: it has no bytes here.
    rig.submitted(9).await;
    rig.pins.look(now()).await;
    assert_eq!(rig.counts(), [1, 1, 2], "three is live, four awaits, and two is over, one will be");
    let bytes = rig.pins.metrics.bytes.with_label_values(&["decided"]).get();
    assert_eq!(bytes, 2 * 4_096);
    assert!((1..=4).all(|number| rig.kept.keeps(master(number))));

    rig.pins.look(now() + 89 * DAY_MS).await;
    assert!((1..=4).all(|number| rig.kept.keeps(master(number))), "not yet");
    rig.pins.look(now() + 91 * DAY_MS).await;
    assert_eq!(rig.counts(), [1, 1, 0]);
    let kept: Vec<bool> = (1..=4).map(|number| rig.kept.keeps(master(number))).collect();
    assert_eq!(kept, [false, false, true, true]);
    assert!(rig.kept.keeps(master(9)));

    // A decision makes all of them kept until they are looked at anew.
    let case = rig.log.published().state().reviews().of("a/b?c=d")[1].seen;
    let approve = Step::Approve { approvers: 1, from_unix_ms: None, until_unix_ms: None, seen: case };
    rig.step(2, approve).await;
    assert!(rig.kept.keeps(master(1)) && rig.kept.keeps(master(2)));
    rig.pins.look(now() + 91 * DAY_MS).await;
    let kept: Vec<bool> = (1..=4).map(|number| rig.kept.keeps(master(number))).collect();
    assert_eq!(kept, [false, true, false, true], "two is live again, and three over");
}

#[tokio::test]
async fn for_ever_is_for_ever() {
    let mut rig = Rig::new(0);
    rig.approved(1, None).await;
    rig.approved(2, None).await;
    rig.pins.look(now() + 10_000 * DAY_MS).await;
    assert_eq!(rig.counts(), [1, 0, 1]);
    assert!(rig.kept.keeps(master(1)));
}
