//! The `anonymize` plugin.
