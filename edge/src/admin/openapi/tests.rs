use std::collections::BTreeSet;

use super::super::routes::CASE_STATES;
use super::*;
use crate::shared_state::CaseState;

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = document();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| item.as_object().expect("an item").keys().map(|verb| (path.clone(), verb.clone())))
        .collect();
    let rows: BTreeSet<_> =
        ROUTES.iter().map(|route| (format!("{PREFIX}{}", route.path), route.verb.as_str().to_owned())).collect();
    assert_eq!(described, rows);
    assert_eq!(rows.len(), ROUTES.len(), "no two rows match the same request");
    for route in ROUTES {
        let operation = &document["paths"][format!("{PREFIX}{}", route.path)][route.verb.as_str()];
        assert_eq!(operation["x-role"].as_str(), route.needs.role.map(PersonRole::as_str), "{}", route.path);
        assert_eq!(operation["requestBody"].is_object(), route.takes != Takes::Nothing, "{}", route.path);
    }
}

#[test]
fn cases_have_the_states_that_are_described() {
    assert_eq!(CaseState::ALL.map(CaseState::as_str).as_slice(), CASE_STATES);
    assert_eq!(document()["components"]["schemas"]["Decision"]["properties"]["state"]["enum"], json!(CASE_STATES));
}

#[test]
fn each_schema_is_there_and_is_used() {
    let schemas: Value = serde_json::from_str(SCHEMAS).expect("JSON");
    let there: BTreeSet<String> =
        schemas.as_object().expect("schemas").keys().map(|name| format!("#/components/schemas/{name}")).collect();
    let mut used = BTreeSet::new();
    references(document(), &mut used);
    used.remove("#/components/responses/Problem");
    assert_eq!(used, there);
}
