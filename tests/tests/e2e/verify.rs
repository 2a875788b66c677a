//! The detector end to end: `/verify` as programs and as people use it, and `inspect` on the same pictures.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bildkante_edge::app::Edge;
use bildkante_edge::config::Config;
use bildkante_edge::credentials::{SignerConfig, authority};
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{axe, judge, program};
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE};
use http::{HeaderName, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;

/// In its largest width: a file that a manifest is embedded into, and large enough for a watermark.
const SMALL: &str = "/i/studio/thumb?product=vase&fm=jpg";
const LARGE: &str = "/i/studio/hero?product=vase&fm=jpg&w=640&q=high";

/// A signer for development, and the detector with this program's own decoder.
fn verifying(dir: &Path) -> anyhow::Result<impl Fn(&mut Config) + use<>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let files = authority::init(&dir.join("authority"), now)?;
    let decoder = vec![program("bildkante-edge")?.display().to_string(), "decode-picture".to_owned()];
    Ok(move |config: &mut Config| {
        config.provenance.signer = Some(SignerConfig {
            certificate: files.certificate.clone(),
            key: Some(files.key.clone()),
            command: Vec::new(),
            command_ms: 1000,
            ocsp: None,
            renew: Vec::new(),
            renew_before_h: 0,
        });
        config.verify.enabled = true;
        config.verify.trust = Some(files.root.clone());
        config.verify.decoder = decoder.clone();
        config.verify.network_per_minute = 0;
    })
}

/// As soon as it is of the final rung.
async fn settled(rig: &Rig, edge: &Edge, path: &str) -> anyhow::Result<Reply> {
    let mut last = rig.http.image(edge.http, path).await?;
    eventually("the final rung", async || {
        last = rig.http.image(edge.http, path).await?;
        anyhow::ensure!(last.status == StatusCode::OK, "{:?}", last.headers);
        Ok(!last.header("cache-control").contains("max-age=30"))
    })
    .await?;
    Ok(last)
}

async fn post(
    rig: &Rig,
    edge: &Edge,
    path: &str,
    fields: &[(HeaderName, &str)],
    body: impl Into<Bytes>,
) -> anyhow::Result<Reply> {
    let mut request = Request::builder().method(Method::POST).uri(format!("http://{}{path}", edge.http));
    for (name, value) in fields {
        request = request.header(name, *value);
    }
    rig.http.send(request.body(Full::from(body.into()))?).await
}

/// The answer to a picture, as a program gets it.
async fn checked(rig: &Rig, edge: &Edge, picture: &Bytes) -> anyhow::Result<Value> {
    let reply = post(rig, edge, "/verify", &[(CONTENT_TYPE, "image/jpeg")], picture.clone()).await?;
    anyhow::ensure!(reply.status == StatusCode::OK, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("x-robots-tag"), "noindex");
    reply.json()
}

/// The same pixels in another file: encoded anew, and a little smaller.
fn edited(picture: &[u8]) -> anyhow::Result<Bytes> {
    let image = image::load_from_memory(picture)?;
    let smaller =
        image.resize_exact(image.width() * 9 / 10, image.height() * 9 / 10, image::imageops::FilterType::Lanczos3);
    let mut file = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 80).encode_image(&smaller.into_rgb8())?;
    Ok(file.into())
}

/// A picture that has nothing to do with this edge.
fn foreign() -> anyhow::Result<Bytes> {
    let picture =
        image::RgbImage::from_fn(320, 240, |x, y| image::Rgb([(x * y % 251) as u8, (x % 256) as u8, y as u8]));
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png)?;
    Ok(file.into_inner().into())
}

