//! Who changed something: a pseudonymous id in the log, and a table of names beside it that can be erased.
//!
//! The log is never edited, so no name may stand in it. Ids are random and not derived from names: who has the log alone
//! cannot try names out.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bildkante_shared::ids::{IdError, decode_128, encode_128};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::state::{Table, Value, form};

/// Longest name of an actor, in bytes.
pub const ACTOR_BYTES_MAX: usize = 256;

/// 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorId([u8; 16]);

impl ActorId {
    /// The edge itself: what no person asked for.
    pub const EDGE: Self = Self([0; 16]);

    /// # Errors
    /// When the system gives no random bits.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        Ok(Self(id))
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_128(&self.0))
    }
}

impl FromStr for ActorId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        decode_128(text).map(Self)
    }
}

impl Serialize for ActorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ActorId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Names and their ids. Rows are erased on demand.
pub(super) const NAMES: Table<String, ActorId> = Table::new("names");
const VERSION: u8 = 1;

impl Value<String> for ActorId {
    type Form = Vec<u8>;

    fn encode(&self, name: &String) -> Result<Vec<u8>, serde_json::Error> {
        form::seal(VERSION, name.as_bytes(), self)
    }

    fn decode(name: &String, record: &[u8]) -> Result<Self, String> {
        form::unseal(VERSION, name.as_bytes(), record)
    }
}

/// Names and ids in memory: by name for who numbers entries, by id for who reads them. One is never without the other.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: HashMap<Arc<str>, ActorId>,
    by_id: HashMap<ActorId, Arc<str>>,
}

impl Names {
    pub(super) fn id_of(&self, name: &str) -> Option<ActorId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn name_of(&self, actor: ActorId) -> Option<&str> {
        self.by_id.get(&actor).map(|name| &**name)
    }

    /// What a commit wrote.
    pub(super) fn edit(&mut self, new: Vec<(String, ActorId)>, forgotten: &[String]) {
        for (name, id) in new {
            let name: Arc<str> = name.into();
            self.by_id.insert(id, Arc::clone(&name));
            self.by_name.insert(name, id);
        }
        for name in forgotten {
            if let Some(id) = self.by_name.remove(name.as_str()) {
                self.by_id.remove(&id);
            }
        }
    }
}

impl FromIterator<(String, ActorId)> for Names {
    fn from_iter<I: IntoIterator<Item = (String, ActorId)>>(rows: I) -> Self {
        let mut names = Self::default();
        names.edit(rows.into_iter().collect(), &[]);
        names
    }
}
