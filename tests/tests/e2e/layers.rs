//! Layers end to end: one drawn scene, the product and the words of every language on it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use bildkante_edge::credentials::{Finding, verify};
use bildkante_edge::words::Format;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

use crate::provenance::{settled, signing};

/// The shipped campaign with layers, beside the one that the rig has.
pub(crate) fn add_kiosk(rig: &Rig) -> anyhow::Result<()> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/campaigns");
    let campaigns = rig.dir.path().join("campaigns");
    for folder in ["", "layers", "layers/fonts", "layers/packshots"] {
        std::fs::create_dir_all(campaigns.join(folder))?;
        for entry in std::fs::read_dir(shipped.join(folder))? {
            let entry = entry?;
            let is_wanted = !folder.is_empty() || entry.file_name().to_string_lossy().starts_with("kiosk");
            if is_wanted && entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), campaigns.join(folder).join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_master_has_the_words_of_every_locale_and_says_what_was_laid_on_it() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    add_kiosk(&rig)?;
    let (sign, trust) = signing(rig.dir.path())?;
    let edge = rig.another_edge("layers", &sign).await?;
    rig.healthy_nodes(&edge, 1).await?;

    let mut bodies = HashSet::new();
    for locale in ["de-DE", "en-GB", "ar-EG"] {
        for product in ["mug", "bottle"] {
            for width in [320, 640] {
                for format in ["webp", "jpg"] {
                    let path = format!("/i/kiosk/poster?product={product}&locale={locale}&w={width}&fm={format}");
                    let reply = rig.http.image(edge.http, &path).await?;
                    assert_eq!(reply.status, StatusCode::OK, "{path}: {:?}", reply.headers);
                    bodies.insert(reply.body);
                }
            }
        }
    }
    assert_eq!((bodies.len(), control.calls()), (24, 1), "every picture differs, and one was drawn");

    let picture = settled(&rig, &edge, "/i/kiosk/poster?fm=png&w=640").await?;
    let Finding::Valid { credentials } = verify(Format::Png, &picture.body, None, &trust) else {
        anyhow::bail!("not valid");
    };
    let told: Vec<&str> = credentials.actions.iter().map(|action| action.action.as_str()).collect();
    assert_eq!(told.iter().filter(|action| **action == "c2pa.placed").count(), 2, "packshot and logo: {told:?}");
    let source = credentials.actions[0].source.as_deref().unwrap_or_default();
    assert!(source.ends_with("/compositeWithTrainedAlgorithmicMedia"), "{source}");
    let xmp = String::from_utf8_lossy(&picture.body).into_owned();
    assert!(xmp.contains("compositeWithTrainedAlgorithmicMedia"), "the XMP says so, too");

    // Another text is another picture at once, and draws nothing.
    let path = "/i/kiosk/poster?locale=en-GB&w=640&fm=webp";
    let before = rig.http.image(edge.http, path).await?.body;
    let table = rig.dir.path().join("campaigns/kiosk-copy.csv");
    let texts = std::fs::read_to_string(&table)?;
    std::fs::write(&table, texts.replace("Every day, for a lifetime", "Every single day"))?;
    eventually("the new text", async || Ok(rig.http.image(edge.http, path).await?.body != before)).await?;
    assert_eq!(control.calls(), 1);
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}
