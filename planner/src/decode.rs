//! [`Node`]s to typed structs: a serde deserializer whose errors know the place, what was expected, and the nearest right name.
//!
//! Enums named in [`TAGS`] are maps that carry their variant under a tag key (`policy: sarathi`); serde's own tagging
//! would lose the places. All other enums are plain names.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::{Deserialize, Deserializer};

use crate::diagnostic::{Mistake, SourceId, Span};
use crate::node::{Entry, Meaning, Node, Value};

/// Enum name -> the key that names its variant.
pub const TAGS: [(&str, &str); 5] = [
    ("Recipe", "recipe"),
    ("Scheduler", "policy"),
    ("Arrivals", "kind"),
    ("Lengths", "kind"),
    ("Process", "kind"),
];

/// The tag key of an enum, if it has one.
pub fn tag_of(name: &str) -> Option<&'static str> {
    TAGS.iter().find(|(tagged, _)| *tagged == name).map(|(_, tag)| *tag)
}

/// Decodes `node`; `at` is where a missing key is reported. On failure, every mistake that could be found.
pub fn decode<T: DeserializeOwned>(node: &Node, at: Span) -> Result<T, Vec<Mistake>> {
    let sink = RefCell::new(Vec::new());
    let result = T::deserialize(Decoder { node, at, hidden: None, sink: &sink });
    let mut mistakes = sink.into_inner();
    match result {
        Ok(value) if mistakes.is_empty() => Ok(value),
        Ok(_) => Err(mistakes),
        Err(error) => {
            // A misspelt key is a missing key too; saying the former is enough.
            let fix = error.missing.map(|key| format!("did you mean `{key}`?"));
            if fix.is_none() || mistakes.iter().all(|m| m.help != fix) {
                mistakes.push(error.into_mistake(at));
            }
            Err(mistakes)
        }
    }
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Span,
}

const SPANNED: &str = "$spanned";

/// Newtypes of this name take any scalar by its text, `8` and `true` too.
pub const TEXT: &str = "$text";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple_struct(SPANNED, 4, SpannedVisitor(PhantomData))
    }
}

struct SpannedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SpannedVisitor<T> {
    type Value = Spanned<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with its place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut part =
            || seq.next_element::<u32>()?.ok_or_else(|| de::Error::custom("a place has three parts"));
        let span = Span { source: SourceId(part()?), start: part()?, end: part()? };
        let value = seq.next_element()?.ok_or_else(|| de::Error::custom("a place without a value"))?;
        Ok(Spanned { value, span })
    }
}

/// Feeds [`SpannedVisitor`]: source, start, end, value.
struct SpannedAccess<'a> {
    decoder: Option<Decoder<'a>>,
    parts: std::vec::IntoIter<u32>,
}

impl<'de> SeqAccess<'de> for SpannedAccess<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        if let Some(part) = self.parts.next() {
            let part: U32Deserializer<DecodeError> = part.into_deserializer();
            return seed.deserialize(part).map(Some);
        }
        self.decoder.take().map(|decoder| seed.deserialize(decoder)).transpose()
    }
}

/// Why decoding failed, gathering its place and path on the way out.
#[derive(Debug)]
pub struct DecodeError {
    mistake: Box<Mistake>,
    placed: bool,
    /// An unknown name and the names that would do.
    names: Option<(String, Vec<&'static str>, &'static str)>,
    /// The key that is missing, if that is what is wrong.
    missing: Option<&'static str>,
    /// Keys from the inside out.
    path: Vec<String>,
}

const NOWHERE: Span = Span { source: SourceId(0), start: 0, end: 0 };

impl DecodeError {
    fn at(span: Span, title: String) -> Self {
        Self {
            mistake: Box::new(Mistake::new(span, title)),
            placed: true,
            names: None,
            missing: None,
            path: Vec::new(),
        }
    }

    /// The error at `node`, unless it already has a place.
    fn or_at(mut self, node: &Node) -> Self {
        if !self.placed {
            self = self.or_span(node.span);
            if let Some(origin) = node.origin {
                self.mistake.also = Some(Box::new((origin, "the value comes from here".to_owned())));
            }
        }
        self
    }

    fn or_span(mut self, span: Span) -> Self {
        if !self.placed {
            self.mistake.span = span;
            self.placed = true;
        }
        self
    }

