//! Configuration files: TOML with kebab-case keys, unknown keys refused, paths relative to the file.
//!
//! [`config_file!`](crate::config_file) writes the struct of a file and its commented example from one text, so that
//! `--print-example-config` cannot lie. Values that the types cannot check are checked by the daemon when it turns
//! the file into its own configuration; it exits with [`EXIT_CONFIG`] before any port is bound.

use std::path::{Path, PathBuf};

use proto::limits::SETUP_FILE_BYTES_MAX;
use serde::de::DeserializeOwned;

/// Exit status for a bad command line or configuration, `EX_USAGE` of sysexits.h.
pub const EXIT_CONFIG: u8 = 64;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is longer than any sensible one.
    #[error("{path} has {bytes} bytes, a configuration has at most {SETUP_FILE_BYTES_MAX}")]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Not TOML, or a key is missing, unknown or of the wrong type. The message shows the line.
    #[error("{path}: {reason}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Line, column, key and what is wrong with it.
        reason: String,
    },
    /// A value that reads well and breaks a rule.
    #[error("`{key}` {reason}")]
    Value {
        /// The key, with its tables: `engine.threads`.
        key: &'static str,
        /// Found and allowed: "is 0, allowed is 1 to 256".
        reason: String,
    },
}

/// Reads `path`.
///
/// # Errors
/// [`ConfigError::Read`], [`ConfigError::TooLong`], [`ConfigError::Parse`].
pub fn read<F: DeserializeOwned>(path: &Path) -> Result<F, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > SETUP_FILE_BYTES_MAX {
        return Err(ConfigError::TooLong {
            path: path.to_owned(),
            bytes,
        });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text).map_err(|reason| ConfigError::Parse {
        path: path.to_owned(),
        reason,
    })
}

/// Reads TOML text; the error is a sentence with line and column.
///
/// # Errors
/// What is wrong and where.
pub fn parse<F: DeserializeOwned>(text: &str) -> Result<F, String> {
    toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())
}

/// What `path`, as written in the configuration file `file`, means: relative paths start where the file lies.
#[must_use]
pub fn relative_to(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or_else(|| Path::new("")).join(path)
}

/// A file or table that can show a commented example of itself.
pub trait Example {
    /// TOML text. `table` is the dotted name of the table it stands in, empty for the file itself.
    fn example(table: &str) -> String;
}

impl<T: Example> Example for Option<T> {
    fn example(table: &str) -> String {
        T::example(table)
    }
}

/// The comment lines and `key = value` of one example; [`config_file!`](crate::config_file) calls it.
#[doc(hidden)]
#[must_use]
pub fn example_key(docs: &[Option<&str>], field: &str, value: &str, optional: bool) -> String {
    let off = if optional { "# " } else { "" };
    format!("{}{off}{} = {value}\n", comment(docs), field.replace('_', "-"))
}

/// The comment lines, header and keys of one table.
#[doc(hidden)]
#[must_use]
pub fn example_table<T: Example>(docs: &[Option<&str>], parent: &str, field: &str) -> String {
    let field = field.replace('_', "-");
    let name = if parent.is_empty() {
        field
    } else {
        format!("{parent}.{field}")
    };
    format!("\n{}[{name}]\n{}", comment(docs), T::example(&name))
}

fn comment(docs: &[Option<&str>]) -> String {
    docs.iter()
        .flatten()
        .map(|line| format!("#{}\n", line.trim_end()))
        .collect()
}

