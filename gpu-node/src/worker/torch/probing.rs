//! How many requests may share a pass: what is known, over restarts and for all devices, and what is still to be found out.
//!
//! A verdict holds for a [`ShapeKey`]: an environment (device, libraries, precision, threads), how the networks are built, the
//! shapes of the pass and the most requests it may have. Nothing else is in it, because nothing else chooses kernels. Verdicts
//! are kept in one file of the data folder, behind its digest; the longest unused of [`VERDICTS_MAX`] go.
//!
//! A class without a verdict is probed later, in passes of their own that others can go between; until then its requests run
//! alone ([`Promise`]).

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::Digest;
use bildkante_shared::log_limited;
use bildkante_shared::recipe::ValidRecipe;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::diffusion::batch::{BatchClass, Probe, Shapes};
use crate::diffusion::family::Conditioning;
use crate::diffusion::fields::read_text;

/// Verdicts that are kept.
const VERDICTS_MAX: usize = 4096;
/// Classes that wait to be probed; one more has to be asked for again.
const PENDING_MAX: usize = 64;
/// Largest file of verdicts. One takes about 400 bytes.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Of a digest as text: `blake3:` and 64 digits.
const DIGEST_CHARS: usize = 71;

/// What a verdict holds for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ShapeKey {
    pub(super) environment: String,
    pub(super) architecture: Digest,
    pub(super) class: BatchClass,
    pub(super) requests_max: usize,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Verdict {
    key: ShapeKey,
    shapes: Shapes,
}

#[derive(Debug)]
struct Known {
    shapes: Shapes,
    /// When it was last asked for, counted in questions.
    used: u64,
    /// Whether it is written down. What a full memory kept from being found out is not.
    is_kept: bool,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<ShapeKey, Known>,
    questions: u64,
}

/// The verdicts of all devices.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    state: Mutex<State>,
    path: Option<PathBuf>,
}

impl Verdicts {
    /// Keeps them in the file at `path`. A file that is not whole is forgotten: what it told is found out anew.
    pub(super) fn kept_in(path: PathBuf) -> Self {
        let verdicts = match read_text(&path, FILE_BYTES_MAX) {
            Ok(bytes) => parsed(&bytes).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "verdicts on shared passes are not whole: found out anew");
                Vec::new()
            }),
            // A first start.
            Err(_) => Vec::new(),
        };
        let mut state = State::default();
        for Verdict { key, shapes } in verdicts.into_iter().take(VERDICTS_MAX) {
            state.questions += 1;
            state.known.insert(key, Known { shapes, used: state.questions, is_kept: true });
        }
        Self { state: Mutex::new(state), path: Some(path) }
    }

    pub(super) fn get(&self, key: &ShapeKey) -> Option<Shapes> {
        let mut state = self.state.lock();
        state.questions += 1;
        let used = state.questions;
        let known = state.known.get_mut(key)?;
        known.used = used;
        Some(known.shapes.clone())
    }

    /// Takes a verdict in and writes all of them down. Failing costs the next start another probe.
    pub(super) fn put(&self, key: ShapeKey, shapes: Shapes) {
        let mut state = self.state.lock();
        state.insert(key, shapes, true);
        let Some(path) = &self.path else { return };
        let bytes = state.bytes();
        let digest = Digest::of_bytes(&bytes).to_string();
        if let Err(error) = durable::write(path, &[digest.as_bytes(), &bytes], Durability::Unsynced) {
            log_limited!(warn, path = %path.display(), %error, "verdicts on shared passes are not kept");
        }
    }

    /// Has requests of a class run alone for as long as the process lives.
    pub(super) fn give_up(&self, key: ShapeKey) {
        self.state.lock().insert(key, Shapes::alone(), false);
    }

    /// The classes that networks of an architecture were asked for in another environment and not in this one, the last one
    /// first.
    pub(super) fn classes_elsewhere(&self, architecture: Digest, environment: &str) -> Vec<BatchClass> {
        let state = self.state.lock();
        let known = state.known.iter().filter(|(key, _)| key.architecture == architecture);
        let (here, mut elsewhere): (Vec<_>, Vec<_>) = known.partition(|(key, _)| key.environment == environment);
        elsewhere.sort_by_key(|(_, known)| std::cmp::Reverse(known.used));
        let mut classes: Vec<BatchClass> = Vec::new();
        for (ShapeKey { class, .. }, _) in elsewhere {
            if !here.iter().any(|(key, _)| key.class == *class) && !classes.contains(class) {
                classes.push(class.clone());
            }
        }
        classes
    }
}

