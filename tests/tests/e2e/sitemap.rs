//! The sitemap as a search engine reads it: what is live and drawn, and nothing else.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};
use flate2::read::GzDecoder;
use http::header::IF_NONE_MATCH;
use http::{Method, StatusCode};
use serde_json::json;

use crate::purge::{admin, with_tokens};

fn with_sitemap(config: &mut Config) {
    with_tokens(config);
    config.seo.sitemap = true;
}

/// A tenth of the campaign: an unoptimised edge takes its time for 75,000 variants.
fn small(text: String) -> String {
    let is_kept = |line: &&str| {
        let is_value = line.starts_with("values.");
        !is_value
            || ["cream", "glossy", "studio", "vase", "mug", "teal", "red"]
                .iter()
                .any(|it| line.contains(&format!("values.{it} ")))
    };
    text.lines().filter(is_kept).collect::<Vec<_>>().join("\n")
}

/// Two slots stand on pages of the shop, and one of them on a second kind of pages.
fn with_pages(text: String) -> String {
    let product = "pages = [\"https://shop.example/{locale}/{product}?c={colour}&x\"]\nsizes";
    let hero =
        "pages = [\"https://shop.example/{locale}/{product}?c={colour}&x\", \"https://shop.example/{locale}/\"]\nsizes";
    let text = small(text);
    let (before, after) = text.split_once("[slots.teaser]").unwrap_or_default();
    let (teaser, thumb) = after.split_once("[slots.thumb]").unwrap_or_default();
    let (hero, teaser) = (before.replacen("sizes", hero, 1), teaser.replacen("sizes", product, 1));
    format!("{hero}[slots.teaser]{teaser}[slots.thumb]{thumb}")
}

/// Holds a file against the schema of sitemaps, with that of their images: those who read sitemaps skip what breaks it.
fn keeps_the_schema(xml: &str, test: &str) -> anyhow::Result<()> {
    let schema = judge::named("BILDKANTE_SITEMAP_SCHEMA", "the schema of sitemaps", test)?;
    let (Some(schema), Some(xmllint)) = (schema, judge::find("xmllint", test)?) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup/markup/sitemap-image.xsd");
    let import = |namespace: &str, file: &Path| {
        format!("<xsd:import namespace=\"{namespace}\" schemaLocation=\"{}\"/>", file.display())
    };
    let both = format!(
        "<xsd:schema xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">{}{}</xsd:schema>",
        import("http://www.sitemaps.org/schemas/sitemap/0.9", &schema),
        import("http://www.google.com/schemas/sitemap-image/1.1", &images)
    );
    let (both_file, file) = (dir.path().join("both.xsd"), dir.path().join("sitemap.xml"));
    std::fs::write(&both_file, both)?;
    std::fs::write(&file, xml)?;
    let both_file = both_file.to_str().context("a path in UTF-8")?;
    judge::run(&xmllint, &["--nonet", "--noout", "--schema", both_file], &file)?;
    let broken = xml.replacen("<loc>", "<lok>", 1).replacen("</loc>", "</lok>", 1);
    std::fs::write(&file, broken)?;
    ensure!(judge::run(&xmllint, &["--nonet", "--noout", "--schema", both_file], &file).is_err(), "it judges nothing");
    Ok(())
}

/// What the sitemap lists, a line for each address with its pictures.
async fn listed(rig: &Rig) -> anyhow::Result<BTreeSet<String>> {
    let index = rig.http.get(rig.public(), "/sitemap.xml", &[]).await?;
    ensure!(index.status == StatusCode::OK, "{} {}", index.status, index.text());
    let origin = format!("http://{}", rig.public());
    let mut lines = BTreeSet::new();
    for file in between(&index.text(), "<loc>", "</loc>") {
        let path = file.strip_prefix(&origin).with_context(|| file.clone())?.to_owned();
        let reply = rig.http.get(rig.public(), &path, &[]).await?;
        ensure!(reply.status == StatusCode::OK, "{path}: {} {}", reply.status, reply.text());
        let mut xml = String::new();
        GzDecoder::new(&*reply.body).read_to_string(&mut xml)?;
        for entry in between(&xml, "<url>", "</url>") {
            let entry = entry.replace(&origin, "").replace("&amp;", "&");
            let location = between(&entry, "<loc>", "</loc>").remove(0);
            let images = between(&entry, "<image:loc>", "</image:loc>").join(" ");
            lines.insert(format!("{location} {images}"));
        }
    }
    Ok(lines)
}

fn between(text: &str, start: &str, end: &str) -> Vec<String> {
    let parts = text.split(start).skip(1).filter_map(|rest| rest.split_once(end));
    parts.map(|(inside, _)| inside.to_owned()).collect()
}

async fn lists(rig: &Rig, what: &str, expected: &[String]) -> anyhow::Result<()> {
    let expected: BTreeSet<String> = expected.iter().cloned().collect();
    let mut found = BTreeSet::new();
    let held = eventually(what, async || {
        found = listed(rig).await?;
        Ok(found == expected)
    });
    held.await.with_context(|| format!("{what}: {found:#?}"))
}

