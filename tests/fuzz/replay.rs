// Shared by the tests that replay the seed corpora in their short form: `edge/tests/corpus.rs` and the node's.

use std::path::{Path, PathBuf};

/// A name, and what takes any bytes under it.
type Target = (&'static str, fn(&[u8]));

/// Where targets and corpora are, from either crate.
pub(crate) fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

/// Bytes that mean something to one parser or another.
const SPECIAL: &[u8] = b"\0\n\"%&=?[]{}.,:-/0159azAZ\xff";

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fuzz().join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("a readable file"))).collect()
}

/// Numerical Recipes' generator: the same mutations on every machine.
struct Dice(u32);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % bound.max(1)
    }
}

/// One to four of: a bit flipped, a byte replaced, a stretch cut, doubled, or taken from another file.
fn mutated(data: &[u8], others: &[(PathBuf, Vec<u8>)], dice: &mut Dice) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(data.len());
        let to = (at + 1 + dice.below(24)).min(data.len());
        match dice.below(5) {
            0 if !data.is_empty() => data[at] ^= 1 << dice.below(8),
            1 if !data.is_empty() => data[at] = SPECIAL[dice.below(SPECIAL.len())],
            2 if !data.is_empty() => drop(data.drain(at..to)),
            3 => {
                let stretch = data.get(at..to).unwrap_or_default().to_vec();
                data.splice(at..at, stretch);
            }
            _ => {
                let other = &others[dice.below(others.len())].1;
                let from = dice.below(other.len());
                let stretch = other[from..(from + dice.below(40)).min(other.len())].to_vec();
                data.splice(at..at, stretch);
            }
        }
    }
    data
}

/// Every file of every target's corpus, and so many mutations of each.
pub(crate) fn replay(targets: &[Target], mutations: u32) {
    for (target, entry) in targets {
        let files = corpus(target);
        assert!(files.len() >= 4, "{target} has {} seeds", files.len());
        for (path, data) in &files {
            entry(data);
            let mut dice = Dice(data.len() as u32);
            for number in 0..mutations {
                let input = mutated(data, &files, &mut dice);
                let outcome = std::panic::catch_unwind(|| entry(&input));
                assert!(
                    outcome.is_ok(),
                    "{target}: mutation {number} of {}: {:?}",
                    path.display(),
                    String::from_utf8_lossy(&input)
                );
            }
        }
    }
}

/// Targets there, files here: none is forgotten, and no corpus is left over.
pub(crate) fn is_complete(targets: &[Target]) {
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    for (target, _) in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        assert!(fuzz().join(format!("fuzz_targets/{target}.rs")).is_file(), "{target}");
    }
    let count = |folder: &str| std::fs::read_dir(fuzz().join(folder)).expect("a folder").count();
    let programs = manifest.matches("[[bin]]").count();
    assert_eq!((count("corpus"), count("fuzz_targets")), (programs, programs));
}