impl State {
    fn insert(&mut self, key: ShapeKey, shapes: Shapes, is_kept: bool) {
        self.questions += 1;
        self.known.insert(key, Known { shapes, used: self.questions, is_kept });
        while self.known.len() > VERDICTS_MAX
            && let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| key.clone())
        {
            self.known.remove(&oldest);
        }
    }

    /// All that are kept, the longest unused first.
    fn bytes(&self) -> Vec<u8> {
        let mut kept: Vec<_> = self.known.iter().filter(|(_, known)| known.is_kept).collect();
        kept.sort_by_key(|(_, known)| known.used);
        let kept = kept.into_iter().map(|(key, known)| Verdict { key: key.clone(), shapes: known.shapes.clone() });
        serde_json::to_vec(&kept.collect::<Vec<_>>()).unwrap_or_default()
    }
}

/// `None` where the file is not what was written, or holds what no probe finds.
fn parsed(bytes: &[u8]) -> Option<Vec<Verdict>> {
    let (digest, body) = bytes.split_at_checked(DIGEST_CHARS)?;
    let is_whole = Digest::of_bytes(body).to_string().as_bytes() == digest;
    let verdicts: Vec<Verdict> = is_whole.then(|| serde_json::from_slice(body).ok())??;
    verdicts.iter().all(|verdict| verdict.shapes.are_within(verdict.key.requests_max)).then_some(verdicts)
}

/// Within how many requests the bits of a drawing are promised.
///
/// All its passes are made either alone, or in the shapes of their verdicts. A drawing that began before all its classes were
/// probed is made alone; once verdicts say that this gives the same bits it goes on with others, else it stays alone to its
/// end. So its determinism class means the same bits whenever it was drawn.
#[derive(Debug)]
pub(super) struct Promise {
    classes: Vec<(ShapeKey, Option<Shapes>)>,
    is_alone: bool,
}

impl Promise {
    /// Of a drawing whose passes are of these classes, each with what is known of it.
    pub(super) fn new(classes: Vec<(ShapeKey, Option<Shapes>)>) -> Self {
        let is_alone = classes.iter().any(|(_, shapes)| shapes.is_none());
        Self { classes, is_alone }
    }

    /// Of a picture in parts: what later parts are like is not known when the first begins, and all have to be promised alike.
    pub(super) const fn alone() -> Self {
        Self { classes: Vec::new(), is_alone: true }
    }

    /// The classes that are not known yet.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &ShapeKey> {
        self.classes.iter().filter(|(_, shapes)| shapes.is_none()).map(|(key, _)| key)
    }

    /// Takes in what has been found out.
    pub(super) fn learn(&mut self, verdicts: &Verdicts) {
        for (key, shapes) in self.classes.iter_mut().filter(|(_, shapes)| shapes.is_none()) {
            *shapes = verdicts.get(key);
        }
        let is_one_held = |(_, shapes): &(_, Option<Shapes>)| shapes.as_ref().is_some_and(Shapes::hold_one);
        // A picture in parts has no classes, and stays alone.
        self.is_alone = self.is_alone && (self.classes.is_empty() || !self.classes.iter().all(is_one_held));
    }

    pub(super) const fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Of its passes of a class.
    pub(super) fn shapes(&self, class: &BatchClass) -> Shapes {
        let found = self.classes.iter().find(|(key, _)| !self.is_alone && key.class == *class);
        found.and_then(|(_, shapes)| shapes.clone()).unwrap_or_else(Shapes::alone)
    }

    /// The number of requests within which its bits are promised, of all its passes.
    pub(super) fn requests(&self) -> usize {
        let of_all = self.classes.iter().flat_map(|(_, shapes)| shapes).map(Shapes::canonical).max();
        if self.is_alone { 1 } else { of_all.unwrap_or(1) }
    }
}

