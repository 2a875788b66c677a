//! What a kill names. Its text, `kind:name`, is what people write, logs keep and audit lines show.
//!
//! Invariants: a target that parsed is within its bounds and has one spelling; names are those of manifests, so a target holds
//! neither blanks nor control characters.

use std::fmt;
use std::str::FromStr;

use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest text of a target, in bytes.
pub const TARGET_BYTES_MAX: usize = 2_048;

/// The kinds of targets, the widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetKind {
    Campaign,
    Slot,
    Value,
    Variant,
    Recipe,
    Master,
    Checkpoint,
    Adapter,
    Block,
    Import,
}

impl TargetKind {
    pub const ALL: [Self; 10] = [
        Self::Campaign,
        Self::Slot,
        Self::Value,
        Self::Variant,
        Self::Recipe,
        Self::Master,
        Self::Checkpoint,
        Self::Adapter,
        Self::Block,
        Self::Import,
    ];

    /// The word before the colon, the field of the API and the label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Campaign => "campaign",
            Self::Slot => "slot",
            Self::Value => "value",
            Self::Variant => "variant",
            Self::Recipe => "recipe",
            Self::Master => "master",
            Self::Checkpoint => "checkpoint",
            Self::Adapter => "adapter",
            Self::Block => "block",
            Self::Import => "import",
        }
    }

    /// Whether it names a part of a recipe, which is not known of every picture.
    #[must_use]
    pub const fn is_part(self) -> bool {
        matches!(self, Self::Checkpoint | Self::Adapter | Self::Block | Self::Import)
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Campaign(Box<str>),
    /// `campaign/slot`.
    Slot(Box<str>),
    /// `campaign?axis=value`: every variant of the campaign with this value.
    Value(Box<str>),
    /// `campaign/slot?axis=value&…`, each axis with its value, by the axes' names.
    Variant(Box<str>),
    Recipe(RecipeId),
    Master(MasterId),
    /// A checkpoint, a refiner or a ControlNet, by the digest that recipes name.
    Checkpoint(Digest),
    Adapter(Digest),
    /// `library/name`: a block, a style or a negative list, whatever its text is or was.
    Block(Box<str>),
    /// By the digest of the original file.
    Import(Digest),
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("a target has at most {TARGET_BYTES_MAX} bytes")]
    TooLong,
    #[error("a target is KIND:NAME, and the kinds are {}", TargetKind::ALL.map(TargetKind::as_str).join(", "))]
    Kind,
    #[error("`{kind}:` is followed by {form}")]
    Form { kind: &'static str, form: &'static str },
}

impl Target {
    #[must_use]
    pub const fn kind(&self) -> TargetKind {
        match self {
            Self::Campaign(_) => TargetKind::Campaign,
            Self::Slot(_) => TargetKind::Slot,
            Self::Value(_) => TargetKind::Value,
            Self::Variant(_) => TargetKind::Variant,
            Self::Recipe(_) => TargetKind::Recipe,
            Self::Master(_) => TargetKind::Master,
            Self::Checkpoint(_) => TargetKind::Checkpoint,
            Self::Adapter(_) => TargetKind::Adapter,
            Self::Block(_) => TargetKind::Block,
            Self::Import(_) => TargetKind::Import,
        }
    }

    /// The target of a kind with this name.
    ///
    /// # Errors
    /// When the name has another form, or is too long.
    pub fn of(kind: TargetKind, name: &str) -> Result<Self, TargetError> {
        if name.len() + kind.as_str().len() + 1 > TARGET_BYTES_MAX {
            return Err(TargetError::TooLong);
        }
        let form = |form| TargetError::Form { kind: kind.as_str(), form };
        let digest = || name.parse::<Digest>().map_err(|_| form("`blake3:` and 64 hexadecimal digits"));
        let text = |is_sound: bool, of: &'static str| if is_sound { Ok(Box::from(name)) } else { Err(form(of)) };
        Ok(match kind {
            TargetKind::Campaign => Self::Campaign(text(is_word(name), "the name of a campaign")?),
            TargetKind::Slot => Self::Slot(text(is_path(name), "CAMPAIGN/SLOT")?),
            TargetKind::Value => Self::Value(text(is_value(name), "CAMPAIGN?AXIS=VALUE")?),
            TargetKind::Variant => {
                Self::Variant(text(is_variant(name), "CAMPAIGN/SLOT?AXIS=VALUE&…, its axes by their names")?)
            }
            TargetKind::Recipe => Self::Recipe(name.parse().map_err(|_| form("a recipe's id"))?),
            TargetKind::Master => Self::Master(name.parse().map_err(|_| form("a master's id"))?),
            TargetKind::Checkpoint => Self::Checkpoint(digest()?),
            TargetKind::Adapter => Self::Adapter(digest()?),
            TargetKind::Block => Self::Block(text(is_path(name), "LIBRARY/NAME")?),
            TargetKind::Import => Self::Import(digest()?),
        })
    }

