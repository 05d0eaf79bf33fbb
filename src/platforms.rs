//! The program for each platform whose cargo feature is enabled.

use core::error::Error;
use core::fmt::{self, Display, Formatter};

use crate::ELF;

/// The OCI name, the feature and, if enabled, the program of each platform. `build.rs` writes this table.
const PLATFORMS: &[(&str, &str, Option<&[u8]>)] =
    &include!(concat!(env!("OUT_DIR"), "/platforms.rs"));

/// The bytes of the program for a platform, by its OCI name, such as `linux/arm64` or `linux/arm/v7`.
///
/// The program for the crate's own target is [`ELF`], which is always available. For any other platform, turn on
/// its feature, such as `linux-arm64` or `linux-arm-v7`.
///
/// # Errors
///
/// The platform's feature is off, or pause does not support the platform. The message names the feature to
/// turn on, or the supported platforms.
///
/// ```
/// match podpause::elf("linux/arm64") {
///     Ok(program) => assert_eq!(&program[..4], b"\x7fELF"),
///     Err(error) => assert!(error.to_string().contains("turn on its feature `linux-arm64`")),
/// }
/// let error = podpause::elf("linux/vax").unwrap_err();
/// assert_eq!(error, podpause::PlatformError::Unknown);
/// ```
pub fn elf(platform: &str) -> Result<&'static [u8], PlatformError> {
    let mut platforms = PLATFORMS.iter();
    let found = platforms.find(|(name, ..)| *name == platform);
    let &(platform, feature, program) = found.ok_or(PlatformError::Unknown)?;
    program.ok_or(PlatformError::Off { platform, feature })
}

/// Why there is no program for a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformError {
    /// The feature of this platform is off.
    Off {
        /// Its OCI name.
        platform: &'static str,
        /// The feature of this crate that has its program.
        feature: &'static str,
    },
    /// There is no pause for it.
    Unknown,
}

impl Display for PlatformError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off { platform, feature } => {
                write!(f, "podpause has no program for {platform}: turn on its feature `{feature}`")
            }
            Self::Unknown => {
                f.write_str("unknown platform; pause supports")?;
                PLATFORMS.iter().enumerate().try_for_each(|(index, (name, ..))| {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma} {name}")
                })
            }
        }
    }
}

impl Error for PlatformError {}