/// A class to be probed.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) key: ShapeKey,
    /// Draws passes of the class.
    pub(super) recipe: Arc<ValidRecipe>,
    /// Whether a request has asked for it. Else it is foreseen, and waits until the device is idle.
    pub(super) is_wanted: bool,
}

/// What a device is to find out.
#[derive(Debug, Default)]
pub(super) struct Probing {
    pending: VecDeque<Pending>,
    current: Option<(Pending, Probe<Conditioning>)>,
}

impl Probing {
    /// Remembers a class, once.
    pub(super) fn ask(&mut self, pending: Pending) {
        let current = self.current.as_mut().map(|(current, _)| current);
        if let Some(known) = self.pending.iter_mut().chain(current).find(|known| known.key == pending.key) {
            known.is_wanted |= pending.is_wanted;
        } else if self.pending.len() < PENDING_MAX {
            self.pending.push_back(pending);
        }
    }

    /// What [`Self::take`] gives.
    pub(super) fn next(&self) -> Option<&Pending> {
        let current = self.current.as_ref().map(|(current, _)| current);
        current.or_else(|| self.pending.iter().find(|pending| pending.is_wanted)).or_else(|| self.pending.front())
    }

    /// The probe under way, or else the class that was asked for first.
    pub(super) fn take(&mut self) -> Option<(Pending, Option<Probe<Conditioning>>)> {
        if let Some((pending, probe)) = self.current.take() {
            return Some((pending, Some(probe)));
        }
        let at = self.pending.iter().position(|pending| pending.is_wanted).unwrap_or(0);
        self.pending.remove(at).map(|pending| (pending, None))
    }

    /// Drops the classes of a checkpoint whose networks leave the device. The next request asks for them again.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&ValidRecipe) -> bool) {
        self.pending.retain(|pending| !is_gone(&pending.recipe));
        self.current.take_if(|(pending, _)| is_gone(&pending.recipe));
    }

    pub(super) fn go_on(&mut self, pending: Pending, probe: Probe<Conditioning>) {
        self.current = Some((pending, probe));
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len() + usize::from(self.current.is_some())
    }
}

#[cfg(test)]
mod tests {
    use bildkante_shared::recipe::Recipe;

    use super::*;

    fn key(environment: &str, height: i64) -> ShapeKey {
        let class = serde_json::json!({ "stage": "base", "latents": [2, 4, height, 8], "tokens": 77, "controls": [] });
        ShapeKey {
            environment: environment.into(),
            architecture: Digest::of_bytes(b"an architecture"),
            class: serde_json::from_value(class).expect("a class"),
            requests_max: 4,
        }
    }

    fn shapes(numbers: &[usize]) -> Shapes {
        serde_json::from_value(serde_json::json!(numbers)).expect("shapes")
    }

