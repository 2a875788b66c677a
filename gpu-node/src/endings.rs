//! Recipes over which a device was lost or the whole process ended: each is drawn alone once more, and then refused.
//!
//! While a device is at work, `endings/device-N.now` in the data folder names the recipes it is at: the pass under way, not
//! everything that has begun. What a start finds there was cut off by the end of the process; a lost device that is told
//! counts at once. Each such recipe has a file, `endings/{recipe id}.json`, with the number of endings: it outlives
//! restarts, a drawing that ends well removes it, and so may an operator, at any time.
//!
//! The marks are written without a sync: the operating system survives a process. They carry the machine's boot, because an end
//! by a power cut is no recipe's doing. A recipe with one ending shares no pass, so that the second one is its own. Nor does a
//! recipe of which a caller says that another node's device was lost to it in company.
//!
//! Endings are forgotten after a day: an operator who kills the process twice ends it over the same recipe, too.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::RecipeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::metrics::NodeMetrics;
use crate::store::now_unix_ms;

/// Endings after which a recipe is refused.
pub(crate) const ENDINGS_MAX: u32 = 2;
/// How long an ending counts: longer than a supervisor's restarts and an edge's memory. It is short enough that a recipe is
/// drawn again by itself after an operator, or another process's thirst for memory, killed the node twice over it.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;
/// Recipes remembered; the one that ended longest ago goes.
const RECIPES_MAX: usize = 1024;
/// Last line of a mark: a mark without it was not written to its end.
const END: &str = "end";
/// The extension of a former process's mark that is still to be counted.
const LEFT: &str = "left";

/// What is known of one recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ending {
    endings: u32,
    last_unix_ms: u64,
    reason: String,
    /// Whether there is a file, which an operator may remove.
    #[serde(skip)]
    is_stored: bool,
}

impl Ending {
    const fn counts(&self, now_unix_ms: u64) -> bool {
        now_unix_ms.saturating_sub(self.last_unix_ms) < REMEMBERED_MS
    }
}

/// Of all devices.
#[derive(Debug)]
pub struct Endings {
    folder: PathBuf,
    known: Mutex<BTreeMap<RecipeId, Ending>>,
    /// Recipes that callers ask to have drawn alone, and since when.
    suspects: Mutex<BTreeMap<RecipeId, u64>>,
    metrics: Arc<NodeMetrics>,
}