    fn into_mistake(self, at: Span) -> Mistake {
        let Self { mistake, mut path, names, .. } = self.or_span(at);
        let mut mistake = *mistake;
        if let Some((wrong, names, what)) = names {
            mistake = mistake.suggest(&wrong, what, names);
        }
        if mistake.note.is_none() && path.len() > 1 {
            path.reverse();
            mistake.note = Some(format!("in `{}`", path.join(".")));
        }
        mistake
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistake.title)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    /// What follows a line break in `message` is the fix.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let (title, help) = message.split_once('\n').map_or((&*message, None), |(t, h)| (t, Some(h)));
        let mut mistake = Box::new(Mistake::new(NOWHERE, title));
        mistake.help = help.map(str::to_owned);
        Self { mistake, placed: false, names: None, missing: None, path: Vec::new() }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format!("expected {expected}, found {}", plainly(found)))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::custom(format!("unknown key `{field}`"));
        error.names = Some((field.to_owned(), expected.to_vec(), "keys"));
        error
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::custom(format!("unknown name `{variant}`"));
        error.names = Some((variant.to_owned(), expected.to_vec(), "expected one of"));
        error
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::custom(format!("the key `{field}` is missing")) }
    }
}

fn plainly(found: de::Unexpected<'_>) -> String {
    match found {
        de::Unexpected::Unsigned(n) => format!("the integer `{n}`"),
        de::Unexpected::Signed(n) => format!("the integer `{n}`"),
        de::Unexpected::Float(n) => format!("the number `{n}`"),
        de::Unexpected::Bool(b) => format!("`{b}`"),
        de::Unexpected::Str(s) => format!("the string `{s}`"),
        de::Unexpected::Unit => "nothing".to_owned(),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a map".to_owned(),
        other => other.to_string(),
    }
}

/// One node under decoding.
#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    /// Where a missing key is reported: the key that leads here.
    at: Span,
    /// A tag key already read.
    hidden: Option<&'static str>,
    /// Takes mistakes after which decoding goes on.
    sink: &'a RefCell<Vec<Mistake>>,
}

impl<'a> Decoder<'a> {
    fn expected(&self, what: &str) -> DecodeError {
        let title = format!("expected {what}, found {}", self.node.describe());
        <DecodeError as de::Error>::custom(title).or_at(self.node)
    }

    fn meaning(&self) -> Option<Meaning<'a>> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar.meaning()),
            _ => None,
        }
    }

    fn child(&self, node: &'a Node, at: Span) -> Decoder<'a> {
        Decoder { node, at, hidden: None, sink: self.sink }
    }

    fn integer<T: TryFrom<i128>>(&self, range: &str) -> Result<T, DecodeError> {
        let Some(Meaning::Integer(value)) = self.meaning() else {
            return Err(self.expected("an integer"));
        };
        T::try_from(value).map_err(|_| self.expected(&format!("an integer {range}")))
    }

    fn entries(&self) -> Result<&'a [Entry], DecodeError> {
        self.node.entries().ok_or_else(|| self.expected("a map"))
    }

    /// Says each key that is not among `fields`, and whether there is one; they are skipped afterwards, so that the rest
    /// is read too.
    fn refuse_unknown(&self, entries: &[Entry], fields: &'static [&'static str]) -> bool {
        let before = self.sink.borrow().len();
        for entry in entries {
            if !fields.contains(&&*entry.key) && self.hidden != Some(&entry.key) {
                let error =
                    <DecodeError as de::Error>::unknown_field(&entry.key, fields).or_span(entry.key_span);
                self.sink.borrow_mut().push(error.into_mistake(entry.key_span));
            }
        }
        self.sink.borrow().len() > before
    }

    fn visit_entries<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        fields: Option<&'static [&'static str]>,
    ) -> Result<V::Value, DecodeError> {
        let entries = self.entries()?;
        let fields = fields.filter(|fields| self.refuse_unknown(entries, fields));
        let access = Entries { of: self, rest: entries.iter(), fields, value: None };
        visitor.visit_map(access).map_err(|e| e.or_span(self.at))
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty, $range:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit::<DecodeError>(self.integer::<$type>($range)?).map_err(|e| e.or_at(self.node))
        })*
    };
}

