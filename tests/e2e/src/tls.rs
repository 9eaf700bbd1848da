//! TLS for the services of a test: a certificate authority and a TLS proxy in front of a service that
//! does not support TLS itself.

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

/// Configuration of openssl for both certificates.
const OPENSSL_CONFIG: &str = "\
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

/// Files of a certificate authority and of a server on 127.0.0.1 with a certificate issued by it.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The server's private key and certificate, in one file.
    pub server: PathBuf,
}

impl Certificates {
    /// Creates them in a folder with openssl.
    ///
    /// # Errors
    /// openssl is not installed or fails.
    pub fn create(folder: &Path) -> Result<Self> {
        let path = |name: &str| folder.join(name);
        std::fs::write(path("openssl.cnf"), OPENSSL_CONFIG)
            .context("write the configuration of openssl")?;
        let make = |what: &str, further: &[&str]| {
            let mut command = Command::new("openssl");
            command
                .current_dir(folder)
                .args(["req", "-x509", "-days", "2", "-noenc"]);
            command.args([
                "-newkey",
                "rsa:2048",
                "-config",
                "openssl.cnf",
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
            let messages = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "openssl: {messages}");
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

/// A TLS proxy on 127.0.0.1; it stops when it is dropped.
#[derive(Debug)]
pub struct TlsProxy {
    /// Its URL, `https://127.0.0.1:PORT`.
    pub url: String,
    task: JoinHandle<()>,
}

impl TlsProxy {
    /// Starts a proxy in front of `http://HOST:PORT`.
    ///
    /// # Errors
    /// The certificates cannot be used, or no port can be bound.
    pub async fn start(certificates: &Certificates, service: &str) -> Result<Self> {
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
                    // A client that does not trust the certificate disconnects during the handshake.
                    let mut outside = acceptor.accept(outside).await?;
                    let mut inside = TcpStream::connect(service).await?;
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await
                });
            }
        });
        Ok(Self { url, task })
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
