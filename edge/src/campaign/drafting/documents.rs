//! The files of a campaign as documents that are edited in place: a manifest, and the prompt libraries that it names.

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use super::knobs::Edit;
use super::{DraftError, Drafted, KnobId, Reach};
use crate::campaign::catalog::{Campaign, Catalog};
use crate::campaign::slots::Slot;
use crate::campaign::sources::{SourceFile, SourceFiles};

/// One file.
#[derive(Debug, Clone)]
struct Edited {
    /// Below the folder that holds `campaigns` and `prompts`.
    path: String,
    stem: String,
    before: String,
    document: DocumentMut,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    manifest: Edited,
    /// Those that the slot's prompts use.
    libraries: Vec<Edited>,
}

impl Edited {
    fn open(folder: &str, stem: &str, file: &SourceFile) -> Result<Self, DraftError> {
        let path = format!("{folder}/{stem}.toml");
        let fault = |reason: &str| DraftError::File { file: path.clone(), reason: reason.to_owned() };
        let document: DocumentMut = file.text.parse().map_err(|_| fault("it is no TOML"))?;
        // What is written back must differ by the edits alone, or the patch would not apply.
        if document.to_string() != file.text {
            return Err(fault(
                "it would not come back as it is: its lines end in carriage returns, or it begins with a mark",
            ));
        }
        Ok(Self { path, stem: stem.to_owned(), before: file.text.clone(), document })
    }
}

impl Documents {
    pub(super) fn open(files: &SourceFiles, campaign: &Campaign, slot: &Slot) -> Result<Self, DraftError> {
        let missing = |file: &str| DraftError::File { file: file.to_owned(), reason: "it is not there".to_owned() };
        let name = &campaign.name;
        let manifest = files.campaigns.get(name).ok_or_else(|| missing(name))?;
        let mut used: Vec<&str> =
            slot.drawn().into_iter().flat_map(|generate| &generate.words).map(|words| words.library.as_str()).collect();
        used.sort_unstable();
        used.dedup();
        let library = |stem: &str| {
            let file = files.libraries.get(stem).ok_or_else(|| missing(stem))?;
            Edited::open("prompts", stem, file)
        };
        Ok(Self {
            manifest: Edited::open("campaigns", name, &manifest.manifest)?,
            libraries: used.into_iter().map(library).collect::<Result<_, _>>()?,
        })
    }

    /// The campaign whose manifest it is.
    pub(super) fn own(&self) -> &str {
        &self.manifest.stem
    }

    /// A key of the slot's `generate`, or of `[generate]`.
    pub(super) fn generated(&self, slot: &str, key: &str) -> Option<&Item> {
        let root = self.manifest.document.as_table();
        let own = find(root, &["slots", slot, "generate", key]);
        own.or_else(|| find(root, &["generate", key]))
    }

    pub(super) fn axis_prompt(&self, axis: &str, value: &str) -> Option<&Item> {
        find(self.manifest.document.as_table(), &["axes", axis, "values", value, "prompt"])
    }

    /// What a library says: a key of an entry, or the entry itself where it is no table.
    pub(super) fn word(&self, kind: &str, name: &str, key: &str) -> Option<&Item> {
        let entry = self.libraries.iter().find_map(|library| find(library.document.as_table(), &[kind, name]))?;
        match entry.as_table_like() {
            Some(table) => table.get(key),
            None => Some(entry).filter(|_| matches!(key, "text" | "")),
        }
    }

