//! A tiny model with a tokenizer, made so that its greedy output holds a character of three tokens.

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Map, Value, json};

use super::server::{GOLDEN, golden};

pub(crate) const MODEL: &str = "llama-gqa";
/// Tokens of the model's vocabulary.
const SIZE: u32 = 250;
const TEMPLATE: &str = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'].strip() }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";

/// The character that stands for a byte in a byte-level vocabulary: itself where it can be printed.
fn byte_char(byte: u8) -> char {
    let is_shown = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match is_shown(byte) {
        true => char::from(byte),
        false => char::from_u32(256 + (0..byte).filter(|other| !is_shown(*other)).count() as u32).unwrap(),
    }
}

/// The Euro sign, a byte a token: where the greedy output of the first golden prompt first has three different tokens in a row.
fn euro_tokens() -> [u32; 3] {
    let (_, greedy) = golden(MODEL).swap_remove(0);
    let window =
        greedy.windows(3).find(|three| three[0] != three[1] && three[1] != three[2] && three[0] != three[2]);
    window.unwrap().try_into().unwrap()
}

/// What every token of the model stands for: those three bytes, all of ASCII that is printed, pairs of letters.
fn pieces() -> Vec<Vec<u8>> {
    let euro = euro_tokens();
    let ascii = (b' '..=b'~').chain([b'\n']).map(|byte| vec![byte]);
    let pairs = (b'a'..=b'z').flat_map(|first| (b'A'..=b'Z').map(move |second| vec![first, second]));
    let mut others = ascii.chain(pairs);
    let piece = |id| match euro.iter().position(|token| *token == id) {
        Some(place) => vec!["€".as_bytes()[place]],
        None => others.next().unwrap(),
    };
    (0..SIZE).map(piece).collect()
}

/// The text of an output: of its bytes, all at once.
pub(crate) fn text_of(ids: &[u32]) -> String {
    let pieces = pieces();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| pieces[*id as usize].clone()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn vocabulary() -> Map<String, Value> {
    let name = |piece: Vec<u8>| piece.into_iter().map(byte_char).collect::<String>();
    (0..SIZE).zip(pieces()).map(|(id, piece)| (name(piece), json!(id))).collect()
}

fn tokenizer() -> Value {
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary(), "merges": []},
    })
}

/// A folder of a model, gone when dropped.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    /// The golden model, with `more` in its config.json.
    pub(crate) fn new(more: &Value) -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        let text = fs_err::read_to_string(format!("{GOLDEN}/{MODEL}/config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        folder.write("config.json", &config);
        let weights = format!("{GOLDEN}/{MODEL}/model.safetensors");
        std::os::unix::fs::symlink(weights, folder.path().join("model.safetensors")).unwrap();
        folder
    }

    /// With a tokenizer and a chat template.
    pub(crate) fn with_text(more: &Value) -> Self {
        let folder = Self::new(more);
        folder.write("tokenizer.json", &tokenizer());
        folder.write("tokenizer_config.json", &json!({"chat_template": TEMPLATE}));
        folder
    }

    pub(crate) fn path(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().to_owned()
    }

    fn write(&self, name: &str, content: &Value) {
        fs_err::write(self.path().join(name), content.to_string()).unwrap();
    }
}
