//! Connections: how many there are, and how long they may take.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

use crate::limits::Limits;
use crate::password::network;

/// Connections at the same time, and of one address or /64 network of IPv6.
const CONNECTIONS: usize = 256;
const OF_ONE_ADDRESS: usize = 96;
/// Largest head of a request, and largest number of its headers.
const HEAD_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;
/// What the system buffers for a client.
const SEND_BUFFER: u32 = 256 << 10;

/// The client's address.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Counts connections.
#[derive(Default)]
pub(crate) struct ConnectionCounters {
    pub(crate) accepted: AtomicU64,
    /// Closed at once, because there were too many.
    pub(crate) refused: AtomicU64,
    /// Open now.
    pub(crate) open: AtomicU64,
}

/// A socket that listens on `address`.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    // Of the sockets that it accepts.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(128)
}

/// Serves until the future is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    counters: Arc<ConnectionCounters>,
    limits: Limits,
) {
    let all = Arc::new(Semaphore::new(CONNECTIONS));
    let addresses = Arc::<Mutex<HashMap<IpAddr, usize>>>::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client is gone already, or there are no more file descriptors.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        let peer = peer.ip().to_canonical();
        let permits =
            (all.clone().try_acquire_owned().ok()).zip(Place::take(&addresses, network(peer)));
        let Some(permits) = permits else {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let service = TowerToHyperService::new(router.clone().layer(Extension(Peer(peer))));
        let counters = counters.clone();
        tokio::spawn(async move {
            let _permits = permits;
            counters.open.fetch_add(1, Ordering::Relaxed);
            let _ = stream.set_nodelay(true);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEADERS)
                .serve_connection(TokioIo::new(Patient::new(stream, limits.write)), service);
            // The client broke off, or was too slow.
            let _ = connection.await;
            counters.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// The place of a connection among those of its address.
struct Place {
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Place {
    fn take(addresses: &Arc<Mutex<HashMap<IpAddr, usize>>>, address: IpAddr) -> Option<Self> {
        let mut counts = addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= OF_ONE_ADDRESS {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self {
            addresses: addresses.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// A stream whose writes fail if the other side takes nothing for `patience`.
struct Patient {
    stream: TcpStream,
    /// When the write that waits has waited for long enough.
    deadline: Pin<Box<Sleep>>,
    waits: bool,
    patience: Duration,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            deadline: Box::pin(tokio::time::sleep(patience)),
            waits: false,
            patience,
        }
    }

    fn limit<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waits = false;
            return result;
        }
        if !self.waits {
            self.waits = true;
            let until = Instant::now() + self.patience;
            self.deadline.as_mut().reset(until);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limit(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.limit(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{Read, Write};

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::stream;

    use super::*;

    /// If this fails, one machine with IPv6 takes all connections, as it has as many addresses as it likes.
    #[test]
    fn addresses_of_one_network_share_their_places() {
        let addresses = Arc::default();
        let take = |i: usize, net: &str| {
            let address: IpAddr = format!("2001:db8:0:{net}::{i:x}").parse().unwrap();
            Place::take(&addresses, network(address))
        };
        let places: Vec<_> = (1..=OF_ONE_ADDRESS)
            .map(|i| take(i, "1").unwrap())
            .collect();
        assert!(take(0xffff, "1").is_none());
        assert!(take(1, "2").is_some());
        drop(places);
        assert!(take(0xffff, "1").is_some());
    }

    /// If this fails, clients that take nothing keep their connections, and the server has none left.
    #[test]
    fn a_client_that_takes_nothing_or_sends_nothing_is_disconnected() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let short = Duration::from_millis(200);
        let limits = Limits {
            head: short,
            body: short,
            write: short,
        };
        let endless = || async {
            let chunks = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![0; 1 << 20])));
            Body::from_stream(chunks)
        };
        let router = Router::new().route("/", get(endless));
        let counters = Arc::<ConnectionCounters>::default();
        let listener = runtime.block_on(async { listen(([127, 0, 0, 1], 0).into()).unwrap() });
        let address = listener.local_addr().unwrap();
        let mut silent = std::net::TcpStream::connect(address).unwrap();
        let mut slow = std::net::TcpStream::connect(address).unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut many = vec![];
        for _ in 0..OF_ONE_ADDRESS {
            many.push(std::net::TcpStream::connect(address).unwrap());
        }
        runtime.block_on(async {
            let serve = serve(listener, router, counters.clone(), limits);
            let _ = tokio::time::timeout(Duration::from_secs(2), serve).await;
            tokio::time::sleep(short).await;
        });
        assert_eq!(counters.open.load(Ordering::Relaxed), 0);
        assert_eq!(
            counters.accepted.load(Ordering::Relaxed),
            OF_ONE_ADDRESS as u64 + 2
        );
        assert_eq!(counters.refused.load(Ordering::Relaxed), 2);
        // Not with an answer: it has sent no request.
        assert_eq!(silent.read(&mut [0; 10]).unwrap(), 0);
        let mut taken = 0;
        while let Ok(n @ 1..) = slow.read(&mut [0; 65536]) {
            taken += n;
        }
        assert!(taken > 0);
    }
}
