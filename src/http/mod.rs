//! Health over HTTP: `/healthz`, `/livez`, `/metrics`.
//!
//! On a thread with a small runtime of its own, so that `/livez` answers even if the main one is
//! stuck. Connections are bounded in number and time: a thousand half-open ones cost the oldest
//! their place. Must not change anything.

mod pages;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::health::Health;

/// How long a request's head, and the whole exchange, may take.
const HEAD: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(15);
/// Connections at one time; one more ends the oldest.
const CONNECTIONS: usize = 256;
/// How large a request's head may be, in bytes and in fields.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_FIELDS: usize = 64;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be had.
    #[error("cannot listen on {addr} (HTTP_ADDR); choose another, or none")]
    Bind {
        /// As configured.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the pages need to ask others.
pub struct Sources {
    /// The board.
    pub health: Arc<Health>,
    /// Whether Redis answers in time; else a sentence. `None` where none is configured.
    pub redis: Option<Box<dyn Fn(Duration) -> Answer + Send + Sync>>,
    /// Whether the ledger's last write succeeded and a new one is taken in time; else a sentence.
    pub ledger: Box<dyn Fn(Duration) -> Answer + Send + Sync>,
    /// Jobs waiting in the ledger, and log lines dropped.
    pub counts: Box<dyn Fn() -> (u64, u64) + Send + Sync>,
}

/// An answer in time.
pub type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Begins to listen; returns the address, which matters for port 0.
pub fn serve(addr: SocketAddr, sources: Sources) -> Result<SocketAddr, HttpError> {
    let bind = |source| HttpError::Bind { addr, source };
    let listener = std::net::TcpListener::bind(addr).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(bind)?;
    std::thread::Builder::new()
        .name("http".into())
        .spawn(move || {
            // Ends with the process: health is told to the last.
            if let Err(error) = runtime.block_on(accept(listener, Arc::new(sources))) {
                tracing::error!(event = "http_failed", error = %error, "no more health over HTTP");
            }
        })
        .map_err(bind)?;
    Ok(bound)
}

async fn accept(listener: std::net::TcpListener, sources: Arc<Sources>) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: wait for some to come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let sources = Arc::clone(&sources);
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(async move {
            let service = service_fn(|request| {
                let sources = Arc::clone(&sources);
                async move { Ok::<_, Infallible>(pages::answer(&request, &sources).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEAD_FIELDS)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away or dawdles is its own affair.
            let _ = tokio::time::timeout(WHOLE, connection).await;
        }));
    }
}

type Page = hyper::Response<Full<Bytes>>;