/// Defines configuration structs together with their example.
///
/// Each field is one of `key: Type = required VALUE` (shown), `key: Type = optional VALUE` (shown as a comment; give it
/// `Option` or `#[serde(default)]`) and `key: Type = table` (another such struct). Doc comments become the example's comments.
///
/// ```ignore
/// runtime::config_file! {
///     /// What `node.toml` says.
///     pub struct NodeFile {
///         /// Folder with ca.pem, cert.pem and key.pem.
///         pub identity: PathBuf = required "identity",
///         /// A listener without TLS: a loopback address or `unix:/path`.
///         pub plain: Option<String> = optional "127.0.0.1:0",
///         /// Where logs and traces go.
///         #[serde(default)]
///         pub telemetry: TelemetryFile = table,
///     }
/// }
/// ```
#[macro_export]
macro_rules! config_file {
    ($(
        $(#[$($struct_meta:tt)*])*
        $vis:vis struct $name:ident {
            $( $(#[$($meta:tt)*])* $field_vis:vis $field:ident : $type:ty = $kind:ident $($value:expr)? ),* $(,)?
        }
    )*) => { $(
        #[derive(Clone, Debug, ::serde::Deserialize)]
        $(#[$($struct_meta)*])*
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        $vis struct $name { $( $(#[$($meta)*])* $field_vis $field: $type, )* }

        impl $crate::config::Example for $name {
            fn example(table: &str) -> String {
                let (mut keys, mut tables) = (String::new(), String::new());
                $( $crate::config_key!(
                    keys, tables, table, &[$( $crate::config_doc!($($meta)*) ),*], $field, $type, $kind $($value)?
                ); )*
                let _ = (table, &mut keys, &mut tables); // each is used only by some kinds of fields
                keys + &tables
            }
        }
    )* };
}

/// One field of [`config_file!`](crate::config_file).
#[doc(hidden)]
#[macro_export]
macro_rules! config_key {
    ($keys:ident, $tables:ident, $table:ident, $docs:expr, $field:ident, $type:ty, required $value:expr) => {
        $keys += &$crate::config::example_key($docs, stringify!($field), &format!("{:?}", $value), false)
    };
    ($keys:ident, $tables:ident, $table:ident, $docs:expr, $field:ident, $type:ty, optional $value:expr) => {
        $keys += &$crate::config::example_key($docs, stringify!($field), &format!("{:?}", $value), true)
    };
    ($keys:ident, $tables:ident, $table:ident, $docs:expr, $field:ident, $type:ty, table) => {
        $tables += &$crate::config::example_table::<$type>($docs, $table, stringify!($field))
    };
}

/// The text of a doc comment; nothing for other attributes.
#[doc(hidden)]
#[macro_export]
macro_rules! config_doc {
    (doc = $line:literal) => {
        Some($line)
    };
    ($($other:tt)*) => {
        None::<&str>
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::config_file! {
        /// A cache.
        struct CacheFile {
            /// Bytes kept in memory.
            memory_bytes: u64 = required 1024,
        }
        /// A file.
        struct SomeFile {
            /// Where the keys are.
            /// Two lines.
            identity: PathBuf = required "identity",
            /// Who is believed.
            #[serde(default)]
            forwarded_from: Vec<String> = optional ["10.0.0.0/8"],
            /// What is remembered.
            cache: Option<CacheFile> = table,
        }
    }

    #[test]
    fn the_example_of_a_file_shows_every_key_with_its_comment_and_reads_back() {
        let text = SomeFile::example("");
        assert_eq!(
            text,
            "# Where the keys are.\n# Two lines.\nidentity = \"identity\"\n# Who is believed.\n\
             # forwarded-from = [\"10.0.0.0/8\"]\n\n# What is remembered.\n[cache]\n# Bytes kept in memory.\nmemory-bytes = 1024\n"
        );
        let file: SomeFile = parse(&text).unwrap();
        assert_eq!(file.identity, Path::new("identity"));
        assert_eq!(file.cache.unwrap().memory_bytes, 1024);
        assert!(file.forwarded_from.is_empty());
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name_and_line() {
        let reason = parse::<SomeFile>("identity = \"x\"\nidentitty = \"y\"\n").unwrap_err();
        assert!(reason.contains("line 2") && reason.contains("identitty"), "{reason}");
    }

    #[test]
    fn a_relative_path_starts_at_the_file_that_names_it() {
        let file = Path::new("/etc/meridian/node.toml");
        assert_eq!(
            relative_to(file, Path::new("identity")),
            Path::new("/etc/meridian/identity")
        );
        assert_eq!(relative_to(file, Path::new("/var/x")), Path::new("/var/x"));
        assert_eq!(
            relative_to(Path::new("node.toml"), Path::new("data")),
            Path::new("data")
        );
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let error = read::<SomeFile>(Path::new("/nonexistent/node.toml")).unwrap_err();
        assert_eq!(error.to_string(), "read the configuration /nonexistent/node.toml");
    }
}
