//! What people see of layers: on a variant's page, in answers, and in a terminal while `check` tries them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::eventually;
use bildkante_tests::judge;
use bildkante_tests::program;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

use crate::layers::add_kiosk;

const PAGE: &str = "/preview/kiosk/poster/variant?backdrop=orange&colour=teal&locale=en-GB&product=mug";

#[tokio::test(flavor = "multi_thread")]
async fn a_page_says_what_became_of_layers_and_a_phone_is_shown_its_cut() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    add_kiosk(&rig)?;
    let edge = rig.another_edge("layers", |_| {}).await?;
    rig.healthy_nodes(&edge, 1).await?;

    // Before the picture is drawn its layers are listed, and nothing is drawn for the page.
    let page = rig.http.get(edge.admin, PAGE, &[]).await?;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    assert!(page.text().contains("data-layer=\"headline\"") && page.text().contains("is not known yet"));
    assert_eq!(control.calls(), 0);

    let path = "/i/kiosk/poster?locale=en-GB&w=640&fm=webp";
    let made = rig.http.image(edge.http, path).await?;
    let timing = made.header("server-timing").to_owned();
    assert!(timing.contains(", layers;dur="), "{timing}");
    let kept = rig.http.image(edge.http, path).await?;
    assert!(!kept.header("server-timing").contains("layers"), "nothing was laid on for it");

    let text = rig.http.get(edge.admin, PAGE, &[]).await?.text();
    // The slot's own framing and its cut, each with a share of text and the contrast of both texts.
    assert_eq!(text.matches("data-text-share=").count(), 2, "{text}");
    assert_eq!(text.matches("data-layer=\"claim\"").count(), 2);
    // Two products in two colours and three locales: the picture itself differs by its backdrop alone.
    assert!(text.contains("12 sets of layers lie on it"), "{text}");
    for locale in ["de-DE", "en-GB", "ar-EG"] {
        assert!(text.contains(&format!("locale={locale}&amp;product=mug#layers")), "a step to {locale}: {text}");
    }
    let slot = rig.http.get(edge.admin, "/preview/kiosk/poster?_view=cards", &[]).await?.text();
    assert!(slot.contains("data-layer-sets=\"12\""), "one card for each picture: {slot}");
    let german = rig.http.get(edge.admin, &format!("{PAGE}&_lang=de"), &[]).await?.text();
    assert!(german.contains("Texte bedecken") && german.contains("Ebenensätze liegen darauf"), "{german}");
    assert_eq!(control.calls(), 1, "all of it is laid on one picture");

    let test = "a_page_says_what_became_of_layers_and_a_phone_is_shown_its_cut";
    if let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) {
        let browser = Browser::open(&driver, &chromium).await?;
        browser.resize(1400, 900).await?;
        browser.visit(&format!("http://{}{PAGE}", edge.admin)).await?;
        for (screen, shown) in [("390", "tall"), ("1440", "none"), ("390", "tall"), ("", "none")] {
            browser.run(&format!("document.querySelector('[name=screen][value=\"{screen}\"]').click()")).await?;
            let look = "const cut = document.querySelector('.shot [data-cut-shown]');\
                        const img = [...document.querySelectorAll('.stage .shot img')].find(it => it.checkVisibility());\
                        return (cut ? cut.dataset.cutShown : 'none') + ' ' + (img && img.naturalWidth > 0 && img.currentSrc.includes('art=tall'))";
            let wanted = format!("{shown} {}", shown == "tall");
            eventually("the cut of that screen", async || Ok(browser.run(look).await? == wanted)).await?;
        }
        browser.hold_quiet().await?;
        browser.close().await?;
    }
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A bar on a terminal, and nothing of it anywhere else.
#[test]
fn check_shows_on_a_terminal_how_far_it_is() -> anyhow::Result<()> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let dir = tempfile::tempdir()?;
    let (config, edge) = (dir.path().join("check.toml"), program("bildkante-edge")?);
    let (campaigns, prompts) = (shipped.join("campaigns"), shipped.join("prompts"));
    std::fs::write(&config, format!("[campaigns]\ncampaigns_dir = {campaigns:?}\nprompts_dir = {prompts:?}\n"))?;
    let piped = Command::new(&edge).args(["check", "--config"]).arg(&config).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&piped.stderr).into_owned();
    assert!(piped.status.success() && !said.contains("layers of"), "{said}");
    // `script` (util-linux) runs a command on a terminal of its own.
    let command = format!("'{}' check --config '{}'", edge.display(), config.display());
    let Some(script) = judge::find("script", "check_shows_on_a_terminal_how_far_it_is")? else { return Ok(()) };
    let on_terminal = Command::new(script).args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&on_terminal.stdout).into_owned();
    assert!(on_terminal.status.success() && said.contains("layers of kiosk"), "{said}");
    Ok(())
}
