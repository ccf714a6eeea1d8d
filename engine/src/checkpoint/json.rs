//! Keys of a JSON object, each checked when it is read: an error has the file, the key, what was found and what was expected.

use super::LoadError;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;
use std::marker::PhantomData;

/// Longest value that is quoted whole in a message, in characters.
const LONGEST_VALUE: usize = 60;

/// An object of a file.
pub(super) struct Fields<'a> {
    file: &'a str,
    /// The keys that lead here, each followed by a dot.
    path: String,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn parse(file: &'a str, json: &str) -> Result<Self, LoadError> {
        let value: Value = serde_json::from_str(json).map_err(|error| {
            LoadError::invalid(
                file,
                "JSON",
                format!("a syntax error ({error})"),
                "an object",
            )
        })?;
        match value {
            Value::Object(map) => Ok(Self {
                file,
                path: String::new(),
                map,
            }),
            other => Err(LoadError::invalid(
                file,
                "JSON",
                shortened(&other),
                "an object",
            )),
        }
    }

    pub fn invalid(&self, key: &str, found: impl ToString, expected: impl ToString) -> LoadError {
        LoadError::invalid(self.file, format!("{}{key}", self.path), found, expected)
    }

    fn missing(&self, key: &str, expected: &str) -> LoadError {
        self.invalid(key, "nothing", expected)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The value of a key that is present and not null.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Present, and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    fn parsed<'v, T>(
        &'v self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match parse(value) {
                Some(parsed) => Ok(Some(parsed)),
                None => Err(self.invalid(key, shortened(value), expected)),
            },
        }
    }

    /// A whole number from 1 to `max`.
    pub fn size(&self, key: &str, max: u64) -> Result<Option<u32>, LoadError> {
        self.whole(key, 1, max)
    }

    /// A whole number from 0 to `max`.
    pub fn count(&self, key: &str, max: u64) -> Result<Option<u32>, LoadError> {
        self.whole(key, 0, max)
    }

    fn whole(&self, key: &str, min: u64, max: u64) -> Result<Option<u32>, LoadError> {
        let whole = |value: &Value| value.as_u64().filter(|number| (min..=max).contains(number));
        self.parsed(key, &whole_number(min, max), |value| {
            whole(value).and_then(|number| u32::try_from(number).ok())
        })
    }

    pub fn required_size(&self, key: &str, max: u64) -> Result<u32, LoadError> {
        self.size(key, max)?
            .ok_or_else(|| self.missing(key, &whole_number(1, max)))
    }

    pub fn required_count(&self, key: &str, max: u64) -> Result<u32, LoadError> {
        self.count(key, max)?
            .ok_or_else(|| self.missing(key, &whole_number(0, max)))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.parsed(key, "a number", Value::as_f64)
    }

    /// A number above zero that is not infinite.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.parsed(key, "a positive number", |value| {
            value
                .as_f64()
                .filter(|&number| number > 0.0 && number.is_finite())
        })
    }

    pub fn required_positive(&self, key: &str) -> Result<f64, LoadError> {
        self.positive(key)?
            .ok_or_else(|| self.missing(key, "a positive number"))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.parsed(key, "true or false", Value::as_bool)
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.parsed(key, "a string", Value::as_str)
    }

    pub fn required_text(&self, key: &str) -> Result<&str, LoadError> {
        self.text(key)?.ok_or_else(|| self.missing(key, "a string"))
    }

    pub fn list(&self, key: &str) -> Result<Option<&Vec<Value>>, LoadError> {
        self.parsed(key, "a list", Value::as_array)
    }

    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, LoadError> {
        let map = self.parsed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Fields {
            file: self.file,
            path: format!("{}{key}.", self.path),
            map: map.clone(),
        }))
    }

    pub fn required_object(&self, key: &str) -> Result<Fields<'a>, LoadError> {
        self.object(key)?
            .ok_or_else(|| self.missing(key, "an object"))
    }

    /// One token id or a list of them. -1 is how older configs say that there is none.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>, LoadError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.parsed(key, "a token id or a list of them", |value| match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one if one.as_i64() == Some(-1) => Some(Vec::new()),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }
}

fn whole_number(min: u64, max: u64) -> String {
    format!("a whole number from {min} to {max}")
}

/// A value for a message.
pub(super) fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(LONGEST_VALUE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// An object as its list of keys and values, in which no key stands twice. (serde's own maps keep the last and say nothing.)
pub(super) struct UniqueKeys<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UniqueKeys<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
            type Value = UniqueKeys<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = std::collections::BTreeSet::new();
                let mut pairs = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map
                        .next_value()
                        .map_err(|error| Error::custom(format!("'{key}': {error}")))?;
                    if !seen.insert(key.clone()) {
                        return Err(Error::custom(format!("'{key}' twice")));
                    }
                    pairs.push((key, value));
                }
                Ok(UniqueKeys(pairs))
            }
        }

        deserializer.deserialize_map(Pairs(PhantomData))
    }
}
