//! The preview in headless Chromium: what a person would see, and what the page reports.

use bildkante_tests::browser::Browser;
use bildkante_tests::client::eventually;
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};

/// The page shows the generated picture as AVIF, and its LCP arrives in the metrics.
#[tokio::test]
async fn the_preview_shows_the_picture_and_its_lcp_arrives() -> anyhow::Result<()> {
    let test = "the_preview_shows_the_picture_and_its_lcp_arrives";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let rig = Rig::start(Plan::shipped()).await?;
    let warm = rig.http.image(rig.public(), "/i/studio/hero").await?;
    assert!(warm.status.is_success());
    let browser = Browser::open(&driver, &chromium).await?;
    let all = "product=mug&colour=teal&material=glossy&backdrop=cream&setting=studio";
    let page = format!("http://{}/preview/studio/hero/variant?{all}", rig.admin());
    browser.visit(&page).await?;
    shows_avif(&browser).await?;

    // Leaving the page settles its LCP. On a busy machine the first visit's may have been the headline, painted long
    // before the picture: the next visit has the picture in its cache.
    let count = "bildkante_rum_lcp_seconds_count{campaign=\"studio\",slot=\"hero\"}";
    // Looks between two visits: more each time, because a beacon may be slow as well.
    let mut looks = 5;
    browser.visit("about:blank").await?;
    eventually("its LCP arrives", async || {
        for _ in 0..looks {
            if rig.http.metric(rig.admin(), count).await? >= 1.0 {
                return Ok(true);
            }
        }
        looks *= 2;
        browser.visit(&page).await?;
        shows_avif(&browser).await?;
        browser.visit("about:blank").await?;
        Ok(false)
    })
    .await?;
    browser.close().await?;
    rig.stop().await;
    Ok(())
}

/// Waits until the stage's picture is decoded, negotiated as AVIF and described as such.
async fn shows_avif(browser: &Browser) -> anyhow::Result<()> {
    eventually("the picture is decoded", async || {
        let width = browser.run("return document.querySelector('.stage img').naturalWidth").await?;
        Ok(width.as_u64().is_some_and(|width| width > 0))
    })
    .await?;
    let source = browser.run("return document.querySelector('.stage img').currentSrc").await?;
    let source = source.as_str().unwrap_or_default();
    assert!(source.contains("fm=avif"), "the browser chose {source}");
    eventually("the badge says AVIF", async || {
        let badge = browser.run("return document.querySelector('.stage .badge').textContent").await?;
        Ok(badge.as_str().is_some_and(|text| text.starts_with("AVIF")))
    })
    .await
}
