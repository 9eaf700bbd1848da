//! Certificate authorities of a company, trusted instead of the system's.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::Error;

/// The certificates of one or more authorities.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Reads every certificate of a PEM text.
    ///
    /// # Errors
    /// [`Error::Roots`] if there is no certificate, or one of them cannot be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| Error::Roots("it is not PEM"))?;
            store
                .add(certificate)
                .map_err(|_| Error::Roots("a certificate in it cannot be used"))?;
        }
        if store.is_empty() {
            return Err(Error::Roots("there is no certificate in it"));
        }
        Ok(Self(Arc::new(store)))
    }

    /// Makes the configuration of a client that trusts these authorities and presents no certificate.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| {
                Error::Roots("this build lacks the cipher suites of the default TLS versions")
            })?;
        Ok(builder
            .with_root_certificates(Arc::clone(&self.0))
            .with_no_client_auth())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn file_without_a_usable_certificate_is_refused() {
        for (pem, why) in [
            ("", "no certificate"),
            ("hunter2", "no certificate"),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "no certificate",
            ),
            (
                "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
                "not PEM",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "cannot be used",
            ),
        ] {
            let error = Roots::from_pem(pem.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }
}