    /// Writes an edit.
    pub(super) fn set(
        &mut self,
        catalog: &Catalog,
        of: Drafted<'_>,
        (id, edit): (&KnobId, &Edit),
        reach: Reach,
    ) -> Result<(), DraftError> {
        let unknown = || DraftError::NoKnob(id.to_string());
        let campaign = catalog.campaign(of.campaign).ok_or_else(unknown)?;
        let slot = campaign.slots[of.slot_index].name.as_str();
        let written = match id {
            KnobId::Prompt => self.set_generated(slot, ("prompt", None), edit, reach),
            KnobId::Steps => self.set_generated(slot, ("steps", None), edit, reach),
            KnobId::Guidance => self.set_generated(slot, ("guidance", None), edit, reach),
            KnobId::GuidanceRescale => self.set_generated(slot, ("guidance_rescale", None), edit, reach),
            KnobId::Strength => self.set_generated(slot, ("init", Some(Inner::Key("strength"))), edit, reach),
            KnobId::LoraWeight(index) => self.set_weight(slot, ("loras", *index), edit, reach),
            KnobId::ControlWeight(index) => self.set_weight(slot, ("controls", *index), edit, reach),
            KnobId::ReferenceWeight(index) => self.set_weight(slot, ("references", *index), edit, reach),
            KnobId::Axis(name) => {
                let axis = campaign.axis_index(name).ok_or_else(unknown)?;
                let value = &campaign.axes[axis].values[campaign.values_of(of.combination)[axis]].name;
                let root = self.manifest.document.as_table_mut();
                find_mut(root, &["axes", name, "values", value]).and_then(|table| put(table, "prompt", edit))
            }
            KnobId::Style(name) => self.set_word(("styles", name, "prompt"), edit),
            KnobId::StyleWeight(name) => self.set_word(("styles", name, "weight"), edit),
            KnobId::StyleNegative(name) => self.set_word(("styles", name, "negative"), edit),
            KnobId::Block(name) => self.set_word(("blocks", name, "text"), edit),
            KnobId::BlockWeight(name) => self.set_word(("blocks", name, "weight"), edit),
            KnobId::NegativeList(name) => self.set_word(("negatives", name, ""), edit),
        };
        written.ok_or_else(unknown)
    }

    fn set_weight(&mut self, slot: &str, (key, index): (&'static str, usize), edit: &Edit, reach: Reach) -> Option<()> {
        self.set_generated(slot, (key, Some(Inner::Entry(index, "weight"))), edit, reach)
    }

    /// A key that the slot has itself is changed there in any case.
    fn set_generated(
        &mut self,
        slot: &str,
        (key, inner): (&'static str, Option<Inner>),
        edit: &Edit,
        reach: Reach,
    ) -> Option<()> {
        let root = self.manifest.document.as_table_mut();
        let is_own = find(root, &["slots", slot, "generate", key]).is_some();
        let generate = if is_own || reach == Reach::Slot {
            // What says several things together is the slot's whole, or not at all.
            let whole = (!is_own && inner.is_some()).then(|| find(root, &["generate", key]).cloned()).flatten();
            let own = own_generate(root, slot)?;
            if let Some(whole) = whole.and_then(|whole| whole.into_value().ok()) {
                own.insert(key, Item::Value(plain(whole)));
            }
            own
        } else {
            root.get_mut("generate")?.as_table_like_mut()?
        };
        match inner {
            None => put(generate, key, edit),
            Some(Inner::Key(inner)) => put(generate.get_mut(key)?.as_table_like_mut()?, inner, edit),
            Some(Inner::Entry(index, inner)) => match generate.get_mut(key)? {
                Item::ArrayOfTables(tables) => put(tables.get_mut(index)?, inner, edit),
                Item::Value(Value::Array(array)) => put(array.get_mut(index)?.as_inline_table_mut()?, inner, edit),
                _ => None,
            },
        }
    }

    fn set_word(&mut self, (kind, name, key): (&str, &str, &str), edit: &Edit) -> Option<()> {
        let holds = |library: &&mut Edited| find(library.document.as_table(), &[kind, name]).is_some();
        let library = self.libraries.iter_mut().find(holds)?;
        let entries = find_mut(library.document.as_table_mut(), &[kind])?;
        let entry = entries.get_mut(name)?;
        if let Some(table) = entry.as_table_like_mut() {
            return put(table, key, edit);
        }
        match (key, edit) {
            // A block that is a text becomes a table for its weight.
            ("weight", Edit::Number(_)) => {
                let text = entry.as_str()?.to_owned();
                let mut table = toml_edit::InlineTable::new();
                table.insert("text", text.into());
                put(&mut table, "weight", edit)?;
                replace(entry, Value::InlineTable(table))
            }
            ("weight", _) => Some(()),
            _ => replace(entry, value_of(edit)?),
        }
    }

    /// The seed of one picture of a slot.
    pub(super) fn set_seed(&mut self, slot: &str, picture: &str, seed: u32) -> Result<(), DraftError> {
        let path = self.manifest.path.clone();
        let fault = || DraftError::File { file: path, reason: format!("`slots.{slot}` is no table") };
        let root = self.manifest.document.as_table_mut();
        let seeds = find_mut(root, &["slots", slot]).and_then(|slot| child(slot, "seeds")).ok_or_else(fault)?;
        let sorted = |name: &str| {
            let mut pairs: Vec<String> = name.split('&').map(str::to_owned).collect();
            pairs.sort_unstable();
            pairs
        };
        let known = seeds.iter().map(|(name, _)| name.to_owned()).find(|name| sorted(name) == sorted(picture));
        let name = known.unwrap_or_else(|| picture.to_owned());
        let _ = put(seeds, &name, &Edit::Whole(seed));
        Ok(())
    }

    /// Files that are changed: their paths, and their texts before and after.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&str, &str, String)> {
        let all = std::iter::once(&self.manifest).chain(&self.libraries);
        all.map(|it| (it.path.as_str(), it.before.as_str(), it.document.to_string()))
            .filter(|(_, before, after)| before != after)
    }

    /// Puts the edited texts in the place of those read, and leaves out campaigns that none of them is for.
    pub(super) fn put_into(&self, files: &mut SourceFiles) {
        let own = &self.manifest.stem;
        let changed: Vec<&Edited> =
            self.libraries.iter().filter(|library| library.document.to_string() != library.before).collect();
        files.campaigns.retain(|name, campaign| {
            name == own || changed.iter().any(|library| campaign.manifest.text.contains(&library.stem))
        });
        if let Some(campaign) = files.campaigns.get_mut(own) {
            campaign.manifest.text = self.manifest.document.to_string();
        }
        for library in changed {
            if let Some(file) = files.libraries.get_mut(&library.stem) {
                file.text = library.document.to_string();
            }
        }
    }
}

/// What of a key is changed.
#[derive(Debug, Clone, Copy)]
enum Inner {
    Key(&'static str),
    /// A key of an entry of its list.
    Entry(usize, &'static str),
}

fn find<'t>(root: &'t Table, path: &[&str]) -> Option<&'t Item> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(root.get(first)?, |item, key| item.as_table_like()?.get(key))
}

fn find_mut<'t>(root: &'t mut Table, path: &[&str]) -> Option<&'t mut dyn TableLike> {
    let mut table: &mut dyn TableLike = root;
    for key in path {
        table = table.get_mut(key)?.as_table_like_mut()?;
    }
    Some(table)
}

