//! What signing costs: CPU time and bytes for every format and algorithm, each rendition signed one after the other.
//!
//! ```text
//! cargo run --release -p bildkante-edge --example sign_bench
//! ```
//!
//! Workload: a painted studio scene of 960 × 540 px at quality `auto`, a chain of two certificates, neither timestamp nor
//! ingredients. CPU time is this thread's own, the median of 200 rounds: *sign* embeds a new manifest, *attach* a kept one,
//! *beside* signs without embedding, *verify* checks the signed file against a trusted root. Budget: at most 1 ms and
//! 4096 bytes a signature.

#[path = "../tests/clock/mod.rs"]
mod clock;
#[path = "../tests/pictures/mod.rs"]
mod pictures;
#[path = "../tests/pki/mod.rs"]
mod pki;

use bildkante_edge::credentials::{
    Generation, Origin, Signer, Signing, SoftBinding, Step, Story, Trust, attach, verify,
};
use bildkante_edge::provenance::{DigitalSource, Marking};
use bildkante_edge::render::{Finish, Quality, RenderJob, RenditionSpec, Rung, Shape, render};
use bildkante_edge::words::Format;
use clock::thread_cpu_ms;
use std::sync::Arc;

const ROUNDS: usize = 200;

fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let pki = pki::Pki::new(dir.path());
    let trust = Trust::from_pem(&pki.root_pem)?;
    let now_unix_s = pki::now_unix_s();
    let story = story();
    println!(
        "{:<8} {:<6} {:>8} {:>7} {:>8} {:>9} {:>9} {:>9}",
        "key", "format", "file B", "added B", "sign µs", "attach µs", "beside µs", "verify µs"
    );
    for (name, algorithm) in [("es256", &rcgen::PKCS_ECDSA_P256_SHA256), ("ed25519", &rcgen::PKCS_ED25519)] {
        let identity = pki.signer(name, algorithm);
        let signer = Signer::from_files(&identity.chain, &identity.key, now_unix_s)?;
        let signing = Signing { signer: &signer, timestamper: None, ocsp: None, now_unix_s };
        for format in Format::ALL {
            let file = rendition(format)?;
            let signed = signing.embed(&story, format, &file)?;
            let sign = median_us(|| signing.embed(&story, format, &file).is_ok())?;
            let attached = median_us(|| attach(format, &file, &signed.manifest).is_ok())?;
            let beside = median_us(|| signing.beside(&story, format, &file).is_ok())?;
            let verified = median_us(|| verify(format, &signed.file, None, &trust).as_str() == "valid")?;
            let (bytes, added) = (file.len(), signed.file.len() - file.len());
            println!(
                "{name:<8} {format:<6} {bytes:>8} {added:>7} {sign:>8.0} {attached:>9.0} {beside:>9.0} {verified:>9.0}",
                format = format.as_str()
            );
        }
    }
    Ok(())
}

fn story() -> Story {
    Story {
        origin: Origin::Created {
            source: DigitalSource::TrainedAlgorithmicMedia,
            at: Some("2026-11-28T10:00:00Z".to_owned()),
        },
        steps: vec![
            Step::Cropped,
            Step::Resized { width_px: 960, height_px: 540 },
            Step::Watermarked,
            Step::Transcoded,
        ],
        generation: Some(Generation {
            recipe: "7".repeat(52),
            master: "9".repeat(52),
            checkpoint: Some(format!("studio-xl@{}", "5".repeat(52))),
            determinism: Some("cuda-sm90/libtorch-2.11/fp16/b1".to_owned()),
        }),
        ingredients: Vec::new(),
        soft_binding: Some(SoftBinding {
            algorithm: "com.bildkante.wm1".to_owned(),
            value: "0123456789abcdef".to_owned(),
        }),
    }
}

fn rendition(format: Format) -> anyhow::Result<Vec<u8>> {
    let marking = Marking { creator: Some("Studio".into()), credit: Some("Studio".into()), ..Marking::default() };
    let spec = RenditionSpec { width_px: 960, height_px: 540, shape: Shape::DEFAULT, format, quality: Quality::AUTO };
    let master = pictures::studio(1344, 768);
    let finish = Arc::new(Finish::of_generated(marking));
    Ok(render(&master, &RenderJob::new(master.master_id(), spec, Rung::Quick, finish))?.bytes)
}

/// Microseconds of this thread's processor time, the median of all rounds.
fn median_us(mut work: impl FnMut() -> bool) -> anyhow::Result<f64> {
    let mut taken = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let before = thread_cpu_ms();
        anyhow::ensure!(work(), "the work failed");
        taken.push((thread_cpu_ms() - before) * 1e3);
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken[ROUNDS / 2])
}
