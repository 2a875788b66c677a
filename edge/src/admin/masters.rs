//! `/admin/v1/masters`: every master that the edge knows, by what a picture looks like or by what its watermark says.

use std::sync::Arc;

use bildkante_shared::phash::PerceptualHash;
use serde_json::{Value, json};

use super::body::{Fault, fault, wrong};
use crate::verify::{Among, KnownMasters, payload};

/// Bits in which fingerprints may differ unless the query says so, and at most.
const BITS_DEFAULT: u32 = 24;
const BITS_MAX: u32 = 64;

/// What is looked for.
enum Asked {
    Alike(PerceptualHash, u32),
    Named(crate::watermark::MasterPrefix),
}

/// The masters that the query asks for, as JSON.
pub(super) async fn search(masters: Arc<KnownMasters>, query: Option<&str>) -> Result<Value, Fault> {
    let asked = asked(query.unwrap_or_default())?;
    let search = tokio::task::spawn_blocking(move || match asked {
        Asked::Alike(phash, bits_max) => masters.alike(phash, bits_max, Among::All),
        Asked::Named(prefix) => masters.named(prefix, Among::All),
    });
    let found = search.await.map_err(|_| fault(500, "internal", "Internal error", "the search broke off"))?;
    Ok(json!(found))
}

fn asked(query: &str) -> Result<Asked, Fault> {
    let value = |wanted: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    if let Some(mark) = value("mark") {
        let payload = payload(mark).ok_or_else(|| wrong("mark", "`mark` is 16 hexadecimal digits", &[]))?;
        return Ok(Asked::Named(payload.master()));
    }
    let phash = value("phash").and_then(|phash| phash.parse().ok());
    let phash = phash.ok_or_else(|| wrong("phash", "`phash` is 64 hexadecimal digits, or there is a `mark`", &[]))?;
    let bits_max = match value("bits") {
        None => BITS_DEFAULT,
        Some(bits) => {
            bits.parse().ok().filter(|bits| *bits <= BITS_MAX).ok_or_else(|| wrong("bits", "`bits` is 0 to 64", &[]))?
        }
    };
    Ok(Asked::Alike(phash, bits_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_fingerprint_or_a_mark() {
        let phash = "0".repeat(64);
        assert!(matches!(asked(&format!("phash={phash}")), Ok(Asked::Alike(_, BITS_DEFAULT))));
        assert!(matches!(asked(&format!("bits=3&phash={phash}")), Ok(Asked::Alike(_, 3))));
        assert!(matches!(asked("mark=1abc0123456789ab"), Ok(Asked::Named(_))));
        for wrong in ["", "phash=0", "mark=x", &format!("phash={phash}&bits=65")] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }
}
