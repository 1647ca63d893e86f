//! TCP transport of anabranch: [`TcpPort`], a [`MessagePort`](anabranch::application::ports::MessagePort) over
//! sockets of the operating system.
//!
//! Use it wherever nodes reach one another by address: a local network, a relay, one machine. It moves frames
//! and proves nobody's identity: the library runs its own encrypted session on each link. It never resends a
//! frame by itself: what was under way when a connection broke is lost, and the library syncs again from what
//! the other side holds.
//!
//! ```
//! use anabranch::application::ports::{MessagePort, PortEvent, Priority};
//! use anabranch_tcp::TcpPort;
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let server = TcpPort::bind("127.0.0.1:0").await?;
//! let client = TcpPort::dial_only();
//! let address = server.local_addr().expect("it listens").to_string().into();
//! let link = client.connect(&address).await?;
//! client.try_send(link, "hello".into(), Priority::Normal).expect("an empty queue has room");
//! let Ok(PortEvent::Up { link, .. }) = server.recv().await else { panic!("no link") };
//! assert_eq!(server.recv().await?, PortEvent::Frame { link, frame: "hello".into() });
//! client.close().await;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # On the wire
//! Each frame is its length as an unsigned 32-bit little-endian integer, then its bytes. Nothing else is sent.
//! A length above the limit ends the connection before anything is allocated for it.
//!
//! # Half-open connections
//! A peer whose machine or network vanished without a word is noticed after
//! [`TcpOptions::dead_after`]: while idle by TCP keepalive, with unacknowledged data by the user timeout
//! (RFC 5482; Linux, Android and some others, elsewhere by the system's own retransmission limit). On Linux the
//! user timeout also ends a connection whose other end reads nothing at all for that long. Not noticed here: a
//! process that hangs while its kernel still acknowledges keepalives. The library's own probes see that.

mod framing;
mod link;
mod options;
mod port;
mod redial;
mod tasks;

pub use options::TcpOptions;
pub use port::{TcpError, TcpPort, TcpStats};
