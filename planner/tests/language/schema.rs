//! The committed schema is the one that the types give.

use expect_test::expect_file;

use super::root;

#[test]
fn is_current() {
    expect_file![root().join("pipelines/schema.json")].assert_eq(&chariot::schema::schema_json());
}

#[test]
fn every_key_has_a_description() {
    let schema: serde_json::Value = serde_json::from_str(&chariot::schema::schema_json()).unwrap();
    let mut bare = Vec::new();
    walk(&schema, "", &mut bare);
    assert!(bare.is_empty(), "keys without a description: {bare:?}");
}

fn walk(schema: &serde_json::Value, path: &str, bare: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(|p| p.as_object()) {
        for (key, value) in properties {
            if value.get("description").is_none() && value.get("const").is_none() {
                bare.push(format!("{path}.{key}"));
            }
        }
    }
    match schema {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, value)| walk(value, &format!("{path}.{key}"), bare))
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| walk(value, path, bare)),
        _ => {}
    }
}
