//! `bildkante-edge sign` and `explain` as an operator meets them: a new key, a signed URL, what the edge makes of it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn edge(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_bildkante-edge");
    Command::new(program).args(arguments).current_dir(folder).output().expect("the edge's program starts")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_new_key_signs_and_explain_verifies() {
    let folder = tempfile::tempdir().expect("a folder");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let key = said(&edge(folder.path(), &["sign", "--new-key", "--kid", "k1"]));
    let keys = folder.path().join("keys.toml");
    let set_mode = |mode| std::fs::set_permissions(&keys, Permissions::from_mode(mode)).expect("chmod");
    std::fs::write(&keys, &key).expect("written");
    set_mode(0o600);
    let config = format!(
        "[campaigns]\ncampaigns_dir = {:?}\nprompts_dir = {:?}\n[signing]\nkeys_file = \"keys.toml\"\n",
        repository.join("config/campaigns"),
        repository.join("config/prompts")
    );
    std::fs::write(folder.path().join("edge.toml"), config).expect("written");

    let url = "https://img.example.com/i/studio/hero/mug?w=300&h=200&product=mug";
    let with_config = |command: &'static str, rest: &[&str]| {
        edge(folder.path(), &[&[command, "--config", "edge.toml"], rest].concat())
    };
    let signed = said(&with_config("sign", &["--expires", "24h", url]));
    let signed = signed.trim();
    let start = "https://img.example.com/i/studio/hero/mug?product=mug&w=300&h=200&kid=k1&expires=";
    assert!(signed.starts_with(start), "{signed}");

    let explained = said(&with_config("explain", &[signed]));
    assert!(explained.contains("signature      valid, by key k1, for another 86"), "{explained}");
    assert!(explained.contains("300x200.avif q70"), "{explained}");
    let forged = with_config("explain", &[&signed.replace("h=200", "h=201")]);
    assert!(!forged.status.success());
    assert!(String::from_utf8_lossy(&forged.stdout).contains("403 Forbidden: the signature does not belong"));

    // The list of tracking parameters knows `srsltid`; whether it is an axis, only the campaigns know.
    std::fs::write(
        folder.path().join("elsewhere.toml"),
        "[campaigns]\ncampaigns_dir = \"none\"\n[signing]\nkeys_file = \"keys.toml\"\n",
    )
    .expect("written");
    let elsewhere = |url: &str| edge(folder.path(), &["sign", "--config", "elsewhere.toml", url]);
    assert_eq!(
        said(&elsewhere("/i/studio/hero?w=300&utm_source=x")),
        said(&with_config("sign", &["/i/studio/hero?w=300&srsltid=x"]))
    );
    assert!(
        String::from_utf8_lossy(&elsewhere("/i/studio/hero?w=300&srsltid=x").stderr).contains("taken for tracking")
    );

    set_mode(0o644);
    for command in ["sign", "explain"] {
        let exposed = with_config(command, &[url]);
        assert!(String::from_utf8_lossy(&exposed.stderr).contains("run `chmod 6"), "{command}: {exposed:?}");
        assert!(!exposed.status.success());
    }
    set_mode(0o600);

    for (arguments, reason) in [
        (&["--kid", "k2", url][..], "there is no key `k2`"),
        (&["--expires", "yesterday", url], "`yesterday` is no moment"),
        (&["https://img.example.com/other"], "image paths are"),
    ] {
        let refused = with_config("sign", arguments);
        assert!(!refused.status.success());
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(error.contains(reason) && !error.contains(&key[30..60]), "{error}");
    }
}
