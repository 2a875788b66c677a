//! Every command with nobody at the other end of stdout or stderr, as in `explain … | head -1`: it ends as it would have
//! ended, and does what it was told.

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A configuration of the demo campaign, a signing key and a token, in a folder of their own.
fn site() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
    write(
        "edge.toml",
        format!(
            "[campaigns]\ncampaigns_dir = {:?}\nprompts_dir = {:?}\n[signing]\nkeys_file = \"keys.toml\"\n",
            repository.join("config/campaigns"),
            repository.join("config/prompts")
        ),
    );
    write("wrong.toml", "no_such_key = 1\n".to_owned());
    write("keys.toml", format!("[[keys]]\nkid = \"k\"\nsecret = \"{}=\"\n", "A".repeat(43)));
    std::fs::set_permissions(folder.path().join("keys.toml"), Permissions::from_mode(0o600)).expect("chmod");
    write("token", "a-token".to_owned());
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bildkante-edge"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The writing end of a pipe that has no reading end.
fn unread() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Runs a command with both ends read, with stdout unread, with stderr unread and with both: its exit status each time.
fn statuses(folder: &Path, arguments: &[&str]) -> [Option<i32>; 4] {
    let run = |set: &dyn Fn(&mut Command)| {
        let mut command = command(folder, arguments);
        set(&mut command);
        command.status().expect("the edge's program starts").code()
    };
    [
        run(&|_| {}),
        run(&|command| {
            command.stdout(unread());
        }),
        run(&|command| {
            command.stderr(unread());
        }),
        run(&|command| {
            command.stdout(unread()).stderr(unread());
        }),
    ]
}

#[test]
fn every_command_ends_as_it_would_have_ended() {
    let site = site();
    let url = "/i/studio/hero?product=mug";
    for (arguments, status) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["no-such-command"], 64),
        (&["serve", "--config", "wrong.toml"], 64),
        (&["serve", "--config", "none.toml"], 64),
        (&["check", "--config", "edge.toml"], 0),
        (&["check", "--config", "wrong.toml"], 64),
        (&["explain", "--config", "edge.toml", url], 0),
        (&["explain", "--config", "edge.toml", "--json", url], 0),
        (&["explain", "--config", "edge.toml", "/i/studio/hero?product=boat"], 1),
        (&["sign", "--config", "edge.toml", "/i/studio/hero?w=300&h=300"], 0),
        (&["sign", "--config", "edge.toml", "/nothing"], 1),
        (&["sign", "--new-key"], 0),
        (&["ticket-keys", "--file", "tickets"], 0),
        (&["token"], 0),
        (&["lock", "--config", "edge.toml", "--models", "no-such-folder"], 1),
        (&["purge", "--campaign", "studio", "--token-file", "none"], 1),
        (&["warm", "--campaign", "studio", "--token-file", "none"], 1),
    ] {
        assert_eq!(statuses(site.path(), arguments), [Some(status); 4], "{arguments:?}");
    }
    let keys = std::fs::read_to_string(site.path().join("tickets")).expect("written");
    let count = keys.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(count, 4, "each of the four runs added its key");
}

#[test]
fn locks_are_written_although_the_reader_of_their_names_is_gone() {
    let site = site();
    let models = site.path().join("models/studio-tiny");
    std::fs::create_dir_all(&models).expect("a folder");
    std::fs::write(models.join("model_index.json"), "{}").expect("written");
    std::fs::create_dir(site.path().join("campaigns")).expect("a folder");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = site.path().join("campaigns/studio.toml");
    std::fs::copy(repository.join("config/campaigns/studio.toml"), &manifest).expect("copied");
    let config =
        format!("[campaigns]\ncampaigns_dir = \"campaigns\"\nprompts_dir = {:?}\n", repository.join("config/prompts"));
    std::fs::write(site.path().join("edge.toml"), config).expect("written");
    let mut command = command(site.path(), &["lock", "--config", "edge.toml", "--models", "models"]);
    assert_eq!(command.stdout(unread()).status().expect("started").code(), Some(0));
    assert!(site.path().join("campaigns/studio.lock.toml").exists());
}

/// A full disk loses the result, which is not the same as a reader who has read enough.
#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let site = site();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
    let mut command = command(site.path(), &["explain", "--config", "edge.toml", "/i/studio/hero"]);
    let output = command.stdout(full()).stderr(Stdio::piped()).output().expect("started");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("stdout cannot be written"), "{error}");
}

/// `purge` and `warm` against an admin API of few words: what it says is theirs to print.
#[test]
fn commands_that_ask_an_edge_tell_its_outcome_by_their_status() {
    let site = site();
    for (arguments, reply, status) in [
        (&["purge", "--campaign", "studio"][..], r#"{"id": 1, "downstream": {}}"#, 0),
        (&["purge", "--campaign", "studio"], r#"{"id": 1, "downstream": {"cdn": {"state": "pending"}}}"#, 1),
        (&["warm", "--campaign", "studio"], r#"{"id": 1, "state": "done", "total": 2, "done": 2}"#, 0),
        (
            &["warm", "--campaign", "studio"],
            r#"{"id": 1, "state": "done", "total": 2, "done": 2, "failed": 1, "failures": [{"url": "/i/x/y", "error": "e"}]}"#,
            1,
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let admin = format!("http://{}", listener.local_addr().expect("bound"));
        let server = std::thread::spawn(move || {
            for _ in 0..4 {
                answer(&listener, reply).expect("answered");
            }
        });
        let arguments = [arguments, &["--admin", &admin, "--token-file", "token"]].concat();
        assert_eq!(statuses(site.path(), &arguments), [Some(status); 4], "{arguments:?} {reply}");
        server.join().expect("every run asked once");
    }
}

/// Answers one request with JSON.
fn answer(listener: &TcpListener, body: &str) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece)?;
        request.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let Some((head, sent)) = text.split_once("\r\n\r\n").filter(|_| count > 0) else {
            if count > 0 {
                continue;
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if sent.len() >= length {
            break;
        }
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length";
    write!(stream, "{head}: {}\r\n\r\n{body}", body.len())
}