    #[test]
    fn verdicts_outlive_a_restart_and_a_damaged_file_is_found_out_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("shapes.json");
        let verdicts = Verdicts::kept_in(path.clone());
        verdicts.put(key("cpu", 8), shapes(&[1, 4]));
        verdicts.put(key("cuda", 16), shapes(&[4]));
        verdicts.give_up(key("cpu", 16));
        assert_eq!(verdicts.get(&key("cpu", 16)), Some(Shapes::alone()));
        let again = Verdicts::kept_in(path.clone());
        assert_eq!(again.get(&key("cpu", 8)), Some(shapes(&[1, 4])));
        assert_eq!(again.get(&key("cpu", 16)), None, "found on another device, and here given up");
        let elsewhere = |environment| again.classes_elsewhere(Digest::of_bytes(b"an architecture"), environment);
        assert_eq!(elsewhere("cpu"), [key("", 16).class]);
        assert_eq!(elsewhere("another"), [key("", 8).class, key("", 16).class]);
        let bytes = std::fs::read(&path).expect("readable");
        for damaged in [&bytes[..bytes.len() - 1], b"", b"blake3:"] {
            std::fs::write(&path, damaged).expect("written");
            assert_eq!(Verdicts::kept_in(path.clone()).get(&key("cpu", 8)), None);
        }
        // Whole, and of a hand that wrote what no probe finds.
        let body = String::from_utf8_lossy(&bytes[DIGEST_CHARS..]).replace("[1,4]", "[1,400]");
        let digest = Digest::of_bytes(body.as_bytes()).to_string();
        std::fs::write(&path, digest + &body).expect("written");
        assert_eq!(Verdicts::kept_in(path).get(&key("cpu", 8)), None);
    }

    #[test]
    fn the_longest_unused_verdict_makes_room() {
        let verdicts = Verdicts::default();
        let sides = i64::try_from(VERDICTS_MAX).expect("small");
        (1..=sides).for_each(|side| verdicts.put(key("cpu", side), Shapes::alone()));
        assert!(verdicts.get(&key("cpu", 1)).is_some(), "used just now");
        verdicts.put(key("cpu", sides + 1), Shapes::alone());
        assert!(verdicts.get(&key("cpu", 1)).is_some() && verdicts.get(&key("cpu", 3)).is_some());
        assert_eq!(verdicts.get(&key("cpu", 2)), None);
    }

    #[test]
    fn a_drawing_that_began_alone_joins_others_only_where_that_changes_no_bit() {
        let (one, other) = (key("cpu", 8), key("cpu", 16));
        let begun = || Promise::new(vec![(one.clone(), None), (other.clone(), Some(shapes(&[1, 4])))]);
        for (found, requests) in [(&[1, 2, 4][..], 4), (&[2, 4], 1)] {
            let (verdicts, mut promise) = (Verdicts::default(), begun());
            assert_eq!((promise.is_alone(), promise.requests()), (true, 1));
            assert_eq!(promise.shapes(&other.class), Shapes::alone(), "of a class that is known, too");
            verdicts.put(one.clone(), shapes(found));
            promise.learn(&verdicts);
            assert_eq!((promise.is_alone(), promise.requests()), (requests == 1, requests), "{found:?}");
        }
        // One that begins now is promised what the verdicts say.
        let promise = Promise::new(vec![(one.clone(), Some(shapes(&[2, 4])))]);
        assert_eq!((promise.shapes(&one.class).holding(1), promise.requests()), (2, 4));
    }

    #[test]
    fn what_requests_ask_for_is_probed_before_what_is_foreseen() {
        let recipe = Recipe::new(Digest::of_bytes(b"a checkpoint"), "a mug", (64, 64));
        let recipe = Arc::new(ValidRecipe::try_from(recipe).expect("valid"));
        let pending = |side, is_wanted| Pending { key: key("cpu", side), recipe: Arc::clone(&recipe), is_wanted };
        let mut probing = Probing::default();
        for (side, is_wanted) in [(8, false), (16, false), (24, true), (16, true), (24, false)] {
            probing.ask(pending(side, is_wanted));
        }
        assert_eq!(probing.len(), 3);
        let order = std::iter::from_fn(|| {
            let next = probing.next().map(|pending| pending.key.class.latents()[2]);
            assert_eq!(probing.take().map(|(pending, _)| pending.key.class.latents()[2]), next);
            next
        });
        assert_eq!(order.collect::<Vec<_>>(), [16, 24, 8]);
    }
}
