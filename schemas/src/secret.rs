//! A secret value that is never printed.

use std::fmt;
use std::ops::Deref;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret, by default a `String`. It prints as `***` and is wiped from memory when dropped.
/// [`Secret::expose`] is the only way to read it, so a search for that name finds every use.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize = String>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a secret.
    pub fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T: Zeroize + Deref> Secret<T> {
    /// Returns the secret. Never pass the result to a log, an error or a metric.
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
    fn secret_prints_as_stars_in_every_format() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "*** *** ***");
        assert_eq!(secret.expose(), "hunter2");
        let bytes = Secret::new(vec![7_u8; 32]);
        assert_eq!(format!("{bytes} {bytes:?}"), "*** ***");
        assert_eq!(bytes.expose(), [7; 32]);
    }

    #[test]
    fn zeroize_wipes_the_secret() {
        let mut secret = Secret::new("hunter2".to_owned());
        secret.zeroize();
        assert_eq!(secret.expose(), "");
    }
}
