//! Reading a stream: parts of it, following it, and going on where one stopped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use anabranch::{
    Arrival, Cursor, EntryHash, EntryId, EventStream, LogEntry, MemoryNetwork, Query, ReadError, Subscription,
};
use common::{Device, PATIENCE, agree, all, devices, share, text, texts, write};
use futures::{FutureExt as _, StreamExt as _};
use tokio::task::JoinSet;

async fn next(feed: &mut Subscription) -> (LogEntry, bool) {
    match tokio::time::timeout(PATIENCE, feed.next()).await.expect("an arrival in time") {
        Some(Ok(Arrival::Entry { entry, late })) => (entry, late),
        other => panic!("no entry: {other:?}"),
    }
}

async fn take(feed: &mut Subscription, count: usize) -> Vec<LogEntry> {
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(next(feed).await.0);
    }
    entries
}

async fn read(stream: &EventStream, query: Query) -> Vec<LogEntry> {
    stream.entries(query).collect().await.unwrap()
}

/// A stream that two authors wrote: 40 entries each.
async fn two_authors(network: &MemoryNetwork) -> ([Device; 2], Vec<EventStream>) {
    let devices = devices(network, ["ana", "ben"]).await;
    let streams = share(&devices.each_ref()).await;
    for n in 0..40 {
        streams[0].append(format!("a{n}")).await.unwrap();
        streams[1].append(format!("b{n}")).await.unwrap();
    }
    devices[0].meet_device(&devices[1]).await;
    agree(&streams).await;
    (devices, streams)
}

#[tokio::test]
async fn parts_of_a_stream_are_the_parts_of_the_whole() {
    let network = MemoryNetwork::new();
    let ([ana, ben], streams) = two_authors(&network).await;
    let stream = &streams[0];
    let whole = all(stream).await;
    assert_eq!((whole.len(), stream.len(), stream.is_empty()), (80, 80, false));
    let by_ben: Vec<LogEntry> = whole.iter().filter(|entry| entry.author() == ben.node()).cloned().collect();
    assert_eq!(read(stream, Query::all().by(ben.node())).await, by_ben);
    assert_eq!(read(stream, Query::all().by(ana.node()).sequences(5..=9)).await.len(), 5);
    assert_eq!(texts(&read(stream, Query::all().by(ben.node()).sequences(39..)).await), ["b38", "b39"]);
    assert_eq!(read(stream, Query::all().sequences(..3)).await.len(), 4);
    assert_eq!(read(stream, Query::all().sequences(41..)).await, []);
    assert_eq!(read(stream, Query::all().newest(7)).await, whole[73..]);
    assert_eq!(read(stream, Query::all().newest(0)).await, []);
    assert_eq!(read(stream, Query::all().newest(1000)).await, whole);
    let backward: Vec<LogEntry> = whole.iter().rev().cloned().collect();
    assert_eq!(read(stream, Query::all().backward()).await, backward);
    assert_eq!(read(stream, Query::all().backward().newest(3)).await, backward[..3]);
    let newest_by_ben = read(stream, Query::all().by(ben.node()).newest(2).backward()).await;
    assert_eq!(texts(&newest_by_ben), ["b39", "b38"]);
    assert_eq!(read(stream, Query::all().by(anabranch::NodeId::from_bytes([1; 32]))).await, []);
}

#[tokio::test]
async fn entries_since_a_cursor_are_those_that_came_after_it() {
    let network = MemoryNetwork::new();
    let (_devices, streams) = two_authors(&network).await;
    let cursor = streams[0].version();
    assert_eq!(read(&streams[0], Query::all().since(cursor.clone())).await, []);
    write(&streams[1], "later", 5).await;
    agree(&streams).await;
    let later = texts(&read(&streams[0], Query::all().since(cursor.clone())).await);
    assert_eq!(later, ["later0", "later1", "later2", "later3", "later4"]);
    assert_eq!(read(&streams[0], Query::all().since(Cursor::START)).await.len(), 85);
    // A cursor means the same on every device that holds as much.
    assert_eq!(texts(&read(&streams[1], Query::all().since(cursor)).await), later);
}

#[tokio::test]
async fn a_reader_sees_the_stream_as_of_its_start_however_slowly_it_reads() {
    let network = MemoryNetwork::new();
    let device = Device::new(&network, "ana").await;
    let stream = device.today([]).await;
    let large: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; 100_000]).collect();
    stream.append_batch(large).await.unwrap();
    let mut slow = stream.entries(Query::all());
    let mut reverse = stream.entries(Query::all().backward());
    assert_eq!(slow.next().await.unwrap().unwrap().payload()[0], 0);
    write(&stream, "later", 10).await;
    assert_eq!(slow.version().tips(&device.node())[0].sequence, 100);
    let mut rest = 0;
    while let Some(entry) = slow.next().await {
        rest += 1;
        assert_eq!(entry.unwrap().sequence(), rest + 1);
    }
    assert_eq!(rest, 99);
    assert_eq!(reverse.next().await.unwrap().unwrap().sequence(), 100);
    assert_eq!(reverse.collect().await.unwrap().len(), 99);
}

#[tokio::test]
async fn an_entry_is_contained_by_its_identity_only() {
    let network = MemoryNetwork::new();
    let ([ana, _ben], streams) = two_authors(&network).await;
    let id = streams[0].append("mine").await.unwrap();
    assert!(streams[0].contains(&id).await.unwrap());
    agree(&streams).await;
    assert!(streams[1].contains(&id).await.unwrap());
    let other_hash = EntryId { hash: EntryHash::from_bytes([9; 32]), ..id };
    assert!(!streams[0].contains(&other_hash).await.unwrap());
    assert!(!streams[0].contains(&EntryId { sequence: id.sequence + 1, ..id }).await.unwrap());
    assert!(!streams[0].contains(&EntryId { sequence: 0, ..id }).await.unwrap());
    let elsewhere = ana.channel("notes").await.unwrap().stream("other").await.unwrap();
    assert!(!elsewhere.contains(&id).await.unwrap());
    assert!(elsewhere.is_empty() && elsewhere.version().is_empty());
}

