//! `chatledger embedded-clickhouse`

use chatledger_embedded_clickhouse::{Credentials, Error, Options, Server};
use tokio::signal::unix::{SignalKind, signal};

use super::{on_runtime, say};
use crate::cli::EmbeddedArgs;
use crate::config::secret_file;
use crate::exit::{Failure, chain};

/// Serves the engine until SIGTERM or SIGINT.
pub fn serve(args: EmbeddedArgs) -> Result<(), Failure> {
    let mut options = Options::new(args.data_dir, args.listen);
    options.lib_path = args.lib;
    options.max_memory_bytes = args.max_memory_mib << 20;
    if let (Some(user), Some(file)) = (args.user, args.password_file) {
        let password = secret_file::text(&file, args.allow_open_secrets)
            .map_err(|error| Failure::config(format!("{}: {error}", file.display())))?;
        options.credentials = Some(Credentials {
            user,
            password: password.expose().to_owned().into(),
        });
    }
    options.unconfined = args.unconfined;
    let server = Server::prepare(options).map_err(failure)?;
    on_runtime(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::other)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::other)?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let ready = |address: std::net::SocketAddr| {
            // If stdout is closed, the address is not needed.
            say(&format!("http://{address}")).ok();
        };
        server.run(shutdown, ready).await.map_err(failure)
    })
}

fn failure(error: Error) -> Failure {
    match error {
        Error::CredentialsRequired { .. } => Failure::config(chain(&error)),
        other => Failure::other(other),
    }
}
