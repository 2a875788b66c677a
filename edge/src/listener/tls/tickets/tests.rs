use proptest::prelude::*;

use super::*;

const HOUR_S: u64 = 3600;

fn at(s: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(s)
}

fn config(file: Option<PathBuf>) -> TicketConfig {
    TicketConfig { file, rotate_s: 12 * 3600, lifetime_s: 24 * 3600 }
}

#[test]
fn what_is_sealed_opens_and_what_is_touched_does_not() {
    let keys = TicketKeys::open(&config(None), SystemTime::now()).expect("keys");
    let ticket = keys.encrypt(b"a session").expect("a ticket");
    assert_eq!(keys.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
    for index in 0..ticket.len() {
        let mut touched = ticket.clone();
        touched[index] ^= 1;
        assert_eq!(keys.decrypt(&touched), None, "byte {index}");
    }
    for length in 0..ticket.len() {
        assert_eq!(keys.decrypt(&ticket[..length]), None);
    }
    assert_ne!(keys.encrypt(b"a session"), Some(ticket), "salted");
}

#[test]
fn two_processes_share_a_file_and_rotation_keeps_old_tickets_for_their_lifetime() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("ticket.keys");
    let now = unix_s(SystemTime::now());
    let one = TicketKeys::open(&config(Some(path.clone())), at(now)).expect("makes the file");
    let two = TicketKeys::open(&config(Some(path.clone())), at(now)).expect("reads it");
    let ticket = one.encrypt(b"session").expect("a ticket");
    assert!(two.decrypt(&ticket).is_some());
    // Twelve hours on, one of them rotates; both still open the old ticket.
    for keys in [&one, &two] {
        keys.refresh(at(now + 12 * HOUR_S)).expect("rotates once");
        assert_eq!(keys.len(), 2);
        assert!(keys.decrypt(&ticket).is_some());
    }
    // The successor became active at 12 h 1 min: the old key goes a lifetime later.
    one.refresh(at(now + 36 * HOUR_S)).expect("refreshes");
    assert!(one.decrypt(&ticket).is_some());
    one.refresh(at(now + 37 * HOUR_S)).expect("refreshes");
    assert_eq!(one.decrypt(&ticket), None, "erased");
    let restarted = TicketKeys::open(&config(Some(path)), at(now + 37 * HOUR_S)).expect("reads it");
    assert_eq!(restarted.decrypt(&ticket), None);
}

#[test]
fn a_new_key_is_known_before_it_is_used() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("ticket.keys");
    let by_others = TicketConfig { rotate_s: 0, ..config(Some(path.clone())) };
    assert!(TicketKeys::open(&by_others, SystemTime::now()).is_err(), "nobody made the file yet");
    let rotation = Rotation { lifetime_s: 86_400, lead: Duration::from_secs(600) };
    let now = SystemTime::now();
    assert_eq!(rotate(&path, &rotation, now).expect("first"), 1);
    let one = TicketKeys::open(&by_others, now).expect("one key");
    let first = one.encrypt(b"x").expect("a ticket");
    assert_eq!(rotate(&path, &rotation, now).expect("second"), 2);
    one.refresh(now).expect("two keys");
    let second = one.encrypt(b"x").expect("a ticket");
    assert_eq!(first[..ID_BYTES], second[..ID_BYTES], "the new key is not active yet");
    let ring = one.ring.load();
    let later = ring.encrypting(unix_s(now) + 601).expect("a key");
    assert_ne!(later.id[..], first[..ID_BYTES]);
}

#[test]
fn a_bad_file_is_refused_by_line_and_leaves_the_keys() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("ticket.keys");
    let config = config(Some(path.clone()));
    let keys = TicketKeys::open(&config, SystemTime::now()).expect("keys");
    let ticket = keys.encrypt(b"x").expect("a ticket");
    let good = std::fs::read_to_string(&path).expect("file");
    for (text, named) in [
        ("# nothing\n".to_owned(), "holds no key"),
        (good.clone() + "12 ab\n", ":3:"),
        (good.clone() + "x " + &"a".repeat(64), ":3:"),
        (good.clone() + &"é".repeat(20), ":3:"),
        ((0..17).map(|n| format!("{n} {n:064}\n")).collect(), "more than 16"),
    ] {
        std::fs::write(&path, text).expect("write");
        let error = keys.refresh(SystemTime::now()).expect_err("refused").to_string();
        assert!(error.contains(named), "{error}");
        assert!(keys.decrypt(&ticket).is_some());
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(&path, good).expect("write");
    assert!(keys.refresh(SystemTime::now()).is_ok());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let error = keys.refresh(SystemTime::now()).expect_err("everybody reads it").to_string();
    assert!(error.contains("mode 0644") && error.contains("run `chmod 6"), "{error}");
}

#[test]
fn the_defaults_are_within_their_bounds_and_nonsense_is_not() {
    assert!(TicketConfig::default().check().is_ok());
    assert!(TicketConfig { rotate_s: 0, ..TicketConfig::default() }.check().is_ok());
    assert!(TicketConfig { rotate_s: 60, ..TicketConfig::default() }.check().is_err());
    assert!(TicketConfig { lifetime_s: LIFETIME_S_MAX + 1, ..TicketConfig::default() }.check().is_err());
}

proptest! {
    #[test]
    fn no_ticket_panics(ticket in proptest::collection::vec(any::<u8>(), 0..200)) {
        let keys = TicketKeys::open(&config(None), SystemTime::now()).expect("keys");
        prop_assert_eq!(keys.decrypt(&ticket), None);
    }
}