impl<'de> Deserializer<'de> for Decoder<'_> {
    type Error = DecodeError;

    integers! {
        deserialize_u8 visit_u8 u8, "from 0 to 255";
        deserialize_u16 visit_u16 u16, "from 0 to 65535";
        deserialize_u32 visit_u32 u32, "from 0 to 4294967295";
        deserialize_u64 visit_u64 u64, "from 0 to 18446744073709551615";
        deserialize_i8 visit_i8 i8, "from -128 to 127";
        deserialize_i16 visit_i16 i16, "from -32768 to 32767";
        deserialize_i32 visit_i32 i32, "from -2147483648 to 2147483647";
        deserialize_i64 visit_i64 i64, "of 64 bits";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.node.value {
            Value::List(_) => return self.deserialize_seq(visitor),
            Value::Map(_) => return self.deserialize_map(visitor),
            Value::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => visitor.visit_unit(),
                Meaning::Bool(value) => visitor.visit_bool(value),
                Meaning::Float(value) => visitor.visit_f64(value),
                Meaning::Text(text) => visitor.visit_str(text),
                Meaning::Integer(value) => match (u64::try_from(value), i64::try_from(value)) {
                    (Ok(value), _) => visitor.visit_u64(value),
                    (_, Ok(value)) => visitor.visit_i64(value),
                    _ => visitor.visit_f64(value as f64),
                },
            },
        };
        result.map_err(|e: DecodeError| e.or_at(self.node))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.meaning() {
            Some(Meaning::Bool(value)) => visitor.visit_bool(value),
            _ => Err(self.expected("`true` or `false`")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let value = match self.meaning() {
            Some(Meaning::Float(value)) => value,
            Some(Meaning::Integer(value)) => value as f64,
            _ => return Err(self.expected("a number")),
        };
        visitor.visit_f64(value).map_err(|e: DecodeError| e.or_at(self.node))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.meaning() {
            Some(Meaning::Text(text)) => visitor.visit_str(text).map_err(|e: DecodeError| e.or_at(self.node)),
            Some(Meaning::Null) | None => Err(self.expected("a string")),
            Some(_) => {
                let mut error = self.expected("a string");
                error.mistake.help = Some("put it in quotes".to_owned());
                Err(error)
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.meaning() {
            Some(Meaning::Null) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name != TEXT {
            return visitor.visit_newtype_struct(self).map_err(|e| e.or_at(self.node));
        }
        let text = self.node.text().ok_or_else(|| self.expected("a text or a number"))?;
        visitor.visit_str(text)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let Value::List(items) = &self.node.value else {
            return Err(self.expected("a list"));
        };
        visitor.visit_seq(Items { of: self, rest: items.iter(), index: 0 }).map_err(|e| e.or_at(self.node))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name != SPANNED {
            return self.deserialize_seq(visitor);
        }
        let Span { source, start, end } = self.node.span;
        visitor
            .visit_seq(SpannedAccess { decoder: Some(self), parts: vec![source.0, start, end].into_iter() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit_entries(visitor, None)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.visit_entries(visitor, Some(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let Some(tag) = tag_of(name) else {
            let Some(Meaning::Text(text)) = self.meaning() else {
                return Err(self.expected("a name"));
            };
            let variant: StrDeserializer<'_, DecodeError> = text.into_deserializer();
            return visitor.visit_enum(variant).map_err(|e| e.or_at(self.node));
        };
        let names = || Some((String::new(), variants.to_vec(), "expected one of"));
        let Some(entry) = self.entries()?.iter().find(|e| &*e.key == tag) else {
            let mut error = DecodeError::at(self.at, format!("the key `{tag}` is missing"));
            error.names = names();
            return Err(error);
        };
        let Some(variant) = entry.value.text() else {
            return Err(self.child(&entry.value, entry.key_span).expected("a name"));
        };
        if !variants.contains(&&**variant) {
            let error = <DecodeError as de::Error>::unknown_variant(variant, variants);
            let mut error = error.or_at(&entry.value);
            error.mistake.title = format!("unknown {tag} `{variant}`");
            return Err(error);
        }
        visitor.visit_enum(Tagged { variant, content: Decoder { hidden: Some(tag), ..self } })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple identifier
    }
}

struct Items<'a> {
    of: Decoder<'a>,
    rest: std::slice::Iter<'a, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        let value = seed.deserialize(self.of.child(node, node.span));
        value.map(Some).map_err(|e| with_key(e.or_at(node), &index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Entries<'a> {
    of: Decoder<'a>,
    rest: std::slice::Iter<'a, Entry>,
    /// The keys to read where some are unknown; else all.
    fields: Option<&'static [&'static str]>,
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let (fields, hidden) = (self.fields, self.of.hidden);
        let wanted = |e: &&Entry| hidden != Some(&*e.key) && fields.is_none_or(|f| f.contains(&&*e.key));
        let Some(entry) = self.rest.find(wanted) else { return Ok(None) };
        self.value = Some(entry);
        let key: StrDeserializer<'_, DecodeError> = (*entry.key).into_deserializer();
        seed.deserialize(key).map(Some).map_err(|e| e.or_span(entry.key_span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let entry = self.value.take().ok_or_else(|| de::Error::custom("a value without a key"))?;
        let value = seed.deserialize(self.of.child(&entry.value, entry.key_span));
        value.map_err(|e: DecodeError| with_key(e.or_at(&entry.value), &entry.key))
    }
}

fn with_key(mut error: DecodeError, key: &str) -> DecodeError {
    error.path.push(key.to_owned());
    error
}

/// A tagged enum: its variant's name, and the map without the tag.
struct Tagged<'a> {
    variant: &'a str,
    content: Decoder<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Tagged<'a> {
    type Error = DecodeError;
    type Variant = Decoder<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Decoder<'a>), DecodeError> {
        let variant: StrDeserializer<'_, DecodeError> = self.variant.into_deserializer();
        Ok((seed.deserialize(variant)?, self.content))
    }
}

impl<'de> VariantAccess<'de> for Decoder<'_> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        self.refuse_unknown(self.entries()?, &[]);
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.visit_entries(visitor, Some(fields))
    }
}
