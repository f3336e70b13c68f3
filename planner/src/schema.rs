//! The JSON Schema of pipelines, for editors: from the same types that read them. Knows no file.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::decode::tag_of;
use crate::pipeline::PipelineFile;

/// The schema, as committed in `pipelines/schema.json`.
pub fn schema_json() -> String {
    let generator = SchemaSettings::draft07().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<PipelineFile>().to_value();
    if let Some(definitions) = schema["definitions"].as_object_mut() {
        flatten_recipes(definitions);
        definitions.values_mut().for_each(open_inside);
    }
    format!("{schema:#}\n")
}

/// Recipes from one key with the rest below it, as serde would have them, to all keys in the target, as pipelines do.
fn flatten_recipes(definitions: &mut Map<String, Value>) {
    let Some(variants) = definitions["Recipe"]["oneOf"].as_array().cloned() else { return };
    let flat = variants.iter().filter_map(|variant| flat_recipe(variant, definitions)).collect();
    definitions["Recipe"]["oneOf"] = Value::Array(flat);
}

fn flat_recipe(variant: &Value, definitions: &mut Map<String, Value>) -> Option<Value> {
    let (kind, reference) = variant["properties"].as_object()?.iter().next()?;
    let name = reference["$ref"].as_str()?.rsplit('/').next()?;
    let mut recipe = definitions.remove(name)?;
    let properties = recipe["properties"].as_object_mut()?;
    properties.insert(tag_of("Recipe")?.to_owned(), json!({"const": kind}));
    properties.insert(
        "for".to_owned(),
        json!({
            "description": "A sweep: variables, each with a list or a map of named values; one instance for each combination.",
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": ["array", "object"]},
        }),
    );
    properties.insert(
        "exclude".to_owned(),
        json!({
            "description": "Combinations to leave out, each by some of the variables.",
            "type": "array",
            "items": {"type": "object", "minProperties": 1},
        }),
    );
    let name = json!({"description": "Names the instances. Default: the values' names joined by `-`.", "type": "string"});
    properties.insert("name".to_owned(), name);
    let required = recipe["required"].as_array().cloned().unwrap_or_default();
    recipe["required"] = std::iter::once(json!("recipe")).chain(required).collect();
    Some(recipe)
}

/// Lets every value below `schema` also be a `${}`.
fn open_inside(schema: &mut Value) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(open);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = schema.get_mut(key).filter(|below| below.is_object()) {
            open(below);
        }
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(variants) = schema.get_mut(key).and_then(Value::as_array_mut) {
            variants.iter_mut().for_each(open_inside);
        }
    }
}

/// Lets `schema` also be a `${}`, unless it takes any text already or names a variant.
fn open(schema: &mut Value) {
    open_inside(schema);
    let takes_text = match &schema["type"] {
        Value::String(one) => one == "string",
        Value::Array(many) => many.iter().any(|one| one == "string"),
        _ => false,
    };
    let narrowed = schema.get("pattern").is_some() || schema.get("enum").is_some();
    if schema.get("const").is_some() || (takes_text && !narrowed) {
        return;
    }
    let Some(mut narrow) = schema.as_object().cloned() else { return };
    let description = narrow.remove("description");
    *schema = json!({"anyOf": [narrow, {"type": "string", "pattern": r"\$\{"}]});
    if let Some(description) = description {
        schema["description"] = description;
    }
}