impl Endings {
    /// Reads the endings that are known and counts those of the recipes that the last process was drawing when it ended.
    /// Blocks.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(data_dir: &Path, metrics: Arc<NodeMetrics>) -> io::Result<Self> {
        let folder = data_dir.join("endings");
        fs::create_dir_all(&folder)?;
        let (now, mut known, mut marks) = (now_unix_ms(), BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match (path.extension().and_then(|extension| extension.to_str()), stem.parse()) {
                // Renamed, so that this process's marks do not overwrite it before it is counted durably.
                (Some("now"), _) => {
                    let mut names = (now..).map(|n| folder.join(format!("{stem}-{n}.{LEFT}")));
                    let Some(left) = names.find(|left| !left.exists()) else { continue };
                    fs::rename(&path, &left)?;
                    marks.push((left, true));
                }
                (Some(LEFT), _) => marks.push((path, false)),
                (Some("json"), Ok(recipe)) if path.is_file() => {
                    let ending = read(&path, now);
                    if ending.counts(now) {
                        known.insert(recipe, ending);
                    } else {
                        fs::remove_file(path)?;
                    }
                }
                _ => {}
            }
        }
        let endings = Self { folder, known: Mutex::new(known), suspects: Mutex::default(), metrics };
        for (path, is_new) in marks {
            let at = modified_unix_ms(&path).unwrap_or(now).min(now);
            let mut is_counted = true;
            for recipe in marked(&fs::read_to_string(&path).unwrap_or_default(), &boot()) {
                // A former start counted this recipe and could not count all of the mark.
                let is_known =
                    !is_new && endings.known.lock().get(&recipe).is_some_and(|ending| ending.last_unix_ms == at);
                if !is_known {
                    let (_, counted) = endings.count_at(recipe, "the process ended while it was drawn", at);
                    is_counted &= counted;
                }
            }
            if is_counted {
                fs::remove_file(path)?;
            }
        }
        endings.bound();
        Ok(endings)
    }

    /// The mark of a device.
    #[must_use]
    pub fn mark_of(&self, device: usize) -> Mark {
        let path = self.folder.join(format!("device-{device}.now"));
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
        let file = file.inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "what is being drawn is not written down");
        });
        Mark { file: file.ok(), boot: boot(), at: Vec::new() }
    }

    /// Counts an ending; returns the new number.
    pub fn add(&self, recipe: RecipeId, reason: &str) -> u32 {
        self.count_at(recipe, reason, now_unix_ms()).0
    }

    /// The new number of endings, and whether it survives a restart.
    fn count_at(&self, recipe: RecipeId, reason: &str, at_unix_ms: u64) -> (u32, bool) {
        let endings = self.count(recipe).saturating_add(1);
        tracing::error!(%recipe, endings, reason, "a device ended over this recipe");
        self.metrics.recipe_endings_total.inc();
        let reason = reason.chars().take(512).collect();
        let mut ending = Ending { endings, last_unix_ms: at_unix_ms, reason, is_stored: false };
        let json = serde_json::to_vec(&ending).unwrap_or_default();
        let stored = durable::write(&self.path(recipe), &[&json], Durability::Synced);
        if let Err(error) = &stored {
            tracing::error!(%recipe, %error, "an ending is not stored: a restart does not know it");
        }
        ending.is_stored = stored.is_ok();
        self.known.lock().insert(recipe, ending);
        self.bound();
        (endings, stored.is_ok())
    }

    /// Forgets those that ended longest ago, where there are too many.
    fn bound(&self) {
        let mut known = self.known.lock();
        while known.len() > RECIPES_MAX
            && let Some(oldest) = known.iter().min_by_key(|(_, ending)| ending.last_unix_ms).map(|(id, _)| *id)
        {
            known.remove(&oldest);
            let _ = fs::remove_file(self.path(oldest));
        }
    }

    /// How often a device has ended over a recipe of late; never over one whose file was removed.
    #[must_use]
    pub fn count(&self, recipe: RecipeId) -> u32 {
        let mut known = self.known.lock();
        let Some(ending) = known.get(&recipe) else { return 0 };
        let (endings, path) = (ending.endings, self.path(recipe));
        let counts = ending.counts(now_unix_ms());
        if counts && (!ending.is_stored || path.exists()) {
            return endings;
        }
        known.remove(&recipe);
        let _ = fs::remove_file(path);
        0
    }

    /// Has the recipe drawn alone until it has been drawn.
    pub fn suspect(&self, recipe: RecipeId) {
        let mut suspects = self.suspects.lock();
        suspects.insert(recipe, now_unix_ms());
        while suspects.len() > RECIPES_MAX
            && let Some(oldest) = suspects.iter().min_by_key(|(_, since)| **since).map(|(id, _)| *id)
        {
            suspects.remove(&oldest);
        }
    }

    /// Whether the recipe shares no pass, so that it is known over which recipe a device ends.
    #[must_use]
    pub fn is_suspect(&self, recipe: RecipeId) -> bool {
        self.suspects.lock().contains_key(&recipe) || self.count(recipe) > 0
    }

    /// The recipe was drawn: former endings were not its fault.
    pub fn forgive(&self, recipe: RecipeId) {
        self.suspects.lock().remove(&recipe);
        if self.known.lock().remove(&recipe).is_some() {
            let _ = fs::remove_file(self.path(recipe));
        }
    }

    fn path(&self, recipe: RecipeId) -> PathBuf {
        self.folder.join(format!("{recipe}.json"))
    }
}

