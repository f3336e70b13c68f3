//! Templates as models have them.

use serde_json::json;

use super::*;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn messages() -> Vec<Map<String, Value>> {
    vec![
        object(json!({"role": "system", "content": "Be brief."})),
        object(json!({"role": "user", "content": "  <hi> & \"you\"  "})),
    ]
}

#[test]
fn blocks_are_trimmed_methods_of_python_work_and_nothing_is_escaped() {
    let source = "{{ bos_token }}\n{% for message in messages %}\n  {% if message['role'] == 'user' %}\n<|{{ message.role.upper() }}|>{{ message['content'].strip() }}{{ eos_token }}\n  {% elif loop.first %}\n[{{ message.content }}]\n  {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\n<|assistant|>\n{% endif %}";
    let config =
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "model_max_length": 5});
    let template = Template::new(source.to_owned(), &object(config)).unwrap();
    let expected = "<s>\n[Be brief.]\n<|USER|><hi> & \"you\"</s>\n<|assistant|>\n";
    assert_eq!(template.render(&messages()).unwrap(), expected);
}

#[test]
fn what_a_template_refuses_is_said() {
    let source =
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts, please') }}{% endif %}";
    let template = Template::new(source.to_owned(), &Map::new()).unwrap();
    let error = template.render(&messages()).unwrap_err();
    assert!(error.contains("no system prompts, please"), "{error}");
    assert!(template.render(&messages()[1..]).is_ok());
    assert!(Template::new("{% for %}".to_owned(), &Map::new()).is_err());
}

#[test]
fn a_folder_says_in_three_ways_what_its_template_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(dir.path()).unwrap();
    let rendered = || Template::read(folder).unwrap().map(|template| template.render(&messages()).unwrap());
    let config =
        |value: Value| fs_err::write(folder.join("tokenizer_config.json"), value.to_string()).unwrap();
    assert_eq!(rendered(), None);
    config(json!({"bos_token": "<s>"}));
    assert_eq!(rendered(), None);
    config(
        json!({"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "one"}]}),
    );
    assert_eq!(rendered().as_deref(), Some("one"));
    config(json!({"chat_template": "two{{ bos_token }}", "bos_token": "<s>"}));
    assert_eq!(rendered().as_deref(), Some("two<s>"));
    fs_err::write(folder.join("chat_template.jinja"), "three").unwrap();
    assert_eq!(rendered().as_deref(), Some("three"));
    config(json!([]));
    assert!(Template::read(folder).unwrap_err().contains("tokenizer_config.json"));
}
