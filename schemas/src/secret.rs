//! A value that never shows itself.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Holds a secret text. It prints as `***`, is wiped from memory when dropped and is opened only by
/// [`Secret::expose`], so that a search for that word finds every use.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes the secret over.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The secret itself. Never pass the result to a log, an error or a metric.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_prints_as_stars_in_every_form() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "*** *** ***");
        assert_eq!(secret.expose(), "hunter2");
    }
}
