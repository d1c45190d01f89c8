//! A monotonic instant as a value, so that deciding needs no clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds on one host's `CLOCK_BOOTTIME`. Comparable only with moments of the same host and boot; what crosses
/// the network is an age (`Duration`), never a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// The first moment there is.
    pub const ZERO: Self = Self(0);

    /// From microseconds since the clock's origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the clock's origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This moment less `age`, not before the clock's origin.
    pub const fn back(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(age.as_micros() as u64))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_micros() as u64))
    }
}

impl Sub for Moment {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}

/// A duration as an operator reads it: `12 ms`, `3.2 s`, `4 min`, `2 h`.
pub fn human(span: Duration) -> String {
    let ms = span.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", span.as_secs_f64()),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// Spans in JSON as milliseconds, in fields named `…_ms`: whole where they are, otherwise to the microsecond. What older versions wrote
/// (seconds and nanoseconds) is read too.
pub mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Millis(f64),
        Parts { secs: u64, nanos: u32 },
    }

    impl Written {
        fn read<E: serde::de::Error>(self) -> Result<Duration, E> {
            match self {
                Self::Millis(ms) => Duration::try_from_secs_f64(ms / 1_000.0).map_err(E::custom),
                Self::Parts { secs, nanos } => Ok(Duration::new(secs, nanos)),
            }
        }
    }

    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        if micros.is_multiple_of(1_000) {
            to.serialize_u64(micros / 1_000)
        } else {
            to.serialize_f64(micros as f64 / 1_000.0)
        }
    }

    /// # Errors
    /// When it is no span.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Written::deserialize(from)?.read()
    }

    /// The same where there may be none.
    pub mod option {
        use super::*;

        /// # Errors
        /// The serializer's.
        pub fn serialize<S: Serializer>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
            match span {
                Some(span) => super::serialize(span, to),
                None => to.serialize_none(),
            }
        }

        /// # Errors
        /// When it is neither null nor a span.
        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
            Option::<Written>::deserialize(from)?.map(Written::read).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_go_below_zero() {
        let early = Moment::from_micros(5);
        assert_eq!(early.since(Moment::from_micros(9)), Duration::ZERO);
        assert_eq!(early.back(Duration::from_secs(1)), Moment::ZERO);
        assert_eq!((early + Duration::from_millis(1)) - early, Duration::from_millis(1));
    }

    #[test]
    fn spans_are_milliseconds_in_json() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Spans {
            #[serde(rename = "took_ms", with = "millis")]
            took: Duration,
            #[serde(rename = "left_ms", with = "millis::option")]
            left: Option<Duration>,
        }
        let spans = Spans { took: Duration::from_micros(16_312), left: Some(Duration::from_secs(3)) };
        let json = serde_json::to_string(&spans).unwrap();
        assert_eq!(json, r#"{"took_ms":16.312,"left_ms":3000}"#);
        assert_eq!(serde_json::from_str::<Spans>(&json).unwrap(), spans);
        let older = r#"{"took_ms":{"secs":0,"nanos":16312000},"left_ms":null}"#;
        assert_eq!(serde_json::from_str::<Spans>(older).unwrap(), Spans { left: None, ..spans });
        assert!(serde_json::from_str::<Spans>(r#"{"took_ms":-1,"left_ms":null}"#).is_err());
    }

    #[test]
    fn spans_read_like_a_person_says_them() {
        assert_eq!(human(Duration::from_millis(12)), "12 ms");
        assert_eq!(human(Duration::from_millis(3_200)), "3.2 s");
        assert_eq!(human(Duration::from_secs(240)), "4 min");
    }
}