fn inspect(arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(program("bildkante-edge")?).arg("inspect").args(arguments).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_known_signed_edited_or_not_at_all_and_its_result_is_signed() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let edge = rig.another_edge("verifying", verifying(rig.dir.path())?).await?;
    rig.healthy_nodes(&edge, 1).await?;
    // Too small for a manifest of its own: the edge has it beside the file.
    let small = settled(&rig, &edge, SMALL).await?.body;
    let report = checked(&rig, &edge, &small).await?;
    assert_eq!(report["report"]["verdict"], "signed", "{report:#}");
    let own = settled(&rig, &edge, LARGE).await?.body;

    let answer = checked(&rig, &edge, &own).await?;
    let report = &answer["report"];
    assert_eq!((report["verdict"].as_str(), report["made_by_a_model"].as_str()), (Some("signed"), Some("stated")));
    assert_eq!(report["metadata"]["ai_system"], "studio-tiny", "{report:#}");
    let mark = &report["watermark"]["found"][0];
    assert_eq!(mark["algorithm"], "com.bildkante.watermark.1", "{report:#}");
    assert_eq!(mark["agrees_with_manifest"], true, "{mark:#}");
    assert!(mark["masters"][0]["url"].as_str().is_some_and(|url| url.contains("product=vase")), "{mark:#}");

    // Encoded anew: the signature and the statements are gone, the mark and the looks are not.
    let again = checked(&rig, &edge, &edited(&own)?).await?;
    let report = &again["report"];
    assert_eq!((report["verdict"].as_str(), report["c2pa"]["finding"].as_str()), (Some("marked"), Some("absent")));
    assert_eq!(report["watermark"]["found"][0]["value"], mark["value"], "{report:#}");
    let alike = &report["fingerprint"]["found"][0];
    assert!(alike["url"].as_str().is_some_and(|url| url.contains("product=vase")), "{report:#}");

    // A bit changed in the middle of the picture.
    let mut changed = own.to_vec();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert_eq!(checked(&rig, &edge, &changed.into()).await?["report"]["verdict"], "broken");

    let stranger = checked(&rig, &edge, &foreign()?).await?;
    assert_eq!(stranger["report"]["verdict"], "nothing", "{stranger:#}");
    assert_eq!(stranger["report"]["made_by_a_model"], "not_stated");

    // The signed result is verified, and is of no other picture.
    let (result, picture, other) =
        (rig.dir.path().join("result"), rig.dir.path().join("own"), rig.dir.path().join("other"));
    std::fs::write(&result, answer.to_string())?;
    std::fs::write(&picture, &own)?;
    std::fs::write(&other, foreign()?)?;
    let root = rig.dir.path().join("authority/root.pem");
    let [result, picture, other, root] = [&result, &picture, &other, &root].map(|path| path.display().to_string());
    let (is_well, said) = inspect(&["--trust", &root, "--result", &result, &picture])?;
    assert!(
        is_well && said.contains("a trusted authority vouches for it") && said.contains("it is the picture"),
        "{said}"
    );
    let (is_well, said) = inspect(&["--result", &result, &other])?;
    assert!(!is_well && said.contains("ANOTHER picture"), "{said}");
    let mut forged = answer.clone();
    let payload = forged["document"]["payload"].as_str().unwrap_or_default().replacen('a', "b", 1);
    forged["document"]["payload"] = payload.into();
    std::fs::write(&result, forged.to_string())?;
    let (is_well, said) = inspect(&["--trust", &root, "--result", &result])?;
    assert!(!is_well && said.contains("does not hold"), "{said}");

    // On the command line: a file, and a URL.
    let (is_well, said) = inspect(&["--trust", &root, &picture])?;
    assert!(is_well && said.contains("not changed since") && said.contains("watermark 1"), "{said}");
    let (is_well, said) = inspect(&["--json", &format!("http://{}{LARGE}", edge.http)])?;
    let report: Value = serde_json::from_str(&said)?;
    assert!(is_well && report["file"]["sha256"] == answer["report"]["file"]["sha256"], "{said}");

    // From the mark to the manifests of the pictures that it names.
    let value = mark["value"].as_str().unwrap_or_default();
    let found = rig.http.get(edge.http, &format!("/verify/softbinding/{value}"), &[]).await?.json()?;
    let manifest = &found["matches"][0];
    assert!(manifest["manifestId"].as_str().is_some_and(|id| id.starts_with("urn:c2pa:")), "{found:#}");
    let url = manifest["manifestUrl"].as_str().unwrap_or_default();
    let path = url.strip_prefix(&format!("http://{}", edge.http)).unwrap_or_default();
    assert_eq!(rig.http.get(edge.http, path, &[]).await?.content_type(), "application/c2pa");

    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_is_refused_with_its_cause() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let verifying = verifying(rig.dir.path())?;
    let edge = rig
        .another_edge("strict", |config| {
            verifying(config);
            config.verify.file_bytes_max = 400_000;
            config.verify.pixels_max = 100_000;
            (config.verify.network_burst, config.verify.network_per_minute) = (4, 1);
        })
        .await?;
    let refused = |reply: &Reply| -> anyhow::Result<(u16, String)> {
        assert_eq!(reply.header("cache-control"), "no-store");
        Ok((reply.status.as_u16(), reply.json()?["type"].as_str().unwrap_or_default().to_owned()))
    };
    let picture = foreign()?;
    let text = post(&rig, &edge, "/verify", &[(CONTENT_TYPE, "text/plain")], picture.clone()).await?;
    assert_eq!(refused(&text)?, (415, "/problems/unsupported-media-type".to_owned()));
    let long = post(&rig, &edge, "/verify", &[], vec![0; 500_000]).await?;
    assert_eq!(refused(&long)?, (413, "/problems/picture-too-long".to_owned()));
    // These spend the network's budget: they look like pictures until they are read.
    let gif = post(&rig, &edge, "/verify", &[], &b"GIF89a"[..]).await?;
    assert_eq!(refused(&gif)?, (415, "/problems/unsupported-media-type".to_owned()));
    let empty =
        post(&rig, &edge, "/verify", &[(CONTENT_TYPE, "multipart/form-data; boundary=x")], &b"--x--"[..]).await?;
    assert_eq!(refused(&empty)?, (400, "/problems/no-picture".to_owned()));
    assert_eq!(post(&rig, &edge, "/verify", &[], picture.clone()).await?.status, StatusCode::OK);
    let wide = image::RgbImage::new(400, 300);
    let mut file = std::io::Cursor::new(Vec::new());
    wide.write_to(&mut file, image::ImageFormat::Png)?;
    let many = post(&rig, &edge, "/verify", &[], file.into_inner()).await?.json()?;
    let reason = many["report"]["watermark"]["unsearched"][0]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("400×300 px are more than the 100000"), "{many:#}");
    let spent = post(&rig, &edge, "/verify", &[], picture).await?;
    assert_eq!(refused(&spent)?, (429, "/problems/too-many-pictures".to_owned()));
    assert_eq!(spent.header("retry-after"), "60");
    let put = rig.http.ask(Method::PUT, edge.http, "/verify", &[]).await?;
    assert_eq!((put.status, put.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, POST, OPTIONS"));
    let unknown = rig.http.get(edge.http, "/verify/softbinding/xyz", &[]).await?;
    assert_eq!(refused(&unknown)?.0, 400);
    // Where it is not switched on, nothing is there.
    assert_eq!(rig.http.get(rig.public(), "/verify", &[]).await?.status, StatusCode::NOT_FOUND);
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_speaks_two_languages_and_is_for_everybody() -> anyhow::Result<()> {
    let test = "the_page_speaks_two_languages_and_is_for_everybody";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let Some(axe) = axe::script(test)? else { return Ok(()) };
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let edge = rig.another_edge("page", verifying(rig.dir.path())?).await?;
    rig.healthy_nodes(&edge, 1).await?;

    let german = rig.http.get(edge.http, "/verify", &[(ACCEPT_LANGUAGE, "de-AT,de;q=0.9,en;q=0.5")]).await?;
    assert!(german.text().contains("Woher kommt dieses Bild?") && german.text().contains("<html lang=\"de\""));
    let english = rig.http.get(edge.http, "/verify", &[]).await?;
    assert!(english.text().contains("Where does this picture come from?"));
    let policy = english.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    // Without script: what a browser posts is answered with a page, a refusal too.
    let own = settled(&rig, &edge, LARGE).await?.body;
    let form = (CONTENT_TYPE, "multipart/form-data; boundary=edge");
    let page = post(&rig, &edge, "/verify?lang=de", &[form.clone(), (ACCEPT, "text/html")], form_of(&own)).await?;
    assert!(page.text().contains("Signiert und seitdem nicht verändert"), "{}", page.text());
    let refused = post(&rig, &edge, "/verify", &[form, (ACCEPT, "text/html")], form_of(b"GIF89a")).await?;
    assert!(refused.status == 415 && refused.text().contains("This is no picture that can be checked here."));

    let browser = Browser::open(&driver, &chromium).await?;
    let files = [("own", own.clone()), ("edited", edited(&own)?), ("foreign", foreign()?)];
    for (name, file) in files {
        std::fs::write(rig.dir.path().join(name), file)?;
    }
    for (language, name, verdict) in [("en", "own", "signed"), ("de", "edited", "marked"), ("en", "foreign", "nothing")]
    {
        browser.visit(&format!("http://{}/verify?lang={language}", edge.http)).await?;
        assert_eq!(axe::violations(&browser, &axe).await?, Vec::<String>::new());
        let picture = rig.dir.path().join(name).display().to_string();
        browser.choose("input[type=file]", &picture).await?;
        let chosen = browser.run("return document.querySelector('[data-chosen] span').textContent").await?;
        assert_eq!(chosen, name, "the script shows what was chosen");
        browser.run("document.querySelector('form button').click()").await?;
        eventually("the result", async || {
            let found = browser.run("return document.querySelector('.verdict')?.dataset.verdict ?? ''").await?;
            Ok(found == verdict)
        })
        .await?;
        let shown = browser.run("return document.documentElement.lang").await?;
        assert_eq!(shown, language);
        let download = browser.run("return document.querySelector('a[download]').href").await?;
        assert!(download.as_str().is_some_and(|url| url.starts_with("data:application/json;base64,")), "{download}");
        assert_eq!(axe::violations(&browser, &axe).await?, Vec::<String>::new());
    }
    browser.close().await?;
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

fn form_of(picture: &[u8]) -> Vec<u8> {
    let head = b"--edge\r\nContent-Disposition: form-data; name=\"picture\"; filename=\"a\"\r\n\r\n";
    [&head[..], picture, b"\r\n--edge--\r\n"].concat()
}
