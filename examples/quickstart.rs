//! Two devices: one writes while nobody is there, they meet, the other one reads. The quick start of the README.
use anabranch::{Arrival, ChannelSpec, Coordinator, Cursor, MemoryNetwork, MemoryStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let network = MemoryNetwork::new(); // in production: a TCP port, or a transport of your own
    let ana = Coordinator::builder(MemoryStore::ephemeral()?).port(network.port("ana")).start().await?;
    let ben = Coordinator::builder(MemoryStore::ephemeral()?).port(network.port("ben")).start().await?;

    let notes = ChannelSpec::secret("notes", b"correct horse battery staple")?;
    let (on_ana, on_ben) = (ana.channel(notes.clone()).await?, ben.channel(notes).await?);
    on_ana.add_member(ben.node()).await?; // each device decides whom it serves and whom it believes
    on_ben.add_member(ana.node()).await?;

    let today = on_ana.stream("today").await?;
    today.append("buy milk").await?; // in the store when this returns; nobody else is needed

    ana.meet("ben").await?; // who is there gets proven, not typed
    let mut feed = on_ben.stream("today").await?.subscribe(Cursor::START);
    if let Some(Arrival::Entry { entry, .. }) = feed.next().await.transpose()? {
        println!("{} wrote {:?}", entry.author().short(), entry.payload());
    }
    ana.close().await?;
    ben.close().await?; // and now the stores could be opened again
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_this_quick_start() {
        let (_, code) = include_str!("quickstart.rs").split_once("README.\n").expect("the first line");
        let (code, _) = code.split_once("\n#[cfg(test)]").expect("the tests come last");
        assert!(include_str!("../README.md").contains(code.trim()));
    }

    #[test]
    fn the_quick_start_runs() {
        super::main().unwrap();
    }
}
