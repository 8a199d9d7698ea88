//! The numbers of a configuration, each with its unit and its range.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// Nothing in a configuration lasts longer than a year, and far less would overflow.
const MAX_MS: u64 = 365 * 24 * 3600 * 1000;

/// A number of seconds, fractions allowed, at least `MIN_MS` thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds<const MIN_MS: u64>(Duration);

/// A whole number of milliseconds, at least `MIN_MS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis<const MIN_MS: u64>(Duration);

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<const MIN: u32, const MAX: u32>(u32);

impl<const MIN_MS: u64> Seconds<MIN_MS> {
    /// This many milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        assert!(MIN_MS <= ms && ms <= MAX_MS, "out of range");
        Self(Duration::from_millis(ms))
    }

    /// As a duration.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN_MS: u64> Millis<MIN_MS> {
    /// This many milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        assert!(MIN_MS <= ms && ms <= MAX_MS, "out of range");
        Self(Duration::from_millis(ms))
    }

    /// As a duration.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Count<MIN, MAX> {
    /// This many.
    pub const fn new(count: u32) -> Self {
        assert!(MIN <= count && count <= MAX, "out of range");
        Self(count)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN_MS: u64> fmt::Display for Seconds<MIN_MS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_secs_f64().fmt(f)
    }
}

impl<const MIN_MS: u64> Serialize for Seconds<MIN_MS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.subsec_millis() == 0 {
            serializer.serialize_u64(self.0.as_secs())
        } else {
            serializer.serialize_f64(self.0.as_secs_f64())
        }
    }
}

impl<const MIN_MS: u64> Serialize for Millis<MIN_MS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(self.0.as_millis()).unwrap_or(MAX_MS))
    }
}

impl<const MIN: u32, const MAX: u32> Serialize for Count<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de, const MIN_MS: u64> Deserialize<'de> for Seconds<MIN_MS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsSeconds<const MIN_MS: u64>;
        impl<const MIN_MS: u64> Visitor<'_> for AsSeconds<MIN_MS> {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let least = Duration::from_millis(MIN_MS).as_secs_f64();
                let most = MAX_MS / 1000;
                write!(f, "a number of seconds from {least} to {most} (a year)")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
                let duration = Duration::from_secs(seconds);
                in_range::<MIN_MS>(duration)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(seconds), &self))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Duration, E> {
                Err(E::invalid_value(Unexpected::Signed(seconds), &self))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Duration, E> {
                Duration::try_from_secs_f64((seconds * 1000.0).round() / 1000.0)
                    .ok()
                    .and_then(in_range::<MIN_MS>)
                    .ok_or_else(|| E::invalid_value(Unexpected::Float(seconds), &self))
            }
        }
        deserializer.deserialize_any(AsSeconds::<MIN_MS>).map(Self)
    }
}

impl<'de, const MIN_MS: u64> Deserialize<'de> for Millis<MIN_MS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Whole { what: "a whole number of milliseconds", min: MIN_MS, max: MAX_MS };
        deserializer.deserialize_any(whole).map(|ms| Self(Duration::from_millis(ms)))
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Whole { what: "a whole number", min: MIN.into(), max: MAX.into() };
        let count = deserializer.deserialize_any(whole)?;
        u32::try_from(count).map(Self).map_err(de::Error::custom)
    }
}

fn in_range<const MIN_MS: u64>(duration: Duration) -> Option<Duration> {
    let range = Duration::from_millis(MIN_MS)..=Duration::from_millis(MAX_MS);
    range.contains(&duration).then_some(duration)
}

struct Whole {
    what: &'static str,
    min: u64,
    max: u64,
}

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} to {}", self.what, self.min, self.max)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        if (self.min..=self.max).contains(&number) {
            Ok(number)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(number), &self))
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        Err(E::invalid_value(Unexpected::Signed(number), &self))
    }
}