#[tokio::test]
async fn a_subscriber_catches_up_in_order_and_then_follows() {
    let network = MemoryNetwork::new();
    let (_devices, streams) = two_authors(&network).await;
    let whole = all(&streams[0]).await;
    let mut feed = streams[0].subscribe(Cursor::START);
    assert_eq!(take(&mut feed, 80).await, whole);
    assert!(feed.next().now_or_never().is_none(), "nothing came and something was handed out");
    streams[0].append("own").await.unwrap();
    let (entry, late) = next(&mut feed).await;
    assert_eq!((text(&entry), late), ("own".to_owned(), false));
    streams[1].append("foreign").await.unwrap();
    assert_eq!(text(&next(&mut feed).await.0), "foreign");
    assert_eq!(feed.cursor(), streams[0].version());
}

#[tokio::test]
async fn i2_what_arrives_late_says_so_and_each_line_comes_without_gaps() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    write(&streams[1], "early", 300).await;
    write(&streams[0], "own", 3).await;
    let mut feed = streams[0].subscribe(Cursor::START);
    assert!(take(&mut feed, 3).await.iter().all(|entry| entry.author() == ana.node()));
    ana.meet_device(&ben).await;
    for n in 0..300 {
        let (entry, late) = next(&mut feed).await;
        assert_eq!((entry.sequence(), late), (n + 1, true), "written before what was handed out already");
    }
    agree(&streams).await;
    streams[1].append("after").await.unwrap();
    let (entry, late) = next(&mut feed).await;
    assert_eq!((text(&entry), late), ("after".to_owned(), false));
}

#[tokio::test]
async fn a_slow_subscriber_loses_nothing() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    let mut feed = streams[1].subscribe(Cursor::START);
    let mut handed_out = Vec::new();
    for round in 0..20 {
        let batch: Vec<String> = (0..100).map(|n| format!("{round}-{n}")).collect();
        streams[0].append_batch(batch).await.unwrap();
        agree(&streams).await;
        // One entry for every hundred that arrive.
        handed_out.push(next(&mut feed).await.0);
    }
    handed_out.extend(take(&mut feed, 1980).await);
    assert_eq!(handed_out, all(&streams[1]).await);
}

#[tokio::test]
async fn a_subscriber_goes_on_from_its_cursor_after_a_restart() {
    let network = MemoryNetwork::new();
    let ([ana, ben], streams) = two_authors(&network).await;
    let mut feed = streams[0].subscribe(Cursor::START);
    let mut seen = take(&mut feed, 33).await;
    let kept = postcard::to_allocvec(&feed.cursor()).unwrap();
    drop(feed);
    let ana = ana.restart().await;
    write(&streams[1], "meanwhile", 3).await;
    ana.meet_device(&ben).await;
    let again = ana.today([ben.node()]).await;
    agree(&[again.clone(), streams[1].clone()]).await;
    let cursor: Cursor = postcard::from_bytes(&kept).unwrap();
    let mut feed = again.subscribe(cursor);
    seen.extend(take(&mut feed, 50).await);
    seen.sort();
    assert_eq!(seen, all(&again).await, "each entry once");
    assert!(feed.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_cursor_of_another_device_serves_here_too() {
    let network = MemoryNetwork::new();
    let (_devices, streams) = two_authors(&network).await;
    let mut feed = streams[0].subscribe(Cursor::START);
    let mut seen = take(&mut feed, 50).await;
    let mut there = streams[1].subscribe(feed.cursor());
    seen.extend(take(&mut there, 30).await);
    assert_eq!(seen, all(&streams[0]).await);
}

#[tokio::test]
async fn a_subscription_ends_when_the_channel_is_removed_or_the_node_is_closed() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    let stream = ana.today([]).await;
    let other = ana.channel("other").await.unwrap().stream("s").await.unwrap();
    write(&stream, "a", 2).await;
    let (mut feed, mut other_feed) = (stream.subscribe(Cursor::START), other.subscribe(Cursor::START));
    take(&mut feed, 2).await;
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { feed.next().await.is_none() });
    assert!(ana.remove_channel(&stream.channel_id()).await.unwrap());
    assert!(tokio::time::timeout(PATIENCE, waiting.join_next()).await.unwrap().unwrap().unwrap());
    waiting.spawn(async move { other_feed.next().await.is_none() });
    ana.close().await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, waiting.join_next()).await.unwrap().unwrap().unwrap());
}

#[tokio::test]
async fn several_subscribers_and_readers_do_not_disturb_each_other() {
    let network = MemoryNetwork::new();
    let (_devices, streams) = two_authors(&network).await;
    let whole = all(&streams[0]).await;
    let mut feeds: Vec<Subscription> = (0..5).map(|_| streams[0].subscribe(Cursor::START)).collect();
    for (at, feed) in feeds.iter_mut().enumerate() {
        assert_eq!(take(feed, at * 10).await, whole[..at * 10]);
    }
    for (at, feed) in feeds.iter_mut().enumerate() {
        assert_eq!(take(feed, 80 - at * 10).await, whole[at * 10..]);
    }
    let paged: Vec<Result<LogEntry, ReadError>> = streams[0].entries(Query::all()).take(3).collect().await;
    assert_eq!(paged.into_iter().map(Result::unwrap).collect::<Vec<_>>(), whole[..3]);
}