/// A file that cannot be read counts as one ending: it was written because of one.
fn read(path: &Path, now_unix_ms: u64) -> Ending {
    let text = fs::read(path).unwrap_or_default();
    let ending = serde_json::from_slice(&text).unwrap_or_else(|_| Ending {
        endings: 1,
        last_unix_ms: modified_unix_ms(path).unwrap_or(now_unix_ms),
        reason: "unreadable".to_owned(),
        is_stored: true,
    });
    // A clock that was ahead makes no ending last longer.
    Ending { last_unix_ms: ending.last_unix_ms.min(now_unix_ms), is_stored: true, ..ending }
}

fn modified_unix_ms(path: &Path) -> Option<u64> {
    let since = fs::metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// The mark of one device.
#[derive(Debug)]
pub struct Mark {
    file: Option<File>,
    boot: String,
    at: Vec<RecipeId>,
}

impl Mark {
    /// Names the recipes that the device works on now: one short write, which the end of the process cannot cut in half.
    pub fn set(&mut self, recipes: Vec<RecipeId>) {
        if self.at == recipes {
            return;
        }
        self.at = recipes;
        let ids = self.at.iter().map(|recipe| format!("{recipe}\n")).collect::<String>();
        let text = format!("{}\n{ids}{END}\n", self.boot);
        if let Some(file) = &self.file
            && let Err(error) = file.write_all_at(text.as_bytes(), 0)
        {
            tracing::debug!(%error, "what is being drawn is not written down");
        }
    }

    /// The device works on no recipe.
    pub fn clear(&mut self) {
        self.set(Vec::new());
    }

    #[must_use]
    pub fn recipes(&self) -> &[RecipeId] {
        &self.at
    }
}

/// The recipes of a mark that was set since the machine was started. Bytes after its last line are of an older mark.
fn marked(text: &str, boot: &str) -> Vec<RecipeId> {
    let mut lines = text.lines();
    let is_whole = text.lines().any(|line| line == END);
    if lines.next() != Some(boot) || !is_whole {
        return Vec::new();
    }
    lines.take_while(|line| *line != END).filter_map(|line| line.parse().ok()).collect()
}

/// The id of the machine's present boot.
fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Endings {
        Endings::open(dir, Arc::new(NodeMetrics::new().unwrap())).unwrap()
    }

    fn recipe(n: u8) -> RecipeId {
        RecipeId::from_raw([n; 16])
    }

    #[test]
    fn what_a_device_was_at_when_the_process_ended_is_counted_and_remembered() {
        let dir = tempfile::tempdir().unwrap();
        for restart in 1..=3 {
            let endings = open(dir.path());
            assert_eq!((endings.count(recipe(1)), endings.count(recipe(2))), (restart - 1, 0), "restart {restart}");
            let mut mark = endings.mark_of(0);
            mark.set(vec![recipe(1), recipe(2), recipe(3)]);
            mark.set(vec![recipe(1)]);
            // No clearing: the process is killed here.
        }
        let endings = open(dir.path());
        let mut mark = endings.mark_of(0);
        mark.set(vec![recipe(4)]);
        mark.clear();
        let endings = open(dir.path());
        assert_eq!((endings.count(recipe(1)), endings.count(recipe(4))), (3, 0));
    }

    #[test]
    fn a_drawing_or_an_operator_clears_it() {
        let dir = tempfile::tempdir().unwrap();
        let endings = open(dir.path());
        assert_eq!(
            (endings.add(recipe(1), "lost"), endings.add(recipe(1), "lost"), endings.add(recipe(2), "lost")),
            (1, 2, 1)
        );
        endings.forgive(recipe(2));
        assert_eq!(open(dir.path()).count(recipe(2)), 0);
        fs::remove_file(endings.path(recipe(1))).unwrap();
        assert_eq!(endings.count(recipe(1)), 0, "without a restart");
        assert_eq!(open(dir.path()).count(recipe(1)), 0);
    }

    #[test]
    fn marks_of_another_boot_and_halves_of_marks_say_nothing() {
        let id = recipe(1);
        assert_eq!(marked(&format!("boot\n{id}\nend\n{id}\n"), "boot"), [id]);
        for nothing in [format!("other\n{id}\nend\n"), format!("boot\n{id}\n"), String::new(), "boot\nend\n".into()] {
            assert!(marked(&nothing, "boot").is_empty(), "{nothing}");
        }
    }

    #[test]
    fn the_number_of_recipes_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let endings = open(dir.path());
        let other = |n: usize| RecipeId::of_bytes(&n.to_le_bytes());
        (0..RECIPES_MAX + 3).for_each(|n| {
            let ending = Ending {
                endings: 1,
                last_unix_ms: now_unix_ms() - 10_000 + n as u64,
                reason: String::new(),
                is_stored: false,
            };
            endings.known.lock().insert(other(n), ending);
        });
        endings.add(recipe(1), "lost");
        assert_eq!(endings.known.lock().len(), RECIPES_MAX);
        assert_eq!(endings.count(recipe(1)), 1);
        // Files, too, however many a folder holds.
        for n in 0..RECIPES_MAX + 3 {
            fs::write(endings.path(other(n)), "{}").unwrap();
        }
        let endings = open(dir.path());
        let files = fs::read_dir(&endings.folder).unwrap().count();
        assert_eq!((endings.known.lock().len(), files), (RECIPES_MAX, RECIPES_MAX));
        (0..RECIPES_MAX + 3).for_each(|n| endings.suspect(other(n)));
        assert_eq!(endings.suspects.lock().len(), RECIPES_MAX);
    }

    #[test]
    fn endings_are_forgotten_after_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let endings = open(dir.path());
        endings.add(recipe(1), "lost");
        endings.add(recipe(2), "lost");
        let age = |endings: &Endings, id, age_ms| {
            let path = endings.path(id);
            let mut ending: Ending = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            ending.last_unix_ms -= age_ms;
            fs::write(&path, serde_json::to_vec(&ending).unwrap()).unwrap();
        };
        age(&endings, recipe(1), REMEMBERED_MS);
        age(&endings, recipe(2), REMEMBERED_MS / 2);
        let endings = open(dir.path());
        assert_eq!((endings.count(recipe(1)), endings.count(recipe(2))), (0, 1));
        assert!(!endings.path(recipe(1)).exists(), "its file is gone with it");
        // Without a restart.
        endings.known.lock().get_mut(&recipe(2)).unwrap().last_unix_ms -= REMEMBERED_MS;
        assert_eq!(endings.count(recipe(2)), 0);
        assert!(!endings.path(recipe(2)).exists());
    }

    #[test]
    fn a_mark_stays_until_it_is_counted_and_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).mark_of(0).set(vec![recipe(1), recipe(2)]);
        // A folder in the place of its file: the count cannot be stored.
        let blocked = dir.path().join("endings").join(format!("{}.json", recipe(1)));
        fs::create_dir_all(blocked.join("inside")).unwrap();
        for start in 1..=2 {
            let endings = open(dir.path());
            assert!(endings.count(recipe(1)) >= 1, "start {start}: known as long as the process lives");
            assert_eq!(endings.count(recipe(2)), 1, "start {start}");
            endings.mark_of(0).set(Vec::new());
        }
        fs::remove_dir_all(blocked).unwrap();
        for start in 3..=4 {
            let endings = open(dir.path());
            assert_eq!((endings.count(recipe(1)), endings.count(recipe(2))), (1, 1), "start {start}");
        }
        let left = fs::read_dir(dir.path().join("endings"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == LEFT));
        assert_eq!(left.count(), 0);
    }
}
