//! JSON as rt-app's workload files use it.
//!
//! - It has comments.
//! - The sequence of an object's keys matters.
//! - A key may come several times, as in a sequence of several `run` and `sleep`. (rt-app's
//!   `workgen` numbers them.)
//!
//! Invariant: a [`Node`] knows the path that leads to it, so that every error names its key.

use anyhow::{Result, anyhow, bail};
use jsonc_parser::ast::{ObjectProp, Value};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use std::fmt;

/// What a text may have besides JSON: only comments (`/* */` and `//`).
const DIALECT: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Reads a text. An object keeps all of its entries, in the sequence of the text.
pub fn read(text: &str) -> Result<Value<'_>> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &DIALECT);
    let parsed = parsed.map_err(|error| anyhow!("it is not JSON: {error}"))?;
    parsed.value.ok_or_else(|| anyhow!("it is empty"))
}

fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::NullKeyword(_) => "null",
        Value::BooleanLit(_) => "a boolean",
        Value::NumberLit(_) => "a number",
        Value::StringLit(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value and the way to it.
#[derive(Clone)]
pub struct Node<'a> {
    value: &'a Value<'a>,
    path: String,
}

impl<'a> Node<'a> {
    /// The root of a text.
    pub fn root(value: &'a Value<'a>) -> Node<'a> {
        Node { value, path: String::new() }
    }

    /// An error about this value.
    pub fn error(&self, what: impl fmt::Display) -> anyhow::Error {
        match self.path.is_empty() {
            true => anyhow!("{what}"),
            false => anyhow!("{}: {what}", self.path),
        }
    }

    fn wrong_kind(&self, wanted: &str) -> anyhow::Error {
        self.error(format_args!("must be {wanted}, and is {}", kind(self.value)))
    }

    fn number(&self) -> Option<f64> {
        self.value.as_number_lit()?.value.parse().ok()
    }

    /// The entries of an object, in the sequence of the text.
    pub fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>> {
        let Value::Object(object) = self.value else { bail!(self.wrong_kind("an object")) };
        let node = |entry: &'a ObjectProp<'a>| {
            let key = entry.name.as_str();
            let path = match self.path.is_empty() {
                true => key.to_owned(),
                false => format!("{}.{key}", self.path),
            };
            (key, Node { value: &entry.value, path })
        };
        Ok(object.properties.iter().map(node).collect())
    }

    /// The items of an array.
    pub fn items(&self) -> Result<Vec<Node<'a>>> {
        let Value::Array(array) = self.value else { bail!(self.wrong_kind("an array")) };
        let node = |(i, value)| Node { value, path: format!("{}[{i}]", self.path) };
        Ok(array.elements.iter().enumerate().map(node).collect())
    }

    /// A string.
    pub fn string(&self) -> Result<&'a str> {
        let Value::StringLit(text) = self.value else { bail!(self.wrong_kind("a string")) };
        Ok(&text.value)
    }

    /// A boolean, or rt-app's 0 and 1.
    pub fn boolean(&self) -> Result<bool> {
        match (self.value, self.number()) {
            (Value::BooleanLit(literal), _) => Ok(literal.value),
            (_, Some(0.0)) => Ok(false),
            (_, Some(1.0)) => Ok(true),
            _ => Err(self.wrong_kind("a boolean")),
        }
    }

    /// A whole number within `range`.
    pub fn integer(&self, range: std::ops::RangeInclusive<i64>) -> Result<i64> {
        let Some(number) = self.number() else { bail!(self.wrong_kind("a whole number")) };
        let (low, high) = (*range.start(), *range.end());
        if number.fract() != 0.0 || !(low as f64..=high as f64).contains(&number) {
            bail!(self.error(format_args!("must be a whole number from {low} to {high}")));
        }
        Ok(number as i64)
    }
}
