//! Recipes at whose drawing a device was lost or the whole process ended: drawn alone once more, and then refused.
//!
//! While a device is at work, `endings/device-N.now` in the data folder names the recipes it is at: the pass under way, not
//! everything that has begun. What a start finds there was cut off by the end of the process; a lost device that is told
//! counts at once. Each such recipe has a file, `endings/{recipe id}.json`, with the number of endings: it outlives
//! restarts, a drawing that ends well removes it, and so may an operator, at any time.
//!
//! The marks are left to the operating system, which survives a process, and carry the machine's boot: what a power cut
//! ended was no recipe's doing. A recipe with one ending shares no pass, so that the second one is its own.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::RecipeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::metrics::NodeMetrics;
use crate::store::now_unix_ms;

/// Endings after which a recipe is refused.
pub const ENDINGS_MAX: u32 = 2;
/// Recipes remembered; the one that ended longest ago goes.
const RECIPES_MAX: usize = 1024;
/// Last line of a mark: without it the mark is half of one.
const END: &str = "end";

/// What is known of one recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ending {
    endings: u32,
    last_unix_ms: u64,
    reason: String,
}

/// Of all devices.
#[derive(Debug)]
pub struct Endings {
    folder: PathBuf,
    known: Mutex<BTreeMap<RecipeId, Ending>>,
    metrics: Arc<NodeMetrics>,
}

impl Endings {
    /// Reads what is known and counts what the last process was at when it ended. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(data_dir: &Path, metrics: Arc<NodeMetrics>) -> io::Result<Self> {
        let folder = data_dir.join("endings");
        fs::create_dir_all(&folder)?;
        let (mut known, mut marks) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            match (path.extension().and_then(|extension| extension.to_str()), stem.parse()) {
                (Some("now"), _) => marks.push(path),
                (Some("json"), Ok(recipe)) => {
                    known.insert(recipe, read(&path));
                }
                _ => {}
            }
        }
        let endings = Self { folder, known: Mutex::new(known), metrics };
        for path in marks {
            for recipe in marked(&fs::read_to_string(&path).unwrap_or_default(), &boot()) {
                endings.add(recipe, "the process ended while it was drawn");
            }
            fs::remove_file(path)?;
        }
        Ok(endings)
    }

    /// Where a device says what it is at.
    #[must_use]
    pub fn mark_of(&self, device: usize) -> Mark {
        let path = self.folder.join(format!("device-{device}.now"));
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
        let file = file.inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "what is being drawn is not written down");
        });
        Mark { file: file.ok(), boot: boot(), at: Vec::new() }
    }

    /// Counts an ending; how many it makes.
    pub fn add(&self, recipe: RecipeId, reason: &str) -> u32 {
        let endings = self.count(recipe).saturating_add(1);
        tracing::error!(%recipe, endings, reason, "a device ended over this recipe");
        self.metrics.recipe_endings_total.inc();
        let ending = Ending { endings, last_unix_ms: now_unix_ms(), reason: reason.chars().take(512).collect() };
        let json = serde_json::to_vec(&ending).unwrap_or_default();
        if let Err(error) = durable::write(&self.path(recipe), &[&json], Durability::Synced) {
            tracing::error!(%recipe, %error, "an ending is not remembered");
        }
        let mut known = self.known.lock();
        known.insert(recipe, ending);
        if known.len() > RECIPES_MAX
            && let Some(oldest) = known.iter().min_by_key(|(_, ending)| ending.last_unix_ms).map(|(id, _)| *id)
        {
            known.remove(&oldest);
            let _ = fs::remove_file(self.path(oldest));
        }
        endings
    }

    /// How often a device has ended over a recipe. One whose file was removed never did.
    #[must_use]
    pub fn count(&self, recipe: RecipeId) -> u32 {
        let mut known = self.known.lock();
        let Some(endings) = known.get(&recipe).map(|ending| ending.endings) else { return 0 };
        if self.path(recipe).exists() {
            return endings;
        }
        known.remove(&recipe);
        0
    }

    /// It was drawn: what ended was another's fault.
    pub fn forgive(&self, recipe: RecipeId) {
        if self.known.lock().remove(&recipe).is_some() {
            let _ = fs::remove_file(self.path(recipe));
        }
    }

    fn path(&self, recipe: RecipeId) -> PathBuf {
        self.folder.join(format!("{recipe}.json"))
    }
}

/// What cannot be read counts as one ending: it was written because of one.
fn read(path: &Path) -> Ending {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Ending { endings: 1, last_unix_ms: 0, reason: "unreadable".to_owned() })
}

/// One device's.
#[derive(Debug)]
pub struct Mark {
    file: Option<File>,
    boot: String,
    at: Vec<RecipeId>,
}

impl Mark {
    /// The device is at these now. One write of some bytes, which no end of the process can halve.
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

    /// The device is at nothing.
    pub fn clear(&mut self) {
        self.set(Vec::new());
    }

    #[must_use]
    pub fn recipes(&self) -> &[RecipeId] {
        &self.at
    }
}

/// The recipes of a mark that was set since the machine was started; what stands behind its end is of an older one.
fn marked(text: &str, boot: &str) -> Vec<RecipeId> {
    let mut lines = text.lines();
    let is_whole = text.lines().any(|line| line == END);
    if lines.next() != Some(boot) || !is_whole {
        return Vec::new();
    }
    lines.take_while(|line| *line != END).filter_map(|line| line.parse().ok()).collect()
}

/// Which start of the machine this is.
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
            endings.known.lock().insert(other(n), Ending { endings: 1, last_unix_ms: n as u64, reason: String::new() });
        });
        endings.add(recipe(1), "lost");
        assert_eq!(endings.known.lock().len(), RECIPES_MAX + 3);
        assert_eq!(endings.count(recipe(1)), 1);
    }
}
