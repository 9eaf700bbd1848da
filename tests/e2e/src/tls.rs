//! TLS for services that a test talks to: an authority made for the test, and an end in front of a
//! service that speaks none itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What openssl is told of both certificates.
const FORMS: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = chatledger test
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = IP:127.0.0.1
extendedKeyUsage = serverAuth
";

/// Files of an authority and of a server on 127.0.0.1 that it vouches for.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The server's private key and certificate, in one file.
    pub server: PathBuf,
}

impl Certificates {
    /// Makes them in a folder, with openssl.
    ///
    /// # Errors
    /// openssl is not there or fails.
    pub fn make(folder: &Path) -> Result<Self> {
        let path = |name: &str| folder.join(name);
        std::fs::write(path("forms.cnf"), FORMS).context("write what openssl is told")?;
        let make = |what: &str, further: &[&str]| {
            let mut command = Command::new("openssl");
            command
                .current_dir(folder)
                .args(["req", "-x509", "-days", "2", "-noenc"]);
            command.args([
                "-newkey",
                "rsa:2048",
                "-config",
                "forms.cnf",
                "-extensions",
                what,
            ]);
            command.args([
                "-keyout",
                &format!("{what}.key"),
                "-out",
                &format!("{what}.crt"),
            ]);
            let output = command.args(further).output().context("start openssl")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "openssl: {said}");
            Ok(())
        };
        make("authority", &[])?;
        make(
            "server",
            &["-CA", "authority.crt", "-CAkey", "authority.key"],
        )?;
        let mut both = std::fs::read(path("server.key")).context("read the server's key")?;
        both.extend(std::fs::read(path("server.crt")).context("read its certificate")?);
        std::fs::write(path("broker.pem"), both).context("write the server's file")?;
        Ok(Self {
            authority: path("authority.crt"),
            server: path("broker.pem"),
        })
    }
}

/// A TLS end on 127.0.0.1 that hands everything on; it closes when it is dropped.
#[derive(Debug)]
pub struct Front {
    /// `https://127.0.0.1:PORT`
    pub url: String,
    task: JoinHandle<()>,
}

impl Front {
    /// Opens it in front of `http://HOST:PORT`.
    ///
    /// # Errors
    /// The certificates cannot be used, or there is no free port.
    pub async fn open(certificates: &Certificates, service: &str) -> Result<Self> {
        let pem = std::fs::read(&certificates.server).context("read the server's file")?;
        let key = PrivateKeyDer::from_pem_slice(&pem).context("the server's key")?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .context("the server's certificate")?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .context("the server's TLS")?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .context("the server's TLS")?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let url = format!("https://{}", listener.local_addr().context("listen")?);
        let service = service.trim_start_matches("http://").to_owned();
        let task = tokio::spawn(async move {
            while let Ok((outside, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), service.clone());
                tokio::spawn(async move {
                    // A client that does not trust us goes away in the middle: nothing to hand on.
                    let mut outside = acceptor.accept(outside).await?;
                    let mut inside = TcpStream::connect(service).await?;
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await
                });
            }
        });
        Ok(Self { url, task })
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}
