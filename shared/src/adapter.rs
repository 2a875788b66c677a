//! The digest of an adapter: what a lock pins and a node proves it has.
//!
//! It is that of the safetensors file. PEFT keeps what decides the scale of its matrices in a file of its own, so where one lies
//! beside a file of PEFT's, the digest covers both: the same digest is the same picture.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use crate::ids::Digest;

/// PEFT's name of the file.
pub const CONFIG_NAME: &str = "adapter_config.json";
/// What every tensor of a file of PEFT's is named.
const PEFT_PREFIX: &str = "base_model.model.";
/// Largest configuration; one with a pattern for each module of Stable Diffusion XL has 0.1 MiB.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Largest header of a safetensors file.
const HEADER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A configuration that belongs to an adapter.
#[derive(Debug)]
pub struct Beside {
    pub path: PathBuf,
    pub text: Vec<u8>,
}

/// Where the configuration of an adapter may lie: under its own name where a folder holds several, or as PEFT writes it.
#[must_use]
pub fn config_paths(adapter: &Path) -> [PathBuf; 2] {
    let stem = adapter.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    [adapter.with_file_name(format!("{stem}.{CONFIG_NAME}")), adapter.with_file_name(CONFIG_NAME)]
}

/// Whether tensors of these names are in a file that PEFT itself wrote.
pub fn is_of_peft<'n>(mut names: impl Iterator<Item = &'n str>) -> bool {
    names.any(|name| name.starts_with(PEFT_PREFIX))
}

/// The configuration that belongs to the adapter at `path`, whose tensors have these names. Files of other trainers have none.
///
/// # Errors
/// When it is there and cannot be read, or is too large, or cannot be told from another file's.
pub fn config_beside<'n>(path: &Path, names: impl Iterator<Item = &'n str>) -> io::Result<Option<Beside>> {
    if !is_of_peft(names) {
        return Ok(None);
    }
    let [own, shared] = config_paths(path);
    let adapter = path;
    let path = match (own.is_file(), shared.is_file()) {
        (true, _) => own,
        (false, false) => return Ok(None),
        (false, true) => match other_of_peft(adapter)? {
            None => shared,
            Some(other) => {
                let (other, own) = (other.display(), own.display());
                let reason = format!("{CONFIG_NAME} may be its own or that of {other}: it needs one of its own, {own}");
                return Err(io::Error::other(reason));
            }
        },
    };
    let mut text = Vec::new();
    File::open(&path)?.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(io::Error::other(format!("{} has more than {CONFIG_BYTES_MAX} bytes", path.display())));
    }
    Ok(Some(Beside { path, text }))
}

/// Another file of PEFT's in the folder. One that cannot be read is none: reading it says why.
fn other_of_peft(adapter: &Path) -> io::Result<Option<PathBuf>> {
    let Some(folder) = adapter.parent() else { return Ok(None) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut others = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        let is_adapter = Path::new(&name).extension().is_some_and(|extension| extension == "safetensors");
        if is_adapter && !is_hidden && Some(name.as_os_str()) != adapter.file_name() {
            others.push(entry.path());
        }
    }
    others.sort();
    let is_of_peft = |path: &PathBuf| names(path).is_ok_and(|names| is_of_peft(names.iter().map(String::as_str)));
    Ok(others.into_iter().find(is_of_peft))
}

/// Of a safetensors file and the configuration that belongs to it.
#[must_use]
pub fn digest(file: Digest, config: Option<&[u8]>) -> Digest {
    let Some(config) = config else { return file };
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"bildkante adapter 1");
    hasher.update(file.as_bytes());
    hasher.update(Digest::of_bytes(config).as_bytes());
    Digest::from_hash(&hasher.finalize())
}

/// The digest of the adapter at `path`, whose file has the digest `file`. A file that is no safetensors file has one, too; loading
/// it says what is wrong.
///
/// # Errors
/// When it or its configuration cannot be read.
pub fn digest_at(path: &Path, file: Digest) -> io::Result<Digest> {
    let names = names(path)?;
    let beside = config_beside(path, names.iter().map(String::as_str))?;
    Ok(digest(file, beside.as_ref().map(|beside| beside.text.as_slice())))
}

/// The names of a file's tensors.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    match file.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        return Ok(Vec::new());
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let names: HashMap<String, IgnoredAny> = serde_json::from_slice(&header).unwrap_or_default();
    Ok(names.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(path: &Path) -> io::Result<Digest> {
        digest_at(path, Digest::of_bytes(&std::fs::read(path)?))
    }

    fn safetensors(name: &str) -> Vec<u8> {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat()
    }

    #[test]
    fn a_configuration_counts_where_it_decides_a_scale() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let [peft, kohya] = ["peft.safetensors", "kohya.safetensors"].map(|name| dir.path().join(name));
        std::fs::write(&peft, safetensors("base_model.model.conv_in.lora_A.weight"))?;
        std::fs::write(&kohya, safetensors("lora_unet_conv_in.lora_down.weight"))?;
        let alone = digest_of(&peft)?;
        assert_eq!(alone, Digest::of_bytes(&std::fs::read(&peft)?));

        std::fs::write(dir.path().join(CONFIG_NAME), "{}")?;
        let shared = digest_of(&peft)?;
        assert_ne!(shared, alone);
        assert_eq!(digest_of(&kohya)?, Digest::of_bytes(&std::fs::read(&kohya)?));
        // With a second file of PEFT's nothing says whose it is.
        let second = dir.path().join("second.safetensors");
        std::fs::write(&second, safetensors("base_model.model.conv_out.lora_A.weight"))?;
        for path in [&peft, &second] {
            let error = digest_of(path).map_or_else(|error| error.to_string(), |_| "accepted".into());
            assert!(error.contains("one of its own"), "{error}");
        }
        std::fs::write(dir.path().join("second.adapter_config.json"), "{}")?;
        assert!(digest_of(&second).is_ok());
        assert!(digest_of(&peft).is_err(), "the other's name does not make this one's plain");
        std::fs::remove_file(&second)?;
        assert_eq!(digest_of(&peft)?, shared);
        std::fs::write(dir.path().join("peft.adapter_config.json"), r#"{"r": 1}"#)?;
        assert_ne!(digest_of(&peft)?, shared, "its own comes first");

        for broken in [&b""[..], b"short", &[0xff; 16], b"\x02\0\0\0\0\0\0\0[]"] {
            std::fs::write(&peft, broken)?;
            assert_eq!(digest_of(&peft)?, Digest::of_bytes(broken));
        }
        std::fs::write(&peft, safetensors("base_model.model.conv_in.lora_A.weight"))?;
        std::fs::write(dir.path().join("peft.adapter_config.json"), vec![b' '; 1024 * 1024 + 1])?;
        assert!(digest_of(&peft).is_err());
        Ok(())
    }
}
