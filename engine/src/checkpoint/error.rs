//! Errors of files: each names the file or tensor, what was found and what was expected.

/// Why a checkpoint cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing there: exit code 3.
    #[error("{what}: not found ({searched})")]
    NotFound { what: String, searched: String },
    #[error("{file}: {source}")]
    Io {
        file: String,
        #[source]
        source: std::io::Error,
    },
    /// There, but not what it has to be: exit code 4.
    #[error("{file}: {what}: found {found}, expected {expected}")]
    Invalid {
        file: String,
        what: String,
        found: String,
        expected: String,
    },
}
