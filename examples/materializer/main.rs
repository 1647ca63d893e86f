//! Three states folded from one stream on two devices that part and meet again: a counter, an ordered list and a
//! map in which the last writer wins.
//!
//! `cargo run --release --example materializer`

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use anabranch::{
    Coordinator, EventStream, FoldError, LogEntry, MemoryNetwork, MemoryStore, StateHandle, StateMaterializer,
};
use bytes::Bytes;

/// What the devices write: `count 3`, `add tea`, `set colour=red`.
enum Action<'a> {
    Count(i64),
    Add(&'a str),
    Set(&'a str, &'a str),
}

impl<'a> Action<'a> {
    fn parse(payload: &'a [u8]) -> Result<Self, FoldError> {
        let text = std::str::from_utf8(payload)?;
        match text.split_once(' ') {
            Some(("count", by)) => Ok(Self::Count(by.parse()?)),
            Some(("add", item)) => Ok(Self::Add(item)),
            Some(("set", pair)) => {
                let (key, value) =
                    pair.split_once('=').ok_or_else(|| FoldError::new("set without a value"))?;
                Ok(Self::Set(key, value))
            }
            _ => Err(FoldError::new("an unknown action")),
        }
    }
}

/// Sums do not care for the order: late entries cost nothing extra.
struct Counter;

impl StateMaterializer for Counter {
    const NAME: &'static str = "counter";
    const VERSION: u32 = 1;
    const COMMUTATIVE: bool = true;
    type State = i64;

    fn initial(&self) -> i64 {
        0
    }

    fn fold(&self, sum: &mut i64, entry: &LogEntry) -> Result<(), FoldError> {
        if let Action::Count(by) = Action::parse(entry.payload())? {
            *sum = sum.wrapping_add(by);
        }
        Ok(())
    }

    // Saved now and then, so that a restart need not fold from the beginning.
    fn save(&self, sum: &i64) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&sum.to_le_bytes()))
    }

    fn load(&self, saved: &[u8]) -> Option<i64> {
        Some(i64::from_le_bytes(saved.try_into().ok()?))
    }
}

/// Items in the order of the stream, the same everywhere.
struct List;

impl StateMaterializer for List {
    const NAME: &'static str = "list";
    const VERSION: u32 = 1;
    type State = Vec<String>;

    fn initial(&self) -> Vec<String> {
        Vec::new()
    }

    fn fold(&self, list: &mut Vec<String>, entry: &LogEntry) -> Result<(), FoldError> {
        if let Action::Add(item) = Action::parse(entry.payload())? {
            list.push(item.to_owned());
        }
        Ok(())
    }
}

/// The stream's order says who was last: overwriting is all it takes.
struct Register;

impl StateMaterializer for Register {
    const NAME: &'static str = "register";
    const VERSION: u32 = 1;
    type State = BTreeMap<String, String>;

    fn initial(&self) -> Self::State {
        BTreeMap::new()
    }

    fn fold(&self, map: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError> {
        if let Action::Set(key, value) = Action::parse(entry.payload())? {
            map.insert(key.to_owned(), value.to_owned());
        }
        Ok(())
    }
}

struct Device {
    name: &'static str,
    node: Coordinator,
    stream: EventStream,
    counter: StateHandle<Counter>,
    list: StateHandle<List>,
    register: StateHandle<Register>,
}

impl Device {
    async fn open(network: &MemoryNetwork, name: &'static str) -> Result<Self, Box<dyn Error>> {
        let node = Coordinator::builder(MemoryStore::ephemeral()?).port(network.port(name)).start().await?;
        let stream = node.channel("household").await?.stream("today").await?;
        let (counter, list) = (stream.materialize(Counter).await?, stream.materialize(List).await?);
        let register = stream.materialize(Register).await?;
        Ok(Self { name, node, stream, counter, list, register })
    }

    async fn states(&self) -> Result<(i64, Vec<String>, BTreeMap<String, String>), Box<dyn Error>> {
        let (sum, list) = (*self.counter.get().await?, self.list.get().await?.to_vec());
        Ok((sum, list, self.register.get().await?.as_ref().clone()))
    }

    async fn show(&self) -> Result<(), Box<dyn Error>> {
        let (sum, list, map) = self.states().await?;
        let refused = self.list.refused();
        println!("  {}: counter {sum}, list {list:?}, map {map:?}, {refused} refused", self.name);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let network = MemoryNetwork::new();
    let (ana, ben) = (Device::open(&network, "ana").await?, Device::open(&network, "ben").await?);
    for (device, other) in [(&ana, &ben), (&ben, &ana)] {
        device.node.channel("household").await?.add_member(other.node.node()).await?;
    }

    println!("apart, each device sees what it wrote itself:");
    for (device, actions) in [
        (&ana, ["add milk", "count 3", "set colour=red", "add tea"]),
        (&ben, ["add bread", "count -1", "set colour=blue", "no such action"]),
    ] {
        for action in actions {
            device.stream.append(action).await?;
        }
        device.show().await?;
    }

    ana.node.meet("ben").await?;
    while ana.stream.version() != ben.stream.version() {
        nap().await;
    }
    println!("together, both see the same:");
    ana.show().await?;
    ben.show().await?;
    if ana.states().await? != ben.states().await? {
        return Err("the states differ".into());
    }
    ana.node.close().await?;
    ben.node.close().await?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a demonstration runs in real time")]
async fn nap() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[cfg(test)]
mod tests {
    use anabranch::testing::materializer::conformance;

    use super::*;

    #[test]
    fn every_state_keeps_what_it_promises() {
        let actions = [
            "count 3",
            "add tea",
            "set colour=red",
            "count -1",
            "set colour=blue",
            "count x",
            "no such action",
        ];
        conformance(&Counter, actions);
        conformance(&List, actions);
        conformance(&Register, actions);
    }
}
