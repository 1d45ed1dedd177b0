//! kdh runtime.
