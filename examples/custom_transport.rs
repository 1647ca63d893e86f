//! A transport of one's own in one screen: frames over plain UDP.
//!
//! The port moves frames and promises nothing: they may be lost, doubled or overtaken, and anybody may send
//! some. It is secure all the same, because the library runs its own session on every link that a transport has
//! not proven: mutually authenticated, encrypted, retransmitted. `cargo run --release --example custom_transport` lets two
//! nodes meet over it on loopback.

use std::time::Duration;

use anabranch::{Arrival, ChannelSpec, Coordinator, Cursor, MemoryStore, PeerAddr};

use self::udp::UdpPort;

/// The port: what the README shows.
mod udp {
    use std::collections::{BTreeMap, VecDeque};
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use anabranch::{LinkId, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, SendError};
    use bytes::Bytes;
    use tokio::net::UdpSocket;
    use tokio::sync::Notify;

    /// Fits every path of the internet unfragmented.
    const MAX_FRAME: usize = 1200;

    pub(crate) struct UdpPort {
        socket: UdpSocket,
        state: Mutex<State>,
        news: Notify,
    }

    #[derive(Default)]
    struct State {
        opened: u64,
        links: BTreeMap<LinkId, SocketAddr>,
        events: VecDeque<PortEvent>,
        closed: bool,
    }

    impl UdpPort {
        pub(crate) async fn bind(address: &str) -> std::io::Result<Self> {
            let socket = UdpSocket::bind(address).await?;
            socket.writable().await?;
            Ok(Self { socket, state: Mutex::default(), news: Notify::new() })
        }

        pub(crate) fn address(&self) -> std::io::Result<PeerAddr> {
            Ok(self.socket.local_addr()?.to_string().into())
        }

        fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
            work(&mut self.state.lock().expect("nothing in here panics"))
        }
    }

    impl State {
        /// One link per remote address. How many may be open unproven, the library bounds.
        fn link_to(&mut self, address: SocketAddr, dialed: bool) -> LinkId {
            if let Some((link, _)) = self.links.iter().find(|(_, known)| **known == address) {
                return *link;
            }
            let link = LinkId(self.opened);
            self.opened += 1;
            self.links.insert(link, address);
            self.events.push_back(PortEvent::Up { link, proven: None, dialed });
            link
        }
    }

    #[async_trait::async_trait]
    impl MessagePort for UdpPort {
        fn profile(&self) -> PortProfile {
            PortProfile::unauthenticated(MAX_FRAME)
        }

        fn try_send(&self, to: LinkId, frame: Bytes, _: Priority) -> Result<(), SendError> {
            if frame.len() > MAX_FRAME {
                return Err(SendError::TooLarge);
            }
            let link = |state: &mut State| (state.closed, state.links.get(&to).copied());
            match self.with(link) {
                (true, _) => Err(SendError::Closed),
                (_, None) => Err(SendError::LinkDown),
                (_, Some(address)) => {
                    // What the system has no room for is lost, as it may be on the way: the session sends it again.
                    let _ = self.socket.try_send_to(&frame, address);
                    Ok(())
                }
            }
        }

        async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
            let to = address.as_str().parse().map_err(|_| PortError::BadAddress(address.clone()))?;
            let link = self.with(|state| (!state.closed).then(|| state.link_to(to, true)));
            self.news.notify_one();
            link.ok_or(PortError::Closed)
        }

        async fn recv(&self) -> Result<PortEvent, PortError> {
            let mut buffer = [0; MAX_FRAME + 1];
            loop {
                match self.with(|state| (state.closed, state.events.pop_front())) {
                    (true, _) => return Err(PortError::Closed),
                    (_, Some(event)) => return Ok(event),
                    (_, None) => {}
                }
                tokio::select! {
                    biased;
                    () = self.news.notified() => {}
                    arrived = self.socket.recv_from(&mut buffer) => match arrived {
                        // Longer than any of our frames, or the echo of one that found nobody.
                        Ok((len, _)) if len > MAX_FRAME => {}
                        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                        Err(error) => return Err(PortError::Failed(error.to_string().into())),
                        Ok((len, from)) => self.with(|state| {
                            let (link, frame) = (state.link_to(from, false), Bytes::copy_from_slice(&buffer[..len]));
                            state.events.push_back(PortEvent::Frame { link, frame });
                        }),
                    },
                }
            }
        }

        fn disconnect(&self, link: LinkId) {
            self.with(|state| {
                if state.links.remove(&link).is_some() {
                    state.events.push_back(PortEvent::Down { link, reason: "dropped".into() });
                }
            });
            self.news.notify_one();
        }

        async fn close(&self) {
            self.with(|state| (state.closed, state.links) = (true, BTreeMap::new()));
            self.news.notify_one();
        }
    }
}

/// How long the entries may take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn node() -> Result<(Coordinator, PeerAddr), Box<dyn std::error::Error>> {
    let port = UdpPort::bind("127.0.0.1:0").await?;
    let address = port.address()?;
    Ok((Coordinator::builder(MemoryStore::ephemeral()?).port(port).start().await?, address))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ((ana, _), (ben, address)) = (node().await?, node().await?);
    let spec = ChannelSpec::secret("field notes", b"known to both")?;
    let (on_ana, on_ben) = (ana.channel(spec.clone()).await?, ben.channel(spec).await?);
    on_ana.add_member(ben.node()).await?;
    on_ben.add_member(ana.node()).await?;
    let written = on_ana.stream("sightings").await?;
    for bird in ["heron", "kingfisher", "bittern"] {
        written.append(bird).await?;
    }
    // Many datagrams long: the session cuts it up and puts it together again.
    written.append(vec![b'.'; 100_000]).await?;

    let met = ana.meet(address).await?;
    println!("{} met {} over UDP", ana.node().short(), met.short());
    let mut feed = on_ben.stream("sightings").await?.subscribe(Cursor::START);
    for _ in 0..written.len() {
        let arrival = tokio::time::timeout(PATIENCE, feed.next()).await?.ok_or("the stream ended")??;
        if let Arrival::Entry { entry, .. } = arrival {
            let (shown, len) = (String::from_utf8_lossy(entry.payload()), entry.payload().len());
            println!("  {:>2} {shown:.12} ({len} bytes)", entry.sequence());
        }
    }
    let sent = ana.metrics().bytes_sent;
    println!("both hold the same {} entries; {sent} bytes in frames went one way", written.len());
    ana.close().await?;
    ben.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_converge_over_plain_udp() {
        main().unwrap();
    }

    /// The README shows the code of the module `udp`, less its indentation, and public.
    #[test]
    fn the_readme_shows_this_transport() {
        let (_, code) = include_str!("custom_transport.rs").split_once("mod udp {\n").expect("the module");
        let (code, _) = code.split_once("\n}\n\n/// How long").expect("what follows the module");
        let lines: Vec<&str> = code.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
        assert!(include_str!("../README.md").contains(&lines.join("\n").replace("pub(crate)", "pub")));
    }
}
