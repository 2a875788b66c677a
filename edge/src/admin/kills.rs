//! `/admin/v1/kills`: take pictures out of circulation on every edge, let them back, and see what is in force.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::body::{Fault, Fields, fault, wrong};
use super::{AdminApi, PREFIX, Principal, Reply};
use crate::cache::unix_ms;
use crate::governance::{Covered, InForce, KillError, KillOrder, Killed, kills};
use crate::response::{Exposure, Recall};
use crate::shared_state::{LogError, PersonRole, TARGET_BYTES_MAX, TargetKind, WHY_BYTES_MAX};

/// Kills of one page.
const PAGE_MAX: usize = 1_000;
const PAGE: usize = 100;
const FIELDS: [&str; 11] =
    ["campaign", "slot", "value", "variant", "recipe", "master", "checkpoint", "adapter", "block", "import", "why"];

/// One target, and why.
pub(super) fn order(key: Option<String>, mut fields: Fields) -> Result<KillOrder, Fault> {
    let mut named = Vec::new();
    for kind in TargetKind::ALL {
        named.extend(fields.text(kind.as_str(), TARGET_BYTES_MAX)?.map(|name| (kind, name)));
    }
    let why = why(&mut fields)?;
    fields.end(&FIELDS)?;
    let mut named = named.into_iter();
    match (named.next(), named.next()) {
        (Some((kind, name)), None) => Ok(KillOrder { kind, name, why, key }),
        (None, _) => Err(wrong("campaign", "nothing is named that is to be killed", &FIELDS[..10])),
        (Some(_), Some((second, _))) => Err(wrong(second.as_str(), "a kill names one thing", &FIELDS[..10])),
    }
}

pub(super) fn why(fields: &mut Fields) -> Result<String, Fault> {
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    if why.trim().is_empty() { Err(wrong("why", "`why` says why, for the audit", &[])) } else { Ok(why) }
}

pub(super) async fn kill(api: &AdminApi, who: &Principal, order: KillOrder) -> Result<Reply, Fault> {
    let field = order.kind.as_str();
    let target = kills::target(&api.catalog.load(), order.kind, &order.name).map_err(|error| refused(&error, field))?;
    who.demand(PersonRole::Operator, target.campaign())?;
    let killed = match api.kills.kill(who.name(), order).await {
        Ok(killed) => killed,
        Err(KillError::Log(error @ LogError::HeldHere { .. })) => return Ok(held(&error)),
        Err(error) => return Err(refused(&error, field)),
    };
    let location = Some(format!("{PREFIX}kills/{}", killed.entry.seq()));
    Ok(Reply { status: if killed.is_new { 201 } else { 200 }, body: told(api, &killed), location })
}

pub(super) async fn lift(
    api: &AdminApi,
    who: &Principal,
    seq: &str,
    (why, key): (String, Option<String>),
) -> Result<Reply, Fault> {
    let number = number(seq)?;
    let target = api.kills.killed_by(number).await.map_err(|error| refused(&error, "seq"))?;
    who.demand(PersonRole::Operator, target.campaign())?;
    let lifted = api.kills.lift(who.name(), number, why, key).await.map_err(|error| refused(&error, "seq"))?;
    Ok(Reply::ok(told(api, &lifted)))
}

/// It holds on this edge, and the others learn of it later.
fn held(error: &LogError) -> Reply {
    let LogError::HeldHere { target, reason } = error else { return Reply::ok(Value::Null) };
    let body = json!({ "target": target, "shared": false, "held_on": "this-edge", "reason": reason });
    Reply { status: 202, body, location: Some(format!("{PREFIX}kills")) }
}

/// Kills in force, a page of them.
pub(super) fn list(api: &AdminApi, who: &Principal, query: Option<&str>) -> Result<Value, Fault> {
    let Page { after, limit } = Page::parse(query, PAGE, PAGE_MAX)?;
    let found = api.kills.in_force(after, limit + 1);
    let next = found.get(limit).and_then(|_| found[..limit].last()).map(|kill| kill.seq);
    let seen = found.iter().take(limit).filter(|kill| who.sees(kill.target.campaign()));
    let shown: Vec<Value> = seen.map(shown).collect();
    let epoch = api.kills.log().published().load().epoch();
    Ok(json!({ "kills": shown, "next": next, "epoch": epoch }))
}

pub(super) async fn one(api: &AdminApi, who: &Principal, seq: &str) -> Result<Value, Fault> {
    let number = number(seq)?;
    let found = number.checked_sub(1).and_then(|after| api.kills.in_force(Some(after), 1).into_iter().next());
    let found = found.filter(|kill| kill.seq == number && who.sees(kill.target.campaign()));
    let kill = found.ok_or_else(|| super::no_such("kill in force", seq))?;
    let (kills, target) = (api.kills.clone(), kill.target.clone());
    let covered = tokio::task::spawn_blocking(move || kills.covers(&target)).await.unwrap_or_default();
    let mut value = shown(&kill);
    value["covers"] = covers(&covered);
    Ok(value)
}

