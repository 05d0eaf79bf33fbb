//! The image's creation time.

use std::fmt::{self, Display, Formatter};

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The creation time in seconds since 1970: SOURCE_DATE_EPOCH, or 0. The current time would make the image
/// irreproducible.
#[derive(Clone, Copy)]
pub struct Time(u32);

impl Time {
    /// Reads SOURCE_DATE_EPOCH (<https://reproducible-builds.org/specs/source-date-epoch/>).
    pub fn from_environment() -> Result<Self> {
        let Some(seconds) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(Self(0)) };
        let number = seconds.to_str().and_then(|seconds| seconds.parse().ok());
        number.map(Self).with_context(|| {
            format!("SOURCE_DATE_EPOCH={} is not a number of seconds since 1970", seconds.display())
        })
    }

    /// Parses a time in the format of RFC 3339, which `to_string` writes.
    pub fn parse(text: &str) -> Result<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).with_context(|| format!("time {text}"))?;
        Ok(Self(time.unix_timestamp().try_into().with_context(|| format!("time {text}"))?))
    }
}

impl From<Time> for u64 {
    fn from(time: Time) -> Self {
        time.0.into()
    }
}

impl Display for Time {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp(self.0.into()).expect("a u32 ends in 2106");
        formatter.write_str(&time.format(&Rfc3339).expect("a year of four digits"))
    }
}
