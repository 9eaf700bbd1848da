//! Serves the archive and the directory over HTTP like WeCom.
//!
//! Guarantee: `seq` and `limit` have WeCom's semantics; errors carry WeCom's errcodes with HTTP 200,
//! except for injected HTTP faults. Not here: the data that is served.

mod api_faults;
mod archive;
mod contacts;
mod control;
mod customers;
mod msgaudit;
mod reply;
mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::{get, post};
use clap::Args;
use tokio::net::TcpListener;

use crate::tenant::Tenant;
use crate::truth::TruthWriter;
use api_faults::ApiFaults;
use tokens::Tokens;

/// Options for serving a tenant.
#[derive(Args, Clone, Debug)]
pub struct ServeOptions {
    /// Address to listen on; port 0 selects a free port, which the ready line contains.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// Messages sent per second after the backlog, with the current time.
    #[arg(long, default_value_t = 0.0, value_name = "R")]
    pub rate: f64,

    /// Respond with errcode 45009 after 600 archive calls in a minute, as WeCom does.
    #[arg(long)]
    pub enforce_limits: bool,

    /// Leave out records older than five days, as WeCom does.
    #[arg(long)]
    pub enforce_window: bool,

    /// Lifetime of an access token.
    #[arg(long, default_value_t = 7_200, value_name = "SECONDS")]
    pub token_ttl: u64,
}

/// The state shared by the handlers.
pub(crate) struct ServerState {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) tokens: Tokens,
    pub(crate) api_faults: ApiFaults,
    pub(crate) calls: control::Calls,
    pub(crate) enforce_window: bool,
    /// Number of records that readers can see.
    visible: AtomicU64,
    /// The greatest `seq` after which a reader has requested records.
    pub(crate) asked_beyond: AtomicU64,
    truth: Mutex<TruthWriter>,
}

pub(crate) type SharedState = axum::extract::State<Arc<ServerState>>;

impl ServerState {
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    /// Sends more messages now; writes the truth before readers can see them.
    pub(crate) fn send(&self, count: u64) -> Result<()> {
        let mut truth = self.truth.lock().unwrap_or_else(PoisonError::into_inner);
        let now = chrono::Utc::now().timestamp_millis();
        let first = self.tenant.send(&vec![now; count as usize]);
        truth.write(&self.tenant, first..first + count)?;
        self.visible.fetch_add(count, Ordering::Release);
        Ok(())
    }
}

/// A server that is bound to its address, so that the tenant's folder can be written.
#[derive(Debug)]
pub struct SimulatorServer {
    listener: TcpListener,
    address: SocketAddr,
    options: ServeOptions,
}

impl SimulatorServer {
    /// Binds the address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(options: ServeOptions) -> Result<Self> {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("listen on {}", options.listen))?;
        let address = listener.local_addr().context("read the bound address")?;
        Ok(Self {
            listener,
            address,
            options,
        })
    }

    /// Returns the bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base URL of the APIs.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until `stop` completes; then waits up to three seconds for running requests.
    ///
    /// # Errors
    /// The truth of new messages cannot be written, or the socket fails.
    pub async fn run(
        self,
        tenant: Arc<Tenant>,
        truth: TruthWriter,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let state = Arc::new(ServerState {
            tokens: Tokens::new(&tenant.options, Duration::from_secs(self.options.token_ttl)),
            api_faults: ApiFaults::new(&tenant.options, self.options.enforce_limits),
            calls: control::Calls::default(),
            enforce_window: self.options.enforce_window,
            visible: AtomicU64::new(tenant.backlog_records()),
            asked_beyond: AtomicU64::new(0),
            truth: Mutex::new(truth),
            tenant,
        });
        let (stopping, stopped) = tokio::sync::watch::channel(false);
        let mut waiting = stopped.clone();
        let router = router(Arc::clone(&state));
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(async move {
            let _ = waiting.wait_for(|&stop| stop).await;
        });
        let both = async {
            tokio::try_join!(
                async { serving.await.context("serve") },
                send_at_rate(state, self.options.rate, stopped),
            )
        };
        tokio::pin!(both);
        tokio::select! {
            () = stop => {}
            done = &mut both => return done.map(|_| ()),
        }
        let _ = stopping.send(true);
        // A reader with a busy connection must not delay the end.
        match tokio::time::timeout(Duration::from_secs(3), both).await {
            Ok(done) => done.map(|_| ()),
            Err(_) => Ok(()),
        }
    }
}

/// Sends messages at a constant rate until `stopped` changes.
async fn send_at_rate(
    state: Arc<ServerState>,
    rate: f64,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> Result<()> {
    if rate <= 0.0 {
        return Ok(());
    }
    let period = Duration::from_secs_f64((1.0 / rate).clamp(0.05, 60.0));
    let mut ticks = tokio::time::interval(period);
    let start = tokio::time::Instant::now();
    let mut sent = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => return Ok(()),
        }
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        if due > sent {
            let state = Arc::clone(&state);
            tokio::task::spawn_blocking(move || state.send(due - sent)).await??;
            sent = due;
        }
    }
}

fn router(state: Arc<ServerState>) -> Router {
    let cgi = Router::new()
        .route("/gettoken", get(tokens::gettoken))
        .route("/message/getchatdata", post(archive::getchatdata))
        .route("/message/getchatmediadata", post(archive::getchatmediadata))
        .route("/department/list", get(contacts::department_list))
        .route(
            "/department/simplelist",
            get(contacts::department_simplelist),
        )
        .route("/user/list", get(contacts::user_list))
        .route("/user/list_id", post(contacts::user_list_id))
        .route("/user/get", get(contacts::user_get))
        .route(
            "/externalcontact/get_follow_user_list",
            get(customers::get_follow_user_list),
        )
        .route("/externalcontact/list", get(customers::list))
        .route("/externalcontact/get", get(customers::get))
        .route(
            "/externalcontact/batch/get_by_user",
            post(customers::get_by_user),
        )
        .route(
            "/externalcontact/groupchat/list",
            post(customers::groupchat_list),
        )
        .route(
            "/externalcontact/groupchat/get",
            post(customers::groupchat_get),
        )
        .route(
            "/msgaudit/get_permit_user_list",
            post(msgaudit::get_permit_user_list),
        )
        .route("/msgaudit/groupchat/get", post(msgaudit::groupchat_get))
        .route(
            "/msgaudit/check_single_agree",
            post(msgaudit::check_single_agree),
        )
        .route(
            "/msgaudit/check_room_agree",
            post(msgaudit::check_room_agree),
        )
        .route("/msgaudit/get_robot_info", get(msgaudit::get_robot_info));
    Router::new()
        .nest("/cgi-bin", cgi)
        .route("/sim/stats", get(control::stats))
        .route("/sim/append", post(control::append))
        .with_state(state)
}

/// Returns the ready line: one JSON object.
pub fn ready_line(address: SocketAddr, dir: &Path) -> String {
    let config: PathBuf = dir.join("chatledger.toml");
    serde_json::json!({
        "listen": address.to_string(),
        "dir": dir,
        "config": config,
    })
    .to_string()
}
