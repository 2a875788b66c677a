//! `GET /admin/v1/openapi.json`: the table of routes as an OpenAPI 3.1 document, for generators of clients and for tests.
//!
//! Paths, methods, roles and parameters come from [`ROUTES`](super::routes::ROUTES); the schemas of bodies stand in
//! `openapi/schemas.json`. Invariant: each name that a route uses is a schema, and each schema is used.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::PREFIX;
use super::routes::{
    EVENTS, Form, PATCH, PICTURE, Parameter, Presence, ROUTES, Reach, Repeats, Route, TEXT_CHARS_MAX, Takes,
};
use super::token::TokenScope;
use crate::render::OriginalFormat;
use crate::shared_state::{KEY_BYTES_MAX, PersonRole};

const SCHEMAS: &str = include_str!("openapi/schemas.json");
const PROBLEM: &str = bildkante_shared::problem::CONTENT_TYPE;

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);

/// The document.
pub(super) fn document() -> &'static Value {
    &DOCUMENT
}

fn build() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(format!("{PREFIX}{}", route.path)).or_insert_with(|| json!({}));
        path[route.verb.as_str()] = operation(route);
    }
    // The file is part of the build; a test reads it.
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Bildkante admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Kills, purges, warmings, imports, keys and the log of who decided what",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "key": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": { "Problem": problem() },
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "A key, or a token of `[admin] tokens`" },
                "session": {
                    "type": "apiKey", "in": "cookie", "name": "__Host-bildkante",
                    "description": "A browser's session; changes also send `X-CSRF-Token`, which /admin/v1/me tells",
                },
            },
        },
    })
}

fn problem() -> Value {
    json!({
        "description": "What went wrong (RFC 9457)",
        "content": { PROBLEM: { "schema": { "$ref": "#/components/schemas/Problem" } } },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = path_parameter(route).into_iter().collect();
    parameters.extend(route.query.iter().map(query_parameter));
    if route.repeats == Repeats::ByKey {
        parameters.push(idempotency_key());
    }
    let mut operation = json!({
        "operationId": format!("{:?}", route.action),
        "summary": route.summary,
        "description": who_may(route),
        "x-role": route.needs.role.map(PersonRole::as_str),
        "x-reach": if route.needs.reach == Reach::Edge { "edge" } else { "campaign" },
        "x-scope": route.needs.scope.map(TokenScope::as_str),
        "parameters": parameters,
        "responses": responses(route),
    });
    match route.takes {
        Takes::Nothing => {}
        Takes::Json(schema) => {
            let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        Takes::JsonOrCsv(schema) => {
            let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
            operation["requestBody"] = json!({
                "required": true,
                "content": { "application/json": { "schema": schema }, "text/csv": {} },
            });
        }
        Takes::Picture => {
            let content: Map<String, Value> =
                OriginalFormat::ALL.into_iter().map(|it| (it.format().media_type().to_owned(), json!({}))).collect();
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
    }
    operation
}

fn who_may(route: &Route) -> String {
    let role = match route.needs.role {
        Some(role) => format!("Takes the role `{}`", role.as_str()),
        None => "For edges alone".to_owned(),
    };
    let scope =
        route.needs.scope.map_or_else(String::new, |scope| format!(", or a token of the scope `{}`", scope.as_str()));
    format!("{role}{scope}.")
}

fn responses(route: &Route) -> Value {
    let mut responses = Map::new();
    for (status, schema) in route.answers {
        let mut content = if *schema == PICTURE {
            json!({ "image/avif": {}, "image/webp": {}, "image/jpeg": {} })
        } else if *schema == PATCH {
            json!({ "text/x-diff": {} })
        } else if *schema == EVENTS {
            json!({ "text/event-stream": {} })
        } else {
            json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
        };
        for parameter in route.query.iter().filter(|parameter| parameter.name == "as") {
            if let Form::Words(words) = parameter.form {
                let other = if words.contains(&"csv") { "text/csv" } else { "text/html" };
                content[other] = json!({});
            }
        }
        responses.insert(status.to_string(), json!({ "description": said(*status), "content": content }));
    }
    responses.insert("default".to_owned(), json!({ "$ref": "#/components/responses/Problem" }));
    Value::Object(responses)
}

const fn said(status: u16) -> &'static str {
    match status {
        201 => "It is there now",
        202 => "It is under way",
        _ => "It is so",
    }
}

fn path_parameter(route: &Route) -> Option<Value> {
    let (_, rest) = route.path.split_once('{')?;
    let (name, _) = rest.split_once('}')?;
    Some(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
}

fn query_parameter(parameter: &Parameter) -> Value {
    let Parameter { name, form, is, what } = parameter;
    let schema = match form {
        Form::Text => json!({ "type": "string", "minLength": 1, "maxLength": TEXT_CHARS_MAX }),
        Form::Words(words) => json!({ "type": "string", "enum": words }),
        Form::Number { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Form::Digits(count) => json!({ "type": "string", "pattern": format!("^[0-9a-f]{{{count}}}$") }),
        Form::Digest => json!({ "type": "string", "pattern": "^blake3:[0-9a-f]{64}$" }),
    };
    json!({ "name": name, "in": "query", "required": *is == Presence::Required, "description": what, "schema": schema })
}

fn idempotency_key() -> Value {
    json!({
        "name": "Idempotency-Key", "in": "header", "required": false,
        "description": "An order that is repeated with its key is carried out once",
        "schema": { "type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX, "pattern": "^[!-~]+$" },
    })
}

#[cfg(test)]
mod tests;
