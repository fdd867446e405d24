//! Pure packet code.
