//! A camera's classifier on the local network: a page, an HTTP API, pictures and metrics.
//!
//! ```text
//! camera ─► loop of the caller ─► Live ─► web thread ─► browsers
//!              (classifies)        │─► pictures thread ─► JPEG, while somebody watches
//!                                  '─► classify thread ◄─ images that clients send
//! ```
//!
//! The loop tells [`Live`] its answers and never waits for the server. The server's threads have a lower priority, and
//! images that clients send take the time that the camera leaves.
//!
//! [`ENDPOINTS`] lists what the server offers; `docs/web.md` describes it, and `/api/openapi.json` for programs.

mod access;
mod connections;
mod download;
mod endpoints;
mod error;
mod fault;
mod jobs;
mod limits;
mod live;
mod page;
mod password;
mod pictures;
mod routes;
mod server;
mod settings;
mod teaching;
mod threads;
mod upload;
mod worker;

#[doc(hidden)]
pub use access::fuzz_request;
pub use endpoints::{Caller, ENDPOINTS, Endpoint};
pub use error::WebError;
pub use limits::Limits;
pub use live::{Live, LiveClassifier, LogLevel};
#[doc(hidden)]
pub use password::check_hash;
pub use password::{StoredPassword, set_password, write_password_file};
pub use server::{Server, ServerOptions};
pub use settings::{Keeper, Settings};
#[doc(hidden)]
pub use upload::fuzz_archive;
