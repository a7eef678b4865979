//! A validator for the part of JSON Schema 2020-12 that `docs/schema` uses. A keyword that it does
//! not implement fails the test, so no part of a schema is unchecked.

use std::path::Path;

use serde_json::Value;

/// A schema of `docs/schema`.
pub(crate) struct Schema {
    name: String,
    root: Value,
}

impl Schema {
    /// Reads `docs/schema/NAME`.
    pub(crate) fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("docs/schema")
            .join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let root = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self {
            name: name.to_owned(),
            root,
        }
    }

    /// The faults of a value, each with its place.
    pub(crate) fn faults(&self, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(&self.root, value, "$", &mut faults);
        faults
    }

    /// Fails the test if the value is not valid.
    pub(crate) fn assert_valid(&self, value: &Value) {
        let faults = self.faults(value);
        assert!(faults.is_empty(), "{}: {faults:#?}\n{value:#}", self.name);
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let rules = schema
            .as_object()
            .unwrap_or_else(|| panic!("{}: {schema}", self.name));
        for (keyword, rule) in rules {
            match keyword.as_str() {
                "$schema" | "$id" | "$defs" | "title" | "description"
                // See `check_object`.
                | "additionalProperties" | "properties" | "required" => {}
                "$ref" => {
                    let pointer = rule.as_str().and_then(|r| r.strip_prefix('#')).unwrap();
                    let target = self.root.pointer(pointer);
                    let target = target.unwrap_or_else(|| panic!("{}: {rule}", self.name));
                    self.check(target, value, at, faults);
                }
                "type" => {
                    let types = rule
                        .as_array()
                        .map_or_else(|| vec![rule], |all| all.iter().collect());
                    if !types.iter().any(|t| has_type(value, t.as_str().unwrap())) {
                        faults.push(format!("{at}: {value} is not of type {rule}"));
                    }
                }
                "enum" => {
                    if !rule.as_array().unwrap().contains(value) {
                        faults.push(format!("{at}: {value} is none of {rule}"));
                    }
                }
                "const" => {
                    if rule != value {
                        faults.push(format!("{at}: {value} is not {rule}"));
                    }
                }
                "minimum" | "maximum" => {
                    let (limit, number) = (rule.as_f64().unwrap(), value.as_f64());
                    let outside = number.is_some_and(|n| {
                        if keyword == "minimum" {
                            n < limit
                        } else {
                            n > limit
                        }
                    });
                    if outside {
                        faults.push(format!("{at}: {value} is outside of {keyword} {rule}"));
                    }
                }
                "pattern" => {
                    if let Some(text) = value.as_str()
                        && !matches(rule.as_str().unwrap(), text)
                    {
                        faults.push(format!("{at}: {value} does not match {rule}"));
                    }
                }
                "items" => {
                    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{i}]"), faults);
                    }
                }
                "anyOf" => {
                    let tries = rule.as_array().unwrap().iter().map(|one| {
                        let mut faults = Vec::new();
                        self.check(one, value, at, &mut faults);
                        faults
                    });
                    let tries: Vec<Vec<String>> = tries.collect();
                    if tries.iter().all(|faults| !faults.is_empty()) {
                        faults.push(format!("{at}: none of anyOf: {tries:?}"));
                    }
                }
                other => panic!("{}: the validator has no keyword {other}", self.name),
            }
        }
        if let Some(object) = value.as_object() {
            self.check_object(schema, object, at, faults);
        }
    }

    fn check_object(
        &self,
        schema: &Value,
        object: &serde_json::Map<String, Value>,
        at: &str,
        faults: &mut Vec<String>,
    ) {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !object.contains_key(name.as_str().unwrap()) {
                faults.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, value) in object {
            let at = format!("{at}.{name}");
            match (schema["properties"].get(name), &schema["additionalProperties"]) {
                (None, Value::Bool(false)) => faults.push(format!("{at}: the schema does not have it")),
                (Some(rule), _) | (None, rule @ Value::Object(_)) => self.check(rule, value, &at, faults),
                (None, _) => {}
            }
        }
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "array" => value.is_array(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        "object" => value.is_object(),
        "string" => value.is_string(),
        other => panic!("the validator has no type {other}"),
    }
}

/// Whether a text matches one of the patterns: `^`, then characters and classes, each once or with
/// `+` or `{N}`, then `$`. No class has a character that may follow it, so no step goes back.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = pattern
        .strip_prefix('^')
        .and_then(|p| p.strip_suffix('$'))
        .unwrap();
    let mut text = text.chars().peekable();
    while let Some(first) = rest.chars().next() {
        let (class, after) = match first {
            '[' => rest[1..].split_once(']').unwrap(),
            '\\' => rest[1..].split_at(1),
            _ => rest.split_at(1),
        };
        let (least, most, after) = match after.chars().next() {
            Some('+') => (1, usize::MAX, &after[1..]),
            Some('{') => {
                let (count, after) = after[1..].split_once('}').unwrap();
                let count = count.parse().unwrap();
                (count, count, after)
            }
            _ => (1, 1, after),
        };
        let mut count = 0;
        while count < most && text.next_if(|c| is_in(class, first == '[', *c)).is_some() {
            count += 1;
        }
        if count < least {
            return false;
        }
        rest = after;
    }
    text.next().is_none()
}

fn is_in(class: &str, is_class: bool, c: char) -> bool {
    let chars: Vec<char> = class.chars().collect();
    let range = |at: usize| is_class && at > 0 && at + 1 < chars.len() && chars[at] == '-';
    (0..chars.len()).any(|at| {
        if range(at) {
            (chars[at - 1]..=chars[at + 1]).contains(&c)
        } else {
            chars[at] == c
        }
    })
}
