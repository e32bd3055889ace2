//! Why a text is no graph.

/// Why a text is no graph, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// Why a graph cannot be read from a text file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A text that is no graph.
    #[error("{path}:{source}")]
    Parse {
        /// The path.
        path: String,
        /// What is wrong.
        source: ParseError,
    },
}
