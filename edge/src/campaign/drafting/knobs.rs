//! Knobs: what of a variant's recipe a person may turn, and what each is set to.

use bildkante_shared::limits;
use bildkante_shared::weighting::{WEIGHT_MAX, Weighting};

use super::documents::Documents;
use super::{DraftError, Drafted, KnobId};
use crate::campaign::catalog::Campaign;
use crate::campaign::prompts::WordsKind;
use crate::campaign::template::tidy;

/// Longest text that is put into a file: as long as a prompt may be.
pub const KNOB_TEXT_BYTES_MAX: usize = limits::PROMPT_BYTES_MAX;

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Knob {
    pub id: KnobId,
    pub kind: KnobKind,
    /// As a person writes it; empty where a weight is not set.
    pub value: String,
}

/// What a knob takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KnobKind {
    Text,
    /// Texts between commas.
    List,
    Whole {
        min: u32,
        max: u32,
    },
    Number {
        min: f64,
        max: f64,
    },
    /// A number, or nothing.
    Weight {
        max: f64,
    },
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Edit {
    Text(String),
    List(Vec<String>),
    Whole(u32),
    Number(f64),
    /// The key goes.
    Nothing,
}

impl KnobKind {
    /// # Errors
    /// Says what it takes.
    pub(super) fn read(self, id: &KnobId, value: &str) -> Result<Edit, DraftError> {
        let refuse = |reason: String| DraftError::Value { knob: id.to_string(), reason };
        if value.len() > KNOB_TEXT_BYTES_MAX {
            return Err(refuse(format!("it has at most {KNOB_TEXT_BYTES_MAX} bytes")));
        }
        if value.chars().any(|c| c.is_control() && !c.is_whitespace()) {
            return Err(refuse("it holds a control character".to_owned()));
        }
        let text = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let number = |min: f64, max: f64| {
            let number = text.replace(',', ".").parse::<f64>().ok().filter(|it| (min..=max).contains(it));
            number.map(Edit::Number).ok_or_else(|| refuse(format!("it is a number from {min} to {max}")))
        };
        match self {
            Self::Text => Ok(Edit::Text(text)),
            Self::List => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Ok(Edit::List(words.map(str::to_owned).collect()))
            }
            Self::Whole { min, max } => {
                let whole = text.parse::<u32>().ok().filter(|it| (min..=max).contains(it));
                whole.map(Edit::Whole).ok_or_else(|| refuse(format!("it is a whole number from {min} to {max}")))
            }
            Self::Number { min, max } => number(min, max),
            Self::Weight { .. } if text.is_empty() => Ok(Edit::Nothing),
            Self::Weight { max } => number(0.0, max),
        }
    }
}

impl Knob {
    /// Whether the edit changes nothing: forms send every field.
    pub(super) fn is_now(&self, edit: &Edit) -> bool {
        match edit {
            Edit::Text(text) => tidy(text) == tidy(&self.value),
            Edit::List(words) => tidy(&words.join(", ")) == tidy(&self.value),
            Edit::Whole(number) => self.value == number.to_string(),
            Edit::Number(number) => self.value.parse() == Ok(*number),
            Edit::Nothing => self.value.is_empty(),
        }
    }
}

/// Those of a variant, in the order in which a person thinks of them.
pub(super) fn of(documents: &Documents, campaign: &Campaign, of: Drafted<'_>) -> Vec<Knob> {
    let slot = &campaign.slots[of.slot_index];
    let Some(generate) = slot.drawn() else { return Vec::new() };
    let mut knobs = Vec::new();
    let mut add = |id: KnobId, kind, value: Option<String>| {
        knobs.extend(value.map(|value| Knob { id, kind, value }));
    };
    let has_weights = generate.additions.weighting == Weighting::Brackets;
    let weight = KnobKind::Weight { max: WEIGHT_MAX };
    add(KnobId::Prompt, KnobKind::Text, documents.generated(&slot.name, "prompt").and_then(text));
    let chosen = campaign.axes.iter().zip(campaign.values_of(of.combination)).enumerate();
    for (axis, value) in chosen.filter(|(index, _)| generate.prompt.uses_axis(*index)).map(|(_, chosen)| chosen) {
        let written = documents.axis_prompt(&axis.name, &axis.values[value].name);
        add(KnobId::Axis(axis.name.clone()), KnobKind::Text, written.and_then(text));
    }
    for words in &generate.words {
        let name = words.name.clone();
        match words.kind {
            WordsKind::Block => {
                let of_block = |key| documents.word("blocks", &name, key);
                add(KnobId::Block(name.clone()), KnobKind::Text, of_block("text").and_then(text));
                if has_weights {
                    add(KnobId::BlockWeight(name.clone()), weight, Some(number_text(of_block("weight"))));
                }
            }
            WordsKind::Style => {
                let of_style = |key| documents.word("styles", &name, key);
                add(KnobId::Style(name.clone()), KnobKind::Text, of_style("prompt").and_then(text));
                if has_weights {
                    add(KnobId::StyleWeight(name.clone()), weight, Some(number_text(of_style("weight"))));
                }
                let negative = of_style("negative").and_then(text).unwrap_or_default();
                add(KnobId::StyleNegative(name.clone()), KnobKind::Text, Some(negative));
            }
            WordsKind::NegativeList => {
                let list = documents.word("negatives", &name, "").and_then(|item| Some(item.as_array()?.clone()));
                let words = list.map(|list| list.iter().filter_map(|it| it.as_str()).collect::<Vec<_>>().join(", "));
                add(KnobId::NegativeList(name.clone()), KnobKind::List, words);
            }
        }
    }
    let steps = KnobKind::Whole { min: 1, max: limits::STEPS_MAX };
    add(KnobId::Steps, steps, Some(generate.steps.to_string()));
    let guidance = KnobKind::Number { min: 0.0, max: limits::GUIDANCE_MAX };
    add(KnobId::Guidance, guidance, Some(generate.guidance.to_string()));
    let share = KnobKind::Number { min: 0.0, max: 1.0 };
    let additions = &generate.additions;
    if additions.guidance_rescale > 0.0 {
        add(KnobId::GuidanceRescale, share, Some(additions.guidance_rescale.to_string()));
    }
    let strength = additions.init.as_ref().map(|(_, strength)| strength.to_string());
    add(KnobId::Strength, KnobKind::Number { min: 0.01, max: 1.0 }, strength);
    let signed = KnobKind::Number { min: -10.0, max: 10.0 };
    for (index, (_, weight)) in additions.loras.iter().enumerate() {
        add(KnobId::LoraWeight(index), signed, Some(weight.to_string()));
    }
    for (index, control) in additions.controls.iter().enumerate() {
        add(KnobId::ControlWeight(index), signed, Some(control.weight.to_string()));
    }
    for (index, reference) in additions.references.iter().enumerate() {
        add(KnobId::ReferenceWeight(index), signed, Some(reference.weight.to_string()));
    }
    knobs
}

fn text(item: &toml_edit::Item) -> Option<String> {
    item.as_str().map(str::to_owned)
}

fn number_text(item: Option<&toml_edit::Item>) -> String {
    let number =
        item.and_then(|item| item.as_float().map(|it| it.to_string()).or_else(|| Some(item.as_integer()?.to_string())));
    number.unwrap_or_default()
}
