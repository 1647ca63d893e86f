//! The nodes: started, killed, revived, and asked whom they see.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch::{
    Identity, Incarnation, Liveness, LivenessEvent, LivenessEvents, LivenessHandle, Metadata, NodeId,
    NodeStatus, SystemTimer, TimerPort as _,
};
use anabranch_tcp::{TcpError, TcpPort};
use futures::{FutureExt as _, StreamExt as _};

/// Attempts to listen again where a killed node listened a moment ago.
const LISTEN_TRIES: u32 = 40;
/// Time between two of them.
const LISTEN_PAUSE: Duration = Duration::from_millis(50);
/// Changes that are remembered.
const NEWS: usize = 8;

/// What one node holds another for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Itself.
    Own,
    /// The observer is dead.
    Dead,
    /// What it sees.
    Sees(NodeStatus),
}

/// One node, alive or not.
struct Place {
    identity: Identity,
    /// Stays the same over all its lives.
    address: String,
    /// As a real node would on disk.
    kept: Arc<Mutex<Incarnation>>,
    running: Option<(LivenessHandle, LivenessEvents)>,
}

/// All of them.
pub(crate) struct Cluster {
    places: Vec<Place>,
    timer: SystemTimer,
    news: VecDeque<String>,
}

impl Cluster {
    /// Starts nodes that were told nothing but each other's addresses.
    pub(crate) async fn start(nodes: u8) -> Result<Self, Box<dyn std::error::Error>> {
        let mut cluster = Self { places: Vec::new(), timer: SystemTimer::new(), news: VecDeque::new() };
        let mut ports = Vec::new();
        for number in 0..nodes {
            let port = listen("127.0.0.1:0").await?;
            let address = port.local_addr().ok_or("the port does not listen")?.to_string();
            // A demonstration: real nodes draw their secret and keep it.
            let identity = Identity::from_secret([number + 1; 32]);
            cluster.places.push(Place { identity, address, kept: Arc::default(), running: None });
            ports.push(port);
        }
        for (number, port) in ports.into_iter().enumerate() {
            cluster.begin_life(number, port)?;
        }
        Ok(cluster)
    }

    fn begin_life(&mut self, number: usize, port: TcpPort) -> Result<(), Box<dyn std::error::Error>> {
        let seeds: Vec<String> = self.places.iter().map(|place| place.address.clone()).collect();
        let place = &mut self.places[number];
        let (last, kept) = (*place.kept.lock().unwrap_or_else(PoisonError::into_inner), place.kept.clone());
        let handle = Liveness::builder(place.identity.clone())
            .advertise(place.address.as_str())
            .metadata(Metadata::default().name(&number.to_string()))
            .incarnation(last)
            .keep(move |incarnation| {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = incarnation;
                Ok(())
            })
            .join(seeds)
            .spawn(port)?;
        let events = handle.events();
        place.running = Some((handle, events));
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.timer.now().as_nanos()).as_secs_f64()
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.timer.sleep_until(self.timer.now() + time).await;
    }

    /// Ends a node without a word, as a process that dies: its sockets close, nobody is told.
    pub(crate) fn kill(&mut self, number: usize) {
        self.places[number].running = None;
    }

    /// Brings a node back where it was, with the incarnation that it kept.
    pub(crate) async fn revive(&mut self, number: usize) -> Result<(), Box<dyn std::error::Error>> {
        let mut tries = 0;
        let port = loop {
            match listen(&self.places[number].address).await {
                // Its former life is still closing its sockets.
                Err(_) if tries < LISTEN_TRIES => {
                    tries += 1;
                    self.sleep(LISTEN_PAUSE).await;
                }
                port => break port?,
            }
        };
        self.begin_life(number, port)
    }

    /// Kills it if it lives, else revives it. A number beyond the nodes changes nothing.
    pub(crate) async fn toggle(&mut self, number: usize) -> Result<(), Box<dyn std::error::Error>> {
        match self.places.get(number).map(|place| place.running.is_some()) {
            Some(true) => self.kill(number),
            Some(false) => self.revive(number).await?,
            None => {}
        }
        Ok(())
    }

    /// Whom each node sees, by observer.
    pub(crate) async fn view(&self) -> Vec<Vec<Cell>> {
        let mut rows = Vec::new();
        for (number, place) in self.places.iter().enumerate() {
            let members = match &place.running {
                Some((handle, _)) => handle.members().await.ok(),
                None => None,
            };
            let cell = |other: usize| match &members {
                None => Cell::Dead,
                Some(_) if other == number => Cell::Own,
                Some(members) => {
                    let node = self.places[other].identity.node();
                    let seen = members.iter().find(|member| member.node == node);
                    Cell::Sees(seen.map(|member| member.status).into())
                }
            };
            rows.push((0..self.len()).map(cell).collect());
        }
        rows
    }

    /// Whether all who live hold all who live for online, and all others for failed.
    pub(crate) async fn all_know(&self) -> bool {
        let lives = |number: usize| self.places[number].running.is_some();
        self.view().await.iter().all(|row| {
            row.iter().enumerate().all(|(other, cell)| match cell {
                Cell::Sees(status) if lives(other) => *status == NodeStatus::Online,
                Cell::Sees(status) => *status == NodeStatus::Failed,
                Cell::Own | Cell::Dead => true,
            })
        })
    }

    /// Messages sent by all who live.
    pub(crate) async fn messages(&self) -> u64 {
        let mut messages = 0;
        for (handle, _) in self.places.iter().filter_map(|place| place.running.as_ref()) {
            messages += handle.stats().await.map_or(0, |stats| stats.sent_messages);
        }
        messages
    }

    /// The latest changes of status, newest last.
    pub(crate) fn news(&mut self) -> &VecDeque<String> {
        let nodes: Vec<NodeId> = self.places.iter().map(|place| place.identity.node()).collect();
        let seconds = self.seconds();
        for (observer, place) in self.places.iter_mut().enumerate() {
            let Some((_, events)) = &mut place.running else { continue };
            while let Some(Some(event)) = events.next().now_or_never() {
                if let LivenessEvent::Status { node, old, new, .. } = event
                    && let Some(other) = nodes.iter().position(|known| *known == node)
                {
                    let (old, new) = (NodeStatus::from(old), NodeStatus::from(new));
                    self.news.push_back(format!("{seconds:7.1} s   {observer} sees {other}: {old} -> {new}"));
                }
            }
        }
        self.news.drain(..self.news.len().saturating_sub(NEWS));
        &self.news
    }
}

async fn listen(address: &str) -> Result<TcpPort, TcpError> {
    // Liveness dials whom it needs: the port need not dial lost links again by itself.
    TcpPort::options().no_redial().bind(address).await
}