fn number(seq: &str) -> Result<u64, Fault> {
    seq.parse().map_err(|_| super::no_such("kill in force", seq))
}

fn shown(kill: &InForce) -> Value {
    let is_shared = kill.seq > 0;
    json!({ "seq": is_shared.then_some(kill.seq), "target": kill.target, "shared": is_shared })
}

fn told(api: &AdminApi, killed: &Killed) -> Value {
    let Killed { entry, target, covered, purge, .. } = killed;
    json!({
        "seq": entry.seq(),
        "change": entry.change().as_str(),
        "target": target,
        "at_unix_ms": entry.at_unix_ms(),
        "actor": entry.actor(),
        "why": entry.why(),
        "hash": entry.hash(),
        "epoch": api.kills.log().published().load().epoch(),
        "covers": covers(covered),
        "downstream": purge.as_ref().map(|purge| json!({ "purge": purge.id, "caches": purge.downstream })),
        "exposure": exposure(api, covered),
    })
}

fn covers(covered: &Covered) -> Value {
    json!({ "campaigns": covered.campaigns, "recipes": covered.recipes })
}

/// What may still be shown elsewhere, and until when: the longest of the campaigns that show what is covered.
fn exposure(api: &AdminApi, covered: &Covered) -> Value {
    let catalog = api.catalog.load();
    let has_purger = !api.desk.downstream.is_empty();
    let is_meant = |name: &str| covered.campaigns.is_empty() || covered.campaigns.iter().any(|it| it == name);
    let recalls = catalog.campaigns().filter(|campaign| is_meant(&campaign.name)).map(|campaign| {
        match (campaign.policy.is_recallable, has_purger) {
            (false, _) => Recall::Never,
            (true, true) => Recall::ByPurger,
            (true, false) => Recall::Recallable,
        }
    });
    let exposures: Vec<Exposure> = recalls.map(Recall::exposure).collect();
    let now = unix_ms(SystemTime::now());
    let until = |seconds: u32| json!({ "max_age_s": seconds, "until_unix_ms": now + u64::from(seconds) * 1_000 });
    let browsers = exposures.iter().map(|it| it.browsers_s).max().unwrap_or_default();
    let shared = exposures.iter().map(|it| it.shared_s).max().unwrap_or_default();
    let mut value = json!({ "browsers": until(browsers), "shared_caches": until(shared) });
    value["shared_caches"]["ends_when_confirmed"] = json!(has_purger);
    value
}

/// `?after=…&limit=…`.
pub(super) struct Page {
    pub(super) after: Option<u64>,
    pub(super) limit: usize,
}

impl Page {
    pub(super) fn parse(query: Option<&str>, limit: usize, limit_max: usize) -> Result<Self, Fault> {
        let mut page = Self { after: None, limit };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || value.parse::<u64>().map_err(|_| wrong(name, format!("`{name}` is a whole number"), &[]));
            match name {
                "after" => page.after = Some(number()?),
                "limit" => {
                    let limit = usize::try_from(number()?).unwrap_or(usize::MAX);
                    let is_within = (1..=limit_max).contains(&limit);
                    page.limit = is_within
                        .then_some(limit)
                        .ok_or_else(|| wrong("limit", format!("`limit` is 1 to {limit_max}"), &[]))?;
                }
                _ => {
                    let shown: String = name.chars().take(60).collect();
                    return Err(wrong(&shown, format!("there is no parameter `{shown}`"), &["after", "limit"]));
                }
            }
        }
        Ok(page)
    }
}

fn refused(error: &KillError, field: &str) -> Fault {
    match error {
        KillError::Target(_) | KillError::Unknown(_) => wrong(field, error.to_string(), &[]),
        KillError::NoSuchKill(seq) => super::no_such("kill in force", &seq.to_string()),
        KillError::Log(error) => log_fault(error),
    }
}

/// What the log says, with whose turn it is.
pub(super) fn log_fault(error: &LogError) -> Fault {
    let detail = match error {
        LogError::Relayed(problem) => return problem.clone(),
        LogError::NotPrimary(why) => return fault(409, "not-primary", "Not the primary", why.to_string()),
        LogError::Store(_) => format!(
            "a kill holds on this edge and is not on disk: a restart forgets it, and no other edge knows of it. Ask again when \
             the device takes writes: {error}"
        ),
        error => error.to_string(),
    };
    fault(error.status(), error.as_str(), "Not changed", detail)
}
