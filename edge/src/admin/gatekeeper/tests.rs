use std::collections::HashSet;

use http::header::HeaderName;

use super::super::routes::{ROUTES, Reach, Verb};
use super::super::token::{TokenScope, hash};
use super::*;
use crate::shared_state::{AccessKey, Change, Grants, Log, PersonRole, Primary, Proposal, Revoke};
use crate::words::Epoch;

const NOW_S: u64 = 1_800_000_000;
const HERE: &str = "127.0.0.1";
const PROXY: &str = "10.0.0.5";
const FAR: &str = "192.0.2.7";

/// A door with a log behind it, in which tests give and revoke keys.
struct Door {
    gate: Gatekeeper,
    log: Primary,
    clock: Clock,
    _dir: tempfile::TempDir,
}

impl Door {
    fn new(config: &str) -> Self {
        Self::reached(config, Transport::Plain)
    }

    fn reached(config: &str, transport: Transport) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Primary::open(&dir.path().join("state.redb"), Epoch::default()).unwrap();
        let config: AdminConfig = toml::from_str(config).unwrap();
        config.check().unwrap();
        let clock = Clock::set_to(NOW_S);
        let (published, trusted) = (log.published().clone(), Trusted::default());
        let grounds = Grounds { published, trusted, transport, clock: clock.clone() };
        let gate = Gatekeeper::new(&config, &BudgetConfig::default(), grounds);
        Self { gate, log, clock, _dir: dir }
    }

    async fn give(&self, secret: &str, roles: &str) {
        let roles = Grants::parse(roles).unwrap();
        let key =
            AccessKey { hash: hash(secret), name: secret.to_owned(), roles, expires_unix_ms: (NOW_S + 60) * 1_000 };
        self.change(Change::Key(key)).await;
    }

    async fn change(&self, change: Change) {
        let (who, why) = ("anna".to_owned(), "a test".to_owned());
        self.log.propose(Proposal { change, who, why, key: None, edge: None }).await.unwrap();
    }

    fn asks(&self, request: &Request<()>, peer: &str, part: Part) -> Result<Principal, Denial> {
        self.gate.identify(&Asked::of(request, peer.parse().unwrap()), part)
    }

    fn reads(&self, fields: &[(&'static str, &str)], peer: &str) -> Result<String, Denial> {
        self.asks(&request(Method::GET, fields), peer, Part::Api).map(|who| who.name)
    }
}

fn request(method: Method, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri("/admin/v1/status").body(()).unwrap();
    for (name, value) in fields {
        request.headers_mut().append(HeaderName::from_static(name), value.parse().unwrap());
    }
    request
}

fn token(secret: &str, scopes: &str) -> String {
    format!("tokens = [{{ name = 'ci', hash = '{}', scopes = [{scopes}] }}]", hash(secret))
}

#[test]
fn a_token_is_known_by_its_hash_and_every_character_of_it_counts() {
    let secret = super::super::token::generate().unwrap();
    let door = Door::new(&token(&secret, "'read', 'purge'"));
    let bearer = |text: &str| door.reads(&[("authorization", text)], FAR);
    assert_eq!(bearer(&format!("Bearer {secret}")), Ok("ci".to_owned()));
    assert_eq!(bearer(&format!("bearer  {secret} ")), Ok("ci".to_owned()));
    for wrong in [format!("Basic {secret}"), secret.clone(), "Bearer".to_owned(), "Bearer ".to_owned(), String::new()] {
        assert_eq!(bearer(&wrong), Err(Denial::NoProof), "{wrong}");
    }
    assert_eq!(bearer(&format!("Bearer {}", "x".repeat(PROOF_BYTES_MAX + 1))), Err(Denial::NoProof));
    let once = format!("Bearer {secret}");
    assert_eq!(door.reads(&[("authorization", &once), ("authorization", &once)], FAR), Err(Denial::NoProof));
    assert_eq!(door.reads(&[], HERE), Err(Denial::NoProof), "tokens close the API on this machine, too");
    for at in 0..secret.len() {
        let mut bytes = secret.clone().into_bytes();
        bytes[at] ^= 1;
        let damaged = String::from_utf8(bytes).unwrap();
        assert_eq!(bearer(&format!("Bearer {damaged}")), Err(Denial::UnknownKey));
    }
    door.gate.replace(&toml::from_str(&token("fresh", "'purge'")).unwrap());
    assert_eq!((bearer(&once), bearer("Bearer fresh")), (Err(Denial::UnknownKey), Ok("ci".to_owned())));
}

#[tokio::test]
async fn a_key_is_good_until_it_expires_or_is_revoked() {
    let door = Door::new("");
    door.give("one", "*=viewer").await;
    let asks = |secret: &str| door.reads(&[("authorization", &format!("Bearer {secret}"))], FAR);
    assert_eq!((asks("one"), asks("two")), (Ok("one".to_owned()), Err(Denial::UnknownKey)));
    // Its hash, which stands in the log, is not the key.
    assert_eq!(asks(&hash("one").to_string()), Err(Denial::UnknownKey));
    let Clock::Set(now) = &door.clock else { panic!("a clock that tests set") };
    now.store(NOW_S + 59, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(asks("one"), Ok("one".to_owned()));
    now.store(NOW_S + 60, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(asks("one"), Err(Denial::Expired));
    assert_eq!(door.reads(&[], HERE), Err(Denial::NoProof), "an expired key does not open the door to all");
    now.store(NOW_S, std::sync::atomic::Ordering::Relaxed);
    door.change(Change::Revoke(Revoke { id: crate::shared_state::KeyId::of(&hash("one")) })).await;
    assert_eq!(asks("one"), Err(Denial::UnknownKey));
}

#[tokio::test]
async fn without_keys_reading_is_open_on_this_machine_and_nowhere_else() {
    let door = Door::new("");
    assert_eq!(door.reads(&[("host", "127.0.0.1:8081")], HERE), Ok("anybody".to_owned()));
    assert_eq!(door.reads(&[("host", "localhost:8081")], "::1"), Ok("anybody".to_owned()));
    assert_eq!(door.reads(&[("host", "[::1]:8081")], "::ffff:127.0.0.1"), Ok("anybody".to_owned()));
    for (fields, peer) in [
        (&[("host", "127.0.0.1")][..], FAR),
        // A proxy on this machine hands on what comes from elsewhere.
        (&[("x-forwarded-for", "192.0.2.7")][..], HERE),
        (&[("forwarded", "for=192.0.2.7")][..], HERE),
        // A page of an attacker, whose name was pointed here.
        (&[("host", "evil.example:8081")][..], HERE),
        (&[("host", "localhost.evil.example")][..], HERE),
    ] {
        assert_eq!(door.reads(fields, peer), Err(Denial::NotLocal), "{fields:?} {peer}");
    }
    let anybody = Principal::anybody();
    for route in ROUTES {
        let is_open = route.needs.role == Some(PersonRole::Viewer) && route.verb == Verb::Get;
        assert_eq!(anybody.meets(route.needs).is_ok(), is_open, "{} {}", route.verb.as_str(), route.path);
    }
    // Tokens are for programs: they close the API, and leave pages as they are.
    let door = Door::new(&token("x", "'read'"));
    let pages = |door: &Door| door.asks(&request(Method::GET, &[]), HERE, Part::Pages).map(|who| who.name);
    assert_eq!(pages(&door), Ok("anybody".to_owned()));
    door.give("one", "*=viewer").await;
    assert_eq!(pages(&door), Err(Denial::NoProof));
}

/// Every row of the table with every role, everywhere and in one campaign, with every scope, and without anything.
#[tokio::test]
async fn the_table_is_walked_whole_with_every_role() {
    let door = Door::new("");
    for role in PersonRole::ALL {
        door.give(role.as_str(), &format!("*={}", role.as_str())).await;
        door.give(&format!("{}-there", role.as_str()), &format!("autumn={}", role.as_str())).await;
    }
    let mut seen = HashSet::new();
    for route in ROUTES {
        assert!(seen.insert(route.action), "{:?} stands in two rows", route.action);
        let row = format!("{} {}", route.verb.as_str(), route.path);
        assert!(!route.summary.is_empty() && !route.answers.is_empty(), "{row}");
        let admit = |secret: &str| {
            let proof = format!("Bearer {secret}");
            let request = request(Method::GET, &[("authorization", &proof)]);
            door.gate
                .admit(&Asked::of(&request, FAR.parse().unwrap()), route.needs, Part::Api)
                .map_err(|it| it.status())
        };
        for role in PersonRole::ALL {
            let suffices = route.needs.role.is_some_and(|needed| role >= needed);
            assert_eq!(admit(role.as_str()).is_ok(), suffices, "{row} {role:?}");
            let there = suffices && route.needs.reach == Reach::Campaign;
            let admitted = admit(&format!("{}-there", role.as_str()));
            assert_eq!(admitted.as_ref().err(), (!there).then_some(&403), "{row} {role:?} in one campaign");
            // What reaches into campaigns asks again, for the campaign that it turns out to be.
            if let (Ok(who), Some(needed)) = (admitted, route.needs.role) {
                assert!(who.demand(needed, Some("autumn")).is_ok(), "{row}");
                for elsewhere in [Some("spring"), None] {
                    assert_eq!(who.demand(needed, elsewhere).unwrap_err().status, 403, "{row} {elsewhere:?}");
                }
                assert!(who.sees(Some("autumn")) && !who.sees(Some("spring")) && !who.sees(None));
            }
        }
        assert_eq!((admit("nobody").err(), admit("").err()), (Some(401), Some(401)), "{row}");
    }
}

#[test]
fn a_token_opens_what_its_scopes_name() {
    use TokenScope as S;
    for scope in [S::Read, S::Purge, S::Warm, S::Import, S::Kill, S::Review, S::Audit, S::State, S::Keys] {
        let door = Door::new(&token("x", &format!("'{}'", scope.as_str())));
        let who = door.asks(&request(Method::GET, &[("authorization", "Bearer x")]), FAR, Part::Api).unwrap();
        for route in ROUTES {
            let by_role = matches!(scope, S::Read | S::Purge | S::Warm | S::Review);
            let opens = route.needs.scope.map_or(by_role, |needed| needed == scope);
            assert_eq!(who.meets(route.needs).is_ok(), opens, "{} {:?} {scope:?}", route.path, route.verb);
        }
        // A scope that gives no keys must not become one that does.
        assert!(
            scope == S::Keys
                || ROUTES.iter().filter(|it| it.path.starts_with("keys")).all(|it| who.meets(it.needs).is_err())
        );
    }
}

#[tokio::test]
async fn a_proxys_field_is_believed_from_the_proxy_alone() {
    let door =
        Door::new("[proxy]\naddresses = ['10.0.0.5']\nheader = 'x-forwarded-user'\nroles.anna = { '*' = 'operator' }");
    door.give("one", "*=viewer").await;
    let anna = ("x-forwarded-user", "anna");
    assert_eq!(door.reads(&[anna], PROXY), Ok("anna".to_owned()));
    // A forged name is refused, also beside a key that is good.
    for peer in [FAR, HERE] {
        assert_eq!(door.reads(&[anna], peer), Err(Denial::Stranger), "{peer}");
        assert_eq!(door.reads(&[anna, ("authorization", "Bearer one")], peer), Err(Denial::Stranger), "{peer}");
    }
    assert_eq!(door.reads(&[("authorization", "Bearer one")], PROXY), Ok("one".to_owned()), "the proxy hands a key on");
    assert_eq!(door.reads(&[], PROXY), Err(Denial::NoProof));
    assert_eq!(
        door.reads(&[("x-forwarded-user", "otto")], PROXY),
        Err(Denial::WithoutRole { name: "otto".to_owned() })
    );
    // The proxy adds the name to what foreign pages send, too.
    let changes = |fields: &[(&'static str, &str)]| {
        let fields: Vec<_> = fields.iter().copied().chain([anna, ("host", "admin.example")]).collect();
        door.asks(&request(Method::POST, &fields), PROXY, Part::Api).map(|who| who.name)
    };
    assert_eq!(changes(&[]), Ok("anna".to_owned()), "no browser");
    assert_eq!(changes(&[("sec-fetch-site", "same-origin")]), Ok("anna".to_owned()));
    assert_eq!(changes(&[("origin", "https://admin.example")]), Ok("anna".to_owned()));
    for foreign in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ] {
        assert_eq!(changes(&[foreign]), Err(Denial::Forgeable), "{foreign:?}");
    }
}

#[tokio::test]
async fn a_session_changes_nothing_without_the_proof_of_its_own_page() {
    let door = Door::reached("", Transport::Tls);
    door.give("one", "*=operator").await;
    let config = door.gate.config().sessions.clone();
    let cookie = door.gate.sessions.begin(hash("one"), &config, Instant::now()).unwrap();
    let host = format!("__Host-bildkante={cookie}");
    let asks = |method: Method, fields: &[(&'static str, &str)]| {
        let fields: Vec<_> = fields.iter().copied().chain([("host", "admin.example")]).collect();
        door.asks(&request(method, &fields), FAR, Part::Api)
    };
    let cookie_field = ("cookie", host.as_str());
    let who = asks(Method::GET, &[("cookie", "other=1"), cookie_field]).unwrap();
    let Way::Session { csrf } = &who.way else { panic!("by a session") };
    let (proof, ours) = (("x-csrf-token", csrf.as_str()), ("sec-fetch-site", "same-origin"));
    assert!(asks(Method::POST, &[cookie_field, proof, ours]).is_ok());
    assert!(asks(Method::DELETE, &[cookie_field, proof, ("origin", "https://admin.example")]).is_ok());
    let damaged = format!("{}0", &csrf[1..]);
    for forged in [
        &[][..],
        &[ours][..],
        &[proof][..],
        &[proof, ("sec-fetch-site", "cross-site")],
        &[proof, ("sec-fetch-site", "none")],
        &[proof, ("origin", "https://evil.example")],
        &[ours, ("x-csrf-token", damaged.as_str())],
        &[ours, ("x-csrf-token", cookie.as_str())],
    ] {
        let fields: Vec<_> = forged.iter().copied().chain([cookie_field]).collect();
        assert_eq!(asks(Method::POST, &fields), Err(Denial::Forgeable), "{forged:?}");
    }
    // Over TLS the cookie has its prefix, which a neighbouring host cannot set.
    let bare = format!("bildkante={cookie}");
    assert_eq!(asks(Method::GET, &[("cookie", &bare)]), Err(Denial::NoProof));
    assert_eq!(asks(Method::GET, &[("cookie", "__Host-bildkante=x")]), Err(Denial::NoSession));
    // A key beside the cookie is the proof that counts, also when it is wrong.
    assert_eq!(asks(Method::GET, &[cookie_field, ("authorization", "Bearer two")]), Err(Denial::UnknownKey));
    door.change(Change::Revoke(Revoke { id: crate::shared_state::KeyId::of(&hash("one")) })).await;
    assert_eq!(asks(Method::GET, &[cookie_field]), Err(Denial::NoSession), "it ends with its key");
}

#[test]
fn a_browser_tells_where_a_request_was_begun() {
    let source = |fields: &[(&'static str, &str)]| {
        let request = request(Method::POST, fields);
        Asked::of(&request, FAR.parse().unwrap()).source()
    };
    assert_eq!(source(&[("accept", "*/*")]), Source::Untold);
    assert_eq!(source(&[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")]), Source::Ours);
    assert_eq!(source(&[("host", "a:8081"), ("origin", "http://a:8081")]), Source::Ours);
    assert_eq!(source(&[("host", "a:8081"), ("origin", "http://a:8082")]), Source::Foreign);
    assert_eq!(source(&[("origin", "http://a")]), Source::Foreign, "nothing to compare it with");
}

/// A token leaves the pages open; who logged in with it is known all the same.
#[test]
fn who_is_logged_in_counts_where_pages_are_open() {
    let door = Door::new(&token("secret", "'read', 'review', 'purge'"));
    let page = |cookie: Option<&str>| {
        let fields: Vec<(&'static str, &str)> = cookie.map(|cookie| ("cookie", cookie)).into_iter().collect();
        door.asks(&request(Method::GET, &fields), HERE, Part::Pages)
            .map(|who| (who.name.clone(), who.role_in("autumn")))
    };
    assert_eq!(page(None), Ok(("anybody".to_owned(), None)));
    let config = door.gate.config();
    let begun = door.gate.sessions.begin(hash("secret"), &config.sessions, Instant::now()).unwrap();
    assert_eq!(page(Some(&format!("bildkante={begun}"))), Ok(("ci".to_owned(), Some(PersonRole::Operator))));
    assert_eq!(page(Some("bildkante=0")), Ok(("anybody".to_owned(), None)), "a session that is over closes nothing");
}