/// The slot's `generate`, made where it is not there.
fn own_generate<'t>(root: &'t mut Table, slot: &str) -> Option<&'t mut dyn TableLike> {
    child(find_mut(root, &["slots", slot])?, "generate")
}

/// A table below another, made in its parent's form where it is not there.
fn child<'t>(parent: &'t mut dyn TableLike, name: &str) -> Option<&'t mut dyn TableLike> {
    if parent.get(name).is_none() {
        // Within an inline table it becomes an inline one.
        parent.insert(name, Item::Table(Table::new()));
    }
    parent.get_mut(name)?.as_table_like_mut()
}

fn value_of(edit: &Edit) -> Option<Value> {
    Some(match edit {
        Edit::Text(text) => text.as_str().into(),
        Edit::List(words) => Value::Array(words.iter().map(String::as_str).collect::<Array>()),
        Edit::Whole(number) => i64::from(*number).into(),
        Edit::Number(number) => (*number).into(),
        Edit::Nothing => return None,
    })
}

/// Sets a key, or takes it away; what stands around a value stays.
fn put(table: &mut dyn TableLike, key: &str, edit: &Edit) -> Option<()> {
    let Some(value) = value_of(edit) else {
        table.remove(key);
        return Some(());
    };
    match table.get_mut(key) {
        Some(item) if !item.is_none() => replace(item, value),
        _ => {
            table.insert(key, Item::Value(value));
            Some(())
        }
    }
}

fn replace(item: &mut Item, value: Value) -> Option<()> {
    let old = item.as_value_mut()?;
    let decor = old.decor().clone();
    *old = value;
    *old.decor_mut() = decor;
    Some(())
}

/// Without the comments and blanks of where it stood.
fn plain(mut value: Value) -> Value {
    value.decor_mut().clear();
    value
}