    /// The campaign that it lies in; `None` where it may reach into several.
    #[must_use]
    pub fn campaign(&self) -> Option<&str> {
        match self {
            Self::Campaign(name) => Some(name),
            Self::Slot(name) | Self::Value(name) | Self::Variant(name) => name.split(['/', '?']).next(),
            Self::Recipe(_)
            | Self::Master(_)
            | Self::Checkpoint(_)
            | Self::Adapter(_)
            | Self::Block(_)
            | Self::Import(_) => None,
        }
    }

    /// Of a variant, its slot and its values: `studio/hero` and `colour=teal&product=mug`.
    #[must_use]
    pub fn slot_and_values(&self) -> Option<(&str, &str)> {
        let Self::Variant(name) = self else { return None };
        Some(name.split_once('?').unwrap_or((name, "")))
    }
}

/// As in manifests: campaigns, slots, axes, values and libraries.
fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_path(path: &str) -> bool {
    path.split_once('/').is_some_and(|(first, second)| is_word(first) && is_word(second))
}

fn is_pair(pair: &str) -> bool {
    pair.split_once('=').is_some_and(|(axis, value)| is_word(axis) && is_word(value))
}

fn is_value(name: &str) -> bool {
    name.split_once('?').is_some_and(|(campaign, pair)| is_word(campaign) && is_pair(pair))
}

fn is_variant(name: &str) -> bool {
    let Some((slot, values)) = name.split_once('?') else { return is_path(name) };
    let is_ordered = || {
        let axes = values.split('&').map(|pair| pair.split_once('=').map_or("", |(axis, _)| axis));
        axes.clone().zip(axes.skip(1)).all(|(one, next)| one < next)
    };
    is_path(slot) && values.split('&').all(is_pair) && is_ordered()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind().as_str())?;
        match self {
            Self::Campaign(name) | Self::Slot(name) | Self::Value(name) | Self::Variant(name) | Self::Block(name) => {
                f.write_str(name)
            }
            Self::Recipe(id) => write!(f, "{id}"),
            Self::Master(id) => write!(f, "{id}"),
            Self::Checkpoint(digest) | Self::Adapter(digest) | Self::Import(digest) => write!(f, "{digest}"),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (word, name) = text.split_once(':').ok_or(TargetError::Kind)?;
        let kind = TargetKind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or(TargetError::Kind)?;
        Self::of(kind, name)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_spelling() {
        let digest = Digest::of_bytes(b"checkpoint");
        let (recipe, master) = (RecipeId::of_bytes(b"recipe"), MasterId::of_bytes(b"master"));
        let texts = [
            "campaign:studio".to_owned(),
            "slot:studio/hero".to_owned(),
            "value:studio?locale=de-DE".to_owned(),
            "variant:studio/hero?colour=teal&product=mug".to_owned(),
            "variant:studio/hero".to_owned(),
            format!("recipe:{recipe}"),
            format!("master:{master}"),
            format!("checkpoint:{digest}"),
            format!("adapter:{digest}"),
            "block:product-shots/soft-light".to_owned(),
            format!("import:{digest}"),
        ];
        for text in &texts {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), *text);
            assert_eq!(serde_json::from_str::<Target>(&serde_json::to_string(&target).unwrap()).unwrap(), target);
        }
        let kinds: std::collections::BTreeSet<_> =
            texts.iter().map(|text| text.parse::<Target>().unwrap().kind()).collect();
        assert_eq!(kinds.len(), TargetKind::ALL.len());
    }

    #[test]
    fn what_has_another_form_is_refused_by_name() {
        for (wrong, says) in [
            ("studio", "KIND:NAME"),
            ("colour:teal", "kinds are campaign"),
            ("campaign:", "name of a campaign"),
            ("campaign:a b", "name of a campaign"),
            ("slot:studio", "CAMPAIGN/SLOT"),
            ("slot:studio/hero/x", "CAMPAIGN/SLOT"),
            ("value:studio/hero?colour=teal", "CAMPAIGN?AXIS=VALUE"),
            ("value:studio?colour=teal&product=mug", "CAMPAIGN?AXIS=VALUE"),
            ("variant:studio/hero?product=mug&colour=teal", "by their names"),
            ("variant:studio/hero?colour=teal&colour=teal", "by their names"),
            ("variant:studio/hero?", "by their names"),
            ("recipe:abc", "recipe's id"),
            ("checkpoint:sdxl", "blake3:"),
        ] {
            let error = wrong.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
        assert_eq!(format!("campaign:{}", "x".repeat(3_000)).parse::<Target>(), Err(TargetError::TooLong));
    }
}
