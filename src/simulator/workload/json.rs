//! JSON as rt-app's workload files use it: comments, objects whose order matters, and keys that may
//! come several times (a sequence of several `run` and `sleep`, which rt-app's `workgen` numbers).
//!
//! Invariant: a [`Node`] knows the path that leads to it, so that every complaint names its place.

use anyhow::{Context, Result, anyhow, bail};
use json_comments::StripComments;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A value; unlike serde_json's, an object keeps the order of its entries and all of them.
#[derive(Debug)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a text, comments (`/* */`, `//`, `#`) included.
    pub fn read(text: &str) -> Result<Json> {
        serde_json::from_reader(StripComments::new(text.as_bytes())).context("it is not JSON")
    }

    fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Json::Object(object))
    }
}

/// A value and the way to it.
#[derive(Clone)]
pub struct Node<'a> {
    value: &'a Json,
    path: String,
}

impl<'a> Node<'a> {
    /// The whole of a text.
    pub fn root(value: &'a Json) -> Node<'a> {
        Node { value, path: String::new() }
    }

    /// An error about this place.
    pub fn error(&self, what: impl fmt::Display) -> anyhow::Error {
        match self.path.is_empty() {
            true => anyhow!("{what}"),
            false => anyhow!("{}: {what}", self.path),
        }
    }

    fn wrong_kind(&self, wanted: &str) -> anyhow::Error {
        self.error(format_args!("must be {wanted}, and is {}", self.value.kind()))
    }

    /// The entries of an object, in order.
    pub fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>> {
        let Json::Object(entries) = self.value else { bail!(self.wrong_kind("an object")) };
        let node = |(key, value): &'a (String, Json)| {
            let path = match self.path.is_empty() {
                true => key.clone(),
                false => format!("{}.{key}", self.path),
            };
            (key.as_str(), Node { value, path })
        };
        Ok(entries.iter().map(node).collect())
    }

    /// The items of an array.
    pub fn items(&self) -> Result<Vec<Node<'a>>> {
        let Json::Array(items) = self.value else { bail!(self.wrong_kind("an array")) };
        let node = |(i, value)| Node { value, path: format!("{}[{i}]", self.path) };
        Ok(items.iter().enumerate().map(node).collect())
    }

    /// A string.
    pub fn string(&self) -> Result<&'a str> {
        let Json::String(text) = self.value else { bail!(self.wrong_kind("a string")) };
        Ok(text)
    }

    /// A boolean, or rt-app's 0 and 1.
    pub fn boolean(&self) -> Result<bool> {
        match self.value {
            Json::Bool(value) => Ok(*value),
            Json::Number(0.0) => Ok(false),
            Json::Number(1.0) => Ok(true),
            _ => Err(self.wrong_kind("a boolean")),
        }
    }

    /// A whole number within a range.
    pub fn integer(&self, range: std::ops::RangeInclusive<i64>) -> Result<i64> {
        let Json::Number(number) = self.value else { bail!(self.wrong_kind("a whole number")) };
        let (low, high) = (*range.start(), *range.end());
        if number.fract() != 0.0 || !(low as f64..=high as f64).contains(number) {
            bail!(self.error(format_args!("must be a whole number from {low} to {high}")));
        }
        Ok(*number as i64)
    }
}