#[tokio::test]
async fn a_sitemap_lists_what_is_live_on_its_pages() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_sitemap, manifest: with_pages, ..Plan::painted(&control) }).await?;
    lists(&rig, "nothing is drawn yet", &[]).await?;

    for url in
        ["/i/studio/hero", "/i/studio/hero?product=vase", "/i/studio/teaser?product=vase", "/i/studio/thumb?colour=red"]
    {
        assert_eq!(
            rig.http
                .image(rig.public(), &format!("{url}{}fm=webp", if url.contains('?') { '&' } else { '?' }))
                .await?
                .status,
            StatusCode::OK
        );
    }
    let default = rig.http.get(rig.public(), "/p/studio/hero?fm=json", &[]).await?.json()?;
    let variant = default["variant"].as_str().context("a variant")?;
    let product = between(&format!("{variant}&"), "product=", "&").remove(0);
    let (home, english) = ("https://shop.example/de-DE/", "https://shop.example/en-GB/");
    // The slots share their masters, so what was drawn for one is live in all of them.
    let of_locale = |home: &str, locale: Option<&str>| {
        let query = |before: Option<&str>, behind: Option<&str>| {
            let all: Vec<&str> = [before, locale, behind].into_iter().flatten().collect();
            if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
        };
        let (default, vase, red) =
            (query(None, None), query(None, Some("product=vase")), query(Some("colour=red"), None));
        let shop = |product: &str, colour: &str, query: &str| {
            let pictures = ["hero", "teaser"].map(|slot| format!("/i/studio/{slot}{query}")).join(" ");
            format!("{home}{product}?c={colour}&x {pictures}")
        };
        let thumb = |query: &str| format!("/i/studio/thumb{query} /i/studio/thumb{query}");
        [
            format!("{home} /i/studio/hero{default}"),
            shop(&product, "teal", &default),
            shop("vase", "teal", &vase),
            shop(&product, "red", &red),
            thumb(&default),
            thumb(&vase),
            thumb(&red),
        ]
    };
    let all = [of_locale(home, None), of_locale(english, Some("locale=en-GB"))].concat();
    lists(&rig, "what was drawn is listed", &all).await?;
    let index = rig.http.get(rig.public(), "/sitemap.xml", &[]).await?.text();
    let file = between(&index, "<loc>", "</loc>").remove(0).replace(&format!("http://{}", rig.public()), "");
    let reply = rig.http.get(rig.public(), &file, &[]).await?;
    let mut xml = String::new();
    GzDecoder::new(&*reply.body).read_to_string(&mut xml)?;
    keeps_the_schema(&xml, "a_sitemap_lists_what_is_live_on_its_pages")?;

    let killed =
        admin(&rig, Method::POST, "/admin/v1/kills", Some(json!({ "slot": "studio/hero", "why": "a test" }))).await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());
    let without_hero = |line: &String| {
        let left: Vec<&str> = line.split(' ').filter(|picture| !picture.starts_with("/i/studio/hero")).collect();
        (left.len() > 1).then(|| left.join(" "))
    };
    let left: Vec<String> = all.iter().filter_map(without_hero).collect();
    lists(&rig, "what is killed is not", &left).await?;
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn files_have_validators_and_their_own_type() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_sitemap, manifest: small, ..Plan::painted(&control) }).await?;
    rig.http.image(rig.public(), "/i/studio/thumb?fm=webp").await?;
    // The three slots share their masters, and two locales share a picture.
    eventually("it is listed", async || Ok(listed(&rig).await?.len() == 6)).await?;
    let index = rig.http.get(rig.public(), "/sitemap.xml", &[]).await?;
    assert_eq!(index.content_type(), "application/xml; charset=utf-8");
    let file = rig.http.get(rig.public(), "/sitemaps/studio-1.xml.gz", &[]).await?;
    assert_eq!((file.content_type(), file.header("content-encoding")), ("application/gzip", ""));
    for (path, reply) in [("/sitemap.xml", &index), ("/sitemaps/studio-1.xml.gz", &file)] {
        let etag = reply.header("etag");
        let again = rig.http.get(rig.public(), path, &[(IF_NONE_MATCH, etag)]).await?;
        assert_eq!((again.status, again.header("etag")), (StatusCode::NOT_MODIFIED, etag));
        let head = rig.http.ask(Method::HEAD, rig.public(), path, &[]).await?;
        assert_eq!((head.body.len(), head.header("content-length")), (0, reply.header("content-length")));
        assert_eq!(reply.header("cache-control"), "public, max-age=60, must-revalidate");
    }
    for path in ["/sitemaps/studio-2.xml.gz", "/sitemaps/../state.redb", "/sitemaps/"] {
        assert_eq!(rig.http.get(rig.public(), path, &[]).await?.status, StatusCode::NOT_FOUND, "{path}");
    }
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn there_is_none_unless_it_is_switched_on_and_none_of_signed_campaigns() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    assert_eq!(rig.http.get(rig.public(), "/sitemap.xml", &[]).await?.status, StatusCode::NOT_FOUND);
    rig.stop().await;
    let manifest: fn(String) -> String = |text| text.replace("signing = \"optional\"", "signing = \"required\"");
    let rig = Rig::start(Plan { edge: with_sitemap, manifest, ..Plan::painted(&control) }).await?;
    assert!(!rig.http.get(rig.public(), "/sitemap.xml", &[]).await?.text().contains("studio"));
    rig.stop().await;
    Ok(())
}
