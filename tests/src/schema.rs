//! JSON Schema as far as the admin API's document uses it: enough to hold an answer against what is promised of it.
//!
//! A keyword that is not known here is an error, so that no promise goes unchecked.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Whether `value` is as `schema` says; references are looked up in `document`.
///
/// # Errors
/// Names the place and the keyword, or a keyword that is not known here.
pub fn check(document: &Value, schema: &Value, value: &Value) -> anyhow::Result<()> {
    at(document, schema, value, "$")
}

fn at(document: &Value, schema: &Value, value: &Value, place: &str) -> anyhow::Result<()> {
    let keywords = schema.as_object().with_context(|| format!("{place}: the schema is no object"))?;
    for (keyword, wanted) in keywords {
        let holds = keyword_holds(document, (keyword, wanted), schema, value, place)?;
        ensure!(holds, "{place}: `{keyword}` {wanted} does not hold for {value}");
    }
    Ok(())
}

fn keyword_holds(
    document: &Value,
    (keyword, wanted): (&str, &Value),
    schema: &Value,
    value: &Value,
    place: &str,
) -> anyhow::Result<bool> {
    Ok(match keyword {
        // What a regular expression allows is the business of schemathesis, which knows them.
        "description" | "pattern" | "propertyNames" => true,
        "$ref" => {
            let pointer = wanted.as_str().and_then(|it| it.strip_prefix('#')).context("a reference")?;
            let target = document.pointer(pointer).with_context(|| format!("{place}: {wanted} is not there"))?;
            at(document, target, value, place)?;
            true
        }
        "type" => match wanted {
            Value::Array(types) => types.iter().any(|it| is_a(value, it.as_str().unwrap_or_default())),
            one => is_a(value, one.as_str().unwrap_or_default()),
        },
        "enum" => wanted.as_array().is_some_and(|allowed| allowed.contains(value)),
        "const" => wanted == value,
        "minimum" => value.as_f64().is_none_or(|number| wanted.as_f64().is_some_and(|least| number >= least)),
        "maximum" => value.as_f64().is_none_or(|number| wanted.as_f64().is_some_and(|most| number <= most)),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= size(wanted)),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= size(wanted)),
        "minProperties" => value.as_object().is_none_or(|map| map.len() >= size(wanted)),
        "maxProperties" => value.as_object().is_none_or(|map| map.len() <= size(wanted)),
        "maxItems" => value.as_array().is_none_or(|list| list.len() <= size(wanted)),
        "required" => {
            let names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
            value.as_object().is_none_or(|map| names.into_iter().all(|name| map.contains_key(name)))
        }
        "properties" => {
            for (name, schema) in wanted.as_object().into_iter().flatten() {
                if let Some(value) = value.get(name) {
                    at(document, schema, value, &format!("{place}.{name}"))?;
                }
            }
            true
        }
        "additionalProperties" => {
            let known = |name: &String| schema["properties"].get(name).is_some();
            for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| !known(name)) {
                match wanted {
                    Value::Bool(allowed) => ensure!(*allowed, "{place}: `{name}` is not described"),
                    schema => at(document, schema, value, &format!("{place}.{name}"))?,
                }
            }
            true
        }
        "items" => {
            for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                at(document, wanted, value, &format!("{place}[{index}]"))?;
            }
            true
        }
        "oneOf" => {
            wanted.as_array().into_iter().flatten().filter(|it| at(document, it, value, place).is_ok()).count() == 1
        }
        "not" => at(document, wanted, value, place).is_err(),
        other => bail!("{place}: the keyword `{other}` is not known to this check"),
    })
}

fn size(value: &Value) -> usize {
    value.as_u64().and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX)
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_promise_that_is_broken_is_found() {
        let document = json!({ "defs": { "Name": { "type": "string", "minLength": 1 } } });
        let schema = json!({
            "type": "object", "required": ["a"], "additionalProperties": false,
            "properties": { "a": { "$ref": "#/defs/Name" }, "b": { "type": ["integer", "null"], "minimum": 1 } },
        });
        let check = |value: Value| check(&document, &schema, &value).is_ok();
        assert!(
            check(json!({ "a": "x" })) && check(json!({ "a": "x", "b": null })) && check(json!({ "a": "x", "b": 1 }))
        );
        for broken in [
            json!([]),
            json!({}),
            json!({ "a": "" }),
            json!({ "a": 1 }),
            json!({ "a": "x", "b": 0 }),
            json!({ "a": "x", "c": 1 }),
        ] {
            assert!(!check(broken.clone()), "{broken}");
        }
        let unknown = super::check(&document, &json!({ "maxContains": 1 }), &json!(1));
        assert!(unknown.is_err_and(|error| error.to_string().contains("maxContains")));
    }
}
