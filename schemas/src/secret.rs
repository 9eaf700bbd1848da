//! A value that never shows itself.

use std::fmt;
use std::ops::Deref;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Holds a secret: a text unless said otherwise. It prints as `***`, is wiped from memory when
/// dropped and is opened only by [`Secret::expose`], so that a search for that word finds every use.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize = String>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the secret over.
    pub fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T: Zeroize + Deref> Secret<T> {
    /// The secret itself. Never pass the result to a log, an error or a metric.
    pub fn expose(&self) -> &T::Target {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<T: Zeroize> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_prints_as_stars_in_every_form() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "*** *** ***");
        assert_eq!(secret.expose(), "hunter2");
        let bytes = Secret::new(vec![7_u8; 32]);
        assert_eq!(format!("{bytes} {bytes:?}"), "*** ***");
        assert_eq!(bytes.expose(), [7; 32]);
    }

    #[test]
    fn secret_is_wiped_when_told_to() {
        let mut secret = Secret::new("hunter2".to_owned());
        secret.zeroize();
        assert_eq!(secret.expose(), "");
    }
}
